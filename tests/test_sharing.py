"""A ranking that is killed, shared or short of disk space gives the files of one to which nothing happened.

Commands run in forked processes, which have everything imported already, and are killed for real.
"""

import multiprocessing
import os
import random
import resource
import signal
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
import timm
import torch
from conftest import write_table

import condnet.cli.validate
import condnet.ranking.run
import condnet.ranking.workers
from condnet.checkpoints.folder import save_model
from condnet.ranking.results import Journal
from condnet.ranking.tree import predict
from condnet.ranking.workers import Team
from condnet.spaces.registry import get_space

pytestmark = pytest.mark.slow

CONVS = map(get_space('nb201').index, get_space('nb201', 'only_conv'))
ARCHS = sorted(CONVS, key=lambda index: index % 40)[:12]  # many of equal truth: they cover each other in the plot
FILES = ['ranking.csv', 'ranking.json', 'ranking.png', 'ranking_best.csv']


@pytest.fixture(scope='module')
def arguments(tiny_data, tmp_path_factory):
    """Flags of a small ranking, all but the name of its results."""
    folder = tmp_path_factory.mktemp('inputs')
    torch.manual_seed(0)
    kwargs = {'space': 'only_conv', 'cells_per_stage': 1, 'channels': (4, 4, 4)}
    save_model(timm.create_model('nb201_cond_supernet', split=True, **kwargs), folder / 'model')
    write_table(folder / 'table.csv', sorted(ARCHS))
    return [
        '--checkpoint', str(folder / 'model'), '--data-dir', str(tiny_data), '--calib-batches', '1', '--eval-images',
        '20', '--benchmark', str(folder / 'table.csv'), '--archs', *map(str, ARCHS), '--results-file',
    ]  # fmt: skip


@pytest.fixture(scope='module')
def reference(arguments, tmp_path_factory):
    """The files of a ranking to which nothing happened; in this process, so that the others have all imported."""
    folder = tmp_path_factory.mktemp('reference')
    assert condnet.cli.validate.main([*arguments, str(folder / 'ranking.csv')]) == 0
    files = contents(folder)
    assert sorted(files) == FILES and files['ranking.csv'].count(b'\n') == 1 + len(ARCHS)
    return files


@pytest.fixture
def quick_loss(monkeypatch):
    """Processes that miss each other soon."""
    monkeypatch.setattr(condnet.ranking.workers, 'BEAT', 0.1)
    monkeypatch.setattr(condnet.ranking.workers, 'SILENCE', 1.2)


def start(arguments, folder, prepare=lambda: None, rank=0, port=None):
    """Start the command in a process of its own, alone or as one of two; its output goes beside its results.

    Args:
        arguments: As the fixture gives them.
        folder: For the results.
        prepare: What the process does first.
        rank: Number of the process.
        port: Where the two meet.
    """
    log = folder.with_suffix(f'.log{rank}')
    team = {'RANK': rank, 'LOCAL_RANK': rank, 'WORLD_SIZE': 2, 'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': port}

    def child():
        sys.stdout = sys.stderr = log.open('w', buffering=1)
        os.dup2(sys.stderr.fileno(), 2)
        if port:
            os.environ.update({name: str(value) for name, value in team.items()})
        prepare()
        sys.exit(condnet.cli.validate.main([*arguments, str(folder / 'ranking.csv')]))

    process = multiprocessing.get_context('fork').Process(target=child, daemon=True)
    process.start()
    return process


def finish(process, seconds=60):
    """Exit status of a process, None if it does not end in time."""
    process.join(seconds)
    exitcode = process.exitcode
    process.kill()
    return exitcode


def run_team(arguments, folder, prepare, seconds=60):
    """Run two processes, `prepare` has what each does first; their exit statuses."""
    port = free_port()
    processes = [start(arguments, folder, prepare[rank], rank, port) for rank in range(2)]
    return [finish(process, seconds) for process in processes]


def free_port():
    with socket.create_server(('127.0.0.1', 0)) as server:
        return server.getsockname()[1]


def contents(folder):
    """The files of a ranking."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def rows(folder):
    """What an unfinished ranking has kept, without a torn row."""
    assert os.listdir(folder) == ['ranking.partial']
    return (folder / 'ranking.partial').read_bytes().split(b'\n')[1:-1]


def last_error(folder, rank=0):
    """The line that a process has ended with; only torch's store may have written something before."""
    *before, last = folder.with_suffix(f'.log{rank}').read_text().splitlines()
    assert last.startswith('condnet-validate: error: ') and 'Traceback' not in ''.join(before)
    assert not before or '[c10d]' in before[0]
    return last


def notes(folder, rank=0):
    """Indices of the architectures that a process has evaluated."""
    path = folder.with_suffix(f'.notes{rank}')
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def noting(folder, rank=0, before=None):
    """Have a process note what it evaluates; `before` has what it does before its first, second, ... prediction."""

    def noting_predict(model, archs, data):
        for prediction in predict(model, archs, data):
            (before or {}).get(len(notes(folder, rank)), lambda: None)()
            with folder.with_suffix(f'.notes{rank}').open('a') as file:
                file.write(f'{prediction.index}\n')
            yield prediction

    def prepare():
        condnet.ranking.run.predict = condnet.ranking.workers.predict = noting_predict

    return prepare


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def wait_until(condition):
    while not condition():
        time.sleep(0.001)


def dying_in_replace(number):
    """Have a process die before it puts its n-th file in place."""
    replace, calls = os.replace, []

    def replace_or_die(*args):
        calls.append(args)
        return die() if len(calls) == number else replace(*args)

    def prepare():
        os.replace = replace_or_die

    return prepare


def limiting(num_bytes):
    """Have a process fail to write more than so much to a file: the system takes a part of it, as of a full disk."""

    def prepare():
        resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, resource.RLIM_INFINITY))

    return prepare


def test_killed_at_random_moments(arguments, reference, tmp_path):
    """Six times on its way, in three of which the row of that moment stays torn, and in the end between the files."""
    generator = random.Random(0)
    folder = tmp_path / 'killed'
    partial = folder / 'ranking.partial'

    def kill_at(size, tear):
        process = start(arguments, folder)
        wait_until(lambda: process.exitcode is not None or (partial.exists() and partial.stat().st_size >= size))
        time.sleep(0 if tear else generator.uniform(0, 0.05))
        process.kill()
        process.join()
        if tear and partial.exists():
            os.truncate(partial, size)
        return process.exitcode == -signal.SIGKILL

    assert kill_at(1, tear=False)
    header = partial.read_bytes().index(b'\n') + 1
    os.truncate(partial, generator.randrange(header))
    whole = header + len(reference['ranking.csv'].split(b'\n', 1)[1])
    moments = sorted(generator.randrange(header, whole) for _ in range(5))
    kills = [kill_at(size, tear=number % 2 == 0) for number, size in enumerate(moments)]
    assert sum(kills) > 2  # one that is not scheduled in time finishes, and the next one starts again
    for number in (1, 2, 3):
        assert finish(start(arguments, folder, dying_in_replace(number))) == -signal.SIGKILL
    assert finish(start(arguments, folder)) == 0
    assert contents(folder) == reference


def test_full_disk(arguments, reference, tmp_path):
    """In the first line, in a row, and in the plot."""
    folder = tmp_path / 'full'
    assert finish(start(arguments, folder, limiting(500))) == 2
    assert 'cannot write' in last_error(folder) and 'ranking.partial' in last_error(folder) and rows(folder) == []
    assert (folder / 'ranking.partial').stat().st_size == 500
    assert finish(start(arguments, folder, limiting(1000))) == 2
    assert 'File too large; what was computed is kept' in last_error(folder)
    kept = rows(folder)
    assert 0 < len(kept) < len(ARCHS) and (folder / 'ranking.partial').stat().st_size == 1000
    assert finish(start(arguments, folder, limiting(10_000))) == 2
    assert last_error(folder).endswith(f"File too large: '{folder / 'ranking.png'}'")
    assert set(contents(folder)) == {'ranking.csv', 'ranking.json', 'ranking.partial', 'ranking_best.csv'}
    assert finish(start(arguments, folder)) == 0
    assert contents(folder) == reference


def test_file_in_use(arguments, tmp_path):
    folder = tmp_path / 'used'
    journal = Journal(folder / 'ranking.partial', {})
    before = contents(folder)
    assert finish(start(arguments, folder)) == 2
    assert 'ranking.partial is in use by another process' in last_error(folder)
    assert contents(folder) == before
    journal.remove()


def test_two_processes_give_the_files_of_one(arguments, reference, tmp_path, quick_loss):
    """Architectures in another order, and one of the processes is slow, which is not to be lost."""
    folder = tmp_path / 'team'
    index = arguments.index('--archs') + 1
    arguments = [*arguments[:index], *map(str, reversed(ARCHS)), '--results-file']
    leader = noting(folder, 0, {0: lambda: wait_until(lambda: len(notes(folder, 1)) > 1)})
    helper = noting(folder, 1, {2: lambda: time.sleep(condnet.ranking.workers.SILENCE + 0.5)})
    assert run_team(arguments, folder, [leader, helper]) == [0, 0]
    assert contents(folder) == reference
    assert notes(folder, 0) and len(notes(folder, 1)) > 2
    assert len(notes(folder, 0) + notes(folder, 1)) == len(ARCHS)  # nothing twice
    assert folder.with_suffix('.log1').read_text() == ''


def test_helper_is_killed(arguments, reference, tmp_path, quick_loss):
    """The leading process says so in time; what was computed is not computed again."""
    folder = tmp_path / 'team'
    leader = noting(folder, 0, {0: lambda: wait_until(lambda: len(notes(folder, 1)) == 2)})
    helper = noting(folder, 1, {2: die})
    assert run_team(arguments, folder, [leader, helper], seconds=20) == [2, -signal.SIGKILL]
    assert 'rank 1 has been silent for' in last_error(folder)
    kept = {int(row.split(b',')[0]) for row in rows(folder)}
    assert kept == {*notes(folder, 0), *notes(folder, 1)} and 2 < len(kept) < len(ARCHS)
    assert finish(start(arguments, folder, noting(folder, 2))) == 0
    assert len(notes(folder, 2)) == len(ARCHS) - len(kept) and kept.isdisjoint(notes(folder, 2))
    assert contents(folder) == reference


@pytest.mark.parametrize('full_disk', [False, True])
def test_leader_is_killed_or_fails(arguments, reference, tmp_path, quick_loss, full_disk):
    folder = tmp_path / 'team'
    partial = folder / 'ranking.partial'
    leader = noting(folder, 0, {4: lambda: limiting(partial.stat().st_size + 9)() if full_disk else die()})
    helper = noting(folder, 1, {2: lambda: (wait_until(lambda: len(notes(folder, 0)) >= 4), time.sleep(1))})
    statuses = run_team(arguments, folder, [leader, helper], seconds=20)
    assert statuses == [2 if full_disk else -signal.SIGKILL, 2]
    assert 'no contact with the other processes' in last_error(folder, 1)
    assert 4 <= len(rows(folder)) < len(ARCHS)
    assert finish(start(arguments, folder)) == 0
    assert contents(folder) == reference


@pytest.mark.parametrize('rank', [0, 1])
def test_the_other_process_does_not_come(arguments, tmp_path, monkeypatch, rank):
    monkeypatch.setattr(condnet.ranking.workers, 'PATIENCE', timedelta(seconds=0.5))
    assert finish(start(arguments, tmp_path / 'team', rank=rank, port=free_port()), 20) == 2
    assert 'no contact with the other processes' in last_error(tmp_path / 'team', rank)


@pytest.mark.parametrize('what', ['eval_images 10', 'hardware'])
def test_processes_that_rank_something_else_are_refused(arguments, tmp_path, what):
    """With another number of threads they would compute other bits, and the file would say nothing of it."""
    log, lead = (tmp_path / 'team').with_suffix('.log1'), Team.lead

    def lead_without_patience(team, *args):
        wait_until(lambda: 'error' in log.read_text())
        team.store.set_timeout(timedelta(seconds=0.1))  # torchrun would end it at once
        yield from lead(team, *args)

    def first():
        Team.lead = lead_without_patience

    def change():
        if what == 'hardware':
            torch.set_num_threads(torch.get_num_threads() + 1)
        else:
            arguments[-1:-1] = ['--eval-images', '10']  # the last one counts

    assert run_team(arguments, tmp_path / 'team', [first, change], seconds=20) == [2, 2]
    assert 'no contact with the other processes' in last_error(tmp_path / 'team')
    assert f'the process of rank 1 ranks with {what}' in last_error(tmp_path / 'team', 1)


def test_first_process_is_ahead_where_it_matters():
    store, order = torch.distributed.HashStore(), []

    def work(rank):
        with Team(store, rank, 2).first_ahead(True):
            time.sleep(0.3 * (rank == 0))
            order.append(rank)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(work, (1, 0)))
    assert order == [0, 1]
