"""What a ranking and a search show: the best first, intervals, a ceiling, pages; nothing finished is replaced."""

import csv
import json

import numpy as np
import pytest

import condnet
from condnet.cli.validate import main
from condnet.ranking.costs import NetworkCosts
from condnet.ranking.noise import bootstrap_intervals, seed_ceiling

NAME = 'nb201_cond_supernet.cond_glyphs'
TINY = {'calib_batches': 1, 'eval_images': 26}
CALL = ['--checkpoint', NAME, '--calib-batches', '1', '--eval-images', '26', '--results-file']
SPACE = condnet.get_space('nb201')


@pytest.fixture(scope='module')
def table():
    return condnet.load_benchmark('nb201', dataset='glyphs')


def test_ranking_without_truth_shows_the_best_first(tmp_path):
    ranking = condnet.rank(NAME, [1, 2, 6111], benchmark=False, results_file=str(tmp_path / 'r.csv'), **TINY)
    costs = NetworkCosts.of(condnet.load_model(NAME), (1, 16, 16))
    best = ranking.best(3)
    lines = str(ranking).splitlines()[-3:]
    with (tmp_path / 'r_best.csv').open(newline='') as file:
        rows = list(csv.DictReader(file))
    for prediction, line, row in zip(best, lines, rows, strict=True):
        arch = SPACE.parse(prediction.index)
        assert f'{costs(arch).flops:,}' in line and line.endswith(SPACE.format(arch))
        assert (int(row['index']), int(row['flops'])) == (prediction.index, costs(arch).flops)
    assert len(rows) == 3 and 'truth' not in rows[0] and 'intervals' not in ranking.summary
    assert (tmp_path / 'r.png').read_bytes().startswith(b'\x89PNG')
    assert ranking.files == [tmp_path / name for name in ('r.csv', 'r.json', 'r_best.csv', 'r.png')]


def test_figures_have_their_noise(table):
    ranking = condnet.rank(NAME, 5, **TINY)
    truth, accuracy = ranking.table.accuracy, [p.accuracy for p in ranking]
    found = bootstrap_intervals(accuracy, truth)
    assert ranking.summary['intervals']['accuracy'] == {key: list(ends) for key, ends in found.items()}
    assert ranking.summary['ceiling'] == seed_ceiling(ranking.table.seeds)
    assert '95% intervals by accuracy: ' in str(ranking) and 'ceiling: ' in str(ranking)
    assert 'intervals' not in ranking.metrics()
    assert table.seeds.shape[1] > 1 and np.allclose(table.seeds.mean(axis=1), table.accuracy)
    assert np.array_equal(table.select([int(table.indices[3])]).seeds, table.seeds[[3]])


@pytest.mark.slow
def test_a_finished_ranking_is_not_replaced(tmp_path, capsys):
    file = tmp_path / 'r.csv'
    assert main([*CALL, str(file), '--num-archs', '2']) == 0
    before = file.read_bytes()
    assert main([*CALL, str(file), '--num-archs', '2']) == 0 and file.read_bytes() == before
    file.with_suffix('.json').write_text(json.dumps(json.loads(file.with_suffix('.json').read_text())))  # by hand
    for more, what in ((['--num-archs', '3'], 'but of other arch'), (['--num-archs', '2', '--calib-batches', '2'],
                       'with calibration')):  # fmt: skip
        capsys.readouterr()
        assert main([*CALL, str(file), *more]) == 2
        error = capsys.readouterr().err
        assert what in error and 'finished ranking of 2 architectures' in error and '--results-file' in error
    file.with_suffix('.json').unlink()
    assert main([*CALL, str(file), '--num-archs', '2']) == 2 and file.read_bytes() == before


def test_pages(tmp_path, capsys):
    pytest.importorskip('plotly')
    assert main([*CALL, str(tmp_path / 'r.csv'), '--num-archs', '4', '--report']) == 0
    assert str(tmp_path / 'r.html') in capsys.readouterr().out
    page = (tmp_path / 'r.html').read_text()
    best = condnet.rank(NAME, 4, **TINY).best()[0]
    assert SPACE.format(SPACE.parse(best.index)) in page and 'true accuracy' in page and 'calibration.batches' in page
    search = condnet.search(NAME, num_evals=2, output=str(tmp_path / 's'), report=True, benchmark=False, **TINY)
    assert tmp_path / 's' / 'report.html' in search.files
    assert SPACE.format(search.best.arch) in (tmp_path / 's' / 'report.html').read_text()
    assert str(condnet.draw(search.best.arch, 'nb201')) in (tmp_path / 's' / 'report.html').read_text()


def test_a_page_without_its_package_is_refused_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__('sys').modules, 'plotly', None)
    monkeypatch.setattr('condnet.ranking.run.predict', None)
    with pytest.raises(condnet.CondnetError, match='`report` needs the package plotly'):
        condnet.rank(NAME, 2, results_file=str(tmp_path / 'r.csv'), report=True, **TINY)
    with pytest.raises(condnet.CondnetError, match='`report` needs the package plotly'):
        condnet.search(NAME, num_evals=2, output=str(tmp_path / 's'), report=True, **TINY)
    assert list(tmp_path.iterdir()) == []
