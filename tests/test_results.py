"""The file of an unfinished ranking: what it keeps, drops and refuses."""

import fcntl
import resource

import pytest

from condnet.ranking.evaluate import Prediction
from condnet.ranking.results import Journal

SETTINGS = {'model': 'm', 'seed': 0, 'training': {'epochs': 4, 'rate': 0.025}, 'channels': (8, 8)}
PREDICTIONS = [
    Prediction(3, 10.1, 0.1 + 0.2),
    Prediction(1, 100 / 3, 1e-17),
    Prediction(15624, 0.0, 123456789.12345678),
]


@pytest.fixture
def path(tmp_path):
    """A file with three predictions."""
    path = tmp_path / 'new' / 'ranking.partial'
    write(path, PREDICTIONS)
    return path


def write(path, predictions):
    journal = Journal(path, SETTINGS)
    for prediction in predictions:
        journal.append(prediction)
    assert path.read_text().count('\n') == 1 + len(journal.predictions)  # nothing waits in a buffer
    journal._file.close()


def read(path, settings=SETTINGS):
    journal = Journal(path, settings)
    journal._file.close()
    return journal.predictions


def test_values_come_back_exactly_and_are_continued(path):
    assert read(path) == PREDICTIONS
    more = [Prediction(7, 1 / 7, 2 / 7)]
    write(path, more)
    assert read(path) == PREDICTIONS + more


def test_torn_at_every_byte(path):
    """Whatever is cut off, what is complete stays, and what is added then leaves the file as if nothing had been."""
    content = path.read_bytes()
    for size in range(len(content)):
        path.write_bytes(content[:size])
        kept = read(path)
        assert kept == PREDICTIONS[: max(0, content[:size].count(b'\n') - 1)]
        write(path, PREDICTIONS[len(kept) :])
        assert path.read_bytes() == content


def test_full_disk_takes_a_part_of_a_row(path):
    """The row that does not fit is the one that fails, and the file is continued once there is space."""
    journal = Journal(path, SETTINGS)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 5, limits[1]))
    try:
        with pytest.raises(OSError, match='cannot write .*ranking.partial: File too large; what was computed is kept'):
            journal.append(Prediction(7, 1 / 7, 2 / 7))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes().endswith(b'\n7,0.1') and journal.predictions == PREDICTIONS
    journal._file.close()
    test_values_come_back_exactly_and_are_continued(path)


@pytest.mark.parametrize(('settings', 'message'), [
    ({**SETTINGS, 'seed': 1}, 'with seed 0, not 1'),
    ({**SETTINGS, 'table': 'x'}, "with table None, not 'x'"),
    ({key: SETTINGS[key] for key in SETTINGS if key != 'model'}, "with model 'm', not None"),
    ({**SETTINGS, 'training': {'epochs': 5, 'rate': 0.025}}, "with training {'epochs': 4, 'rate': 0.025}, not"),
])  # fmt: skip
def test_other_settings_are_refused_and_named(path, settings, message):
    before = path.read_bytes()
    with pytest.raises(ValueError, match='holds an unfinished ranking') as error:
        read(path, settings)
    assert message in str(error.value) and 'delete it' in str(error.value)
    assert path.read_bytes() == before


@pytest.mark.parametrize('damage', [
    lambda lines: [lines[0], b'3,10', *lines[2:]],  # torn, and gone on with
    lambda lines: [lines[0], lines[1][:9] + lines[2], *lines[3:]],
    lambda lines: [lines[0], b'\0' * 20, *lines[2:]],
    lambda lines: [lines[0], b'\xff' + lines[1], *lines[2:]],
    lambda lines: [lines[0], b'', *lines[1:]],
    lambda lines: [*lines, lines[1]],  # twice
    lambda lines: [*lines, b'1_0,10.0,2.0'],
    lambda lines: [*lines, '٣,10.0,2.0'.encode()],
    lambda lines: [*lines, b'9,nan,2.0'],
    lambda lines: lines[1:],
    lambda lines: [b'5', *lines[1:]],
    lambda lines: [b'', *lines],
    lambda lines: [b'index,accuracy,loss', *lines[1:]],  # results
])  # fmt: skip
def test_damaged_files_are_refused_and_left_alone(path, damage):
    damaged = b'\n'.join(damage(path.read_bytes().splitlines())) + b'\n'
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match='ranking.partial is not an unfinished ranking, or damaged'):
        read(path)
    assert path.read_bytes() == damaged


def test_other_file_without_a_line_is_left_alone(path):
    path.write_text('a note')
    with pytest.raises(ValueError, match='not an unfinished ranking'):
        read(path)
    assert path.read_text() == 'a note'


def test_one_at_a_time(path):
    journal = Journal(path, SETTINGS)
    with pytest.raises(ValueError, match='ranking.partial is in use by another process'):
        Journal(path, SETTINGS)
    journal.append(Prediction(7, 1.0, 2.0))
    journal.remove()
    assert not path.exists()
    assert read(path) == []


def test_file_system_without_locks(path, monkeypatch):
    def no_locks(*_):
        raise OSError('no locks available')

    monkeypatch.setattr(fcntl, 'flock', no_locks)
    assert read(path) == PREDICTIONS
