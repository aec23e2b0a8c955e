"""Rank means: right values, ties included, and where they are shown."""

import dataclasses
import json

import numpy as np
import pytest

import condnet
from condnet.benchmarks.tables import BenchmarkTable
from condnet.cli.validate import main as validate_main
from condnet.hub.card import ranking_table
from condnet.ranking.mean_ranks import columns_of, mean_ranks, parse_rank_by, read_columns
from condnet.ranking.metrics import ranking_metrics
from condnet.searching.problem import Candidate, Problem, check_select_by, select_by

NAME = 'nb201_cond_supernet.cond_glyphs'
SPACE = condnet.get_space('nb201')


def test_values_by_hand():
    """Equal numbers share the mean of their ranks; of what is to be low, the lowest has the best rank."""
    accuracy, flops = [90.0, 80.0, 90.0, 70.0], [4, 4, 4, 9]  # ranks 3.5 2 3.5 1 and 2 2 2 4
    assert mean_ranks([(accuracy, 1), (flops, 1)]).tolist() == [2.75, 2.0, 2.75, 2.5]
    assert mean_ranks([(accuracy, 1), (flops, -1)]).tolist() == [3.25, 2.5, 3.25, 1.0]
    assert mean_ranks([(accuracy, 1), (flops, 1), ([1, 2, 3, 4], -1)]).tolist() == [9.5 / 3, 7 / 3, 7.5 / 3, 2.0]


def test_names():
    assert parse_rank_by('accuracy, loss,accuracy+flops,loss-latency_ms+params') == [
        'accuracy+flops', 'loss-latency_ms+params',
    ]  # fmt: skip
    assert columns_of('loss-latency_ms+params') == [('loss', -1), ('latency_ms', -1), ('params', 1)]
    for text in ('flops', 'flops+accuracy', 'accuracy+', 'accuracy*flops', 'accuracy flops'):
        with pytest.raises(condnet.CondnetError, match='cannot rank by'):
            parse_rank_by(text)
        with pytest.raises(condnet.CondnetError, match=r'^rank_by is '):
            condnet.RankConfig(rank_by=text)


def make_ranking(**more):
    predictions = [condnet.Prediction(i, accuracy, loss) for i, accuracy, loss in
                   ((0, 10.0, 3.0), (1, 30.0, 1.0), (2, 20.0, 2.0))]  # fmt: skip
    table = BenchmarkTable('nb201', 'cifar10', np.arange(3), np.array([50.0, 60.0, 70.0]), np.array([3, 2, 1]),
                           np.array([1, 2, 9]), 't.csv', '0')  # fmt: skip
    settings = {'model': 'm', 'space': 'nb201/full', 'split': True}
    return condnet.Ranking(predictions, SPACE, table, settings, {}, columns={'flops': [1, 2, 9]}, **more)


def test_shown_beside_the_pure_ones():
    ranking = make_ranking(rank_by=('accuracy+flops', 'loss-flops'))
    metrics = ranking.metrics()
    assert metrics['accuracy+flops'] == ranking_metrics([1.0, 2.5, 2.5], [50, 60, 70])  # ranks 1 3 2 and 1 2 3
    assert metrics['loss-flops'] == ranking_metrics([2.0, 2.5, 1.5], [50, 60, 70])
    assert [p.index for p in ranking.best(3, 'accuracy+flops')] == [1, 2, 0]  # of equals, the higher accuracy
    assert [p.index for p in ranking.best(3, 'loss-flops')] == [1, 0, 2]
    shown = [line.split()[0] for line in str(ranking).splitlines()[2:8]]
    assert shown == ['accuracy', 'loss', 'params', 'flops', 'accuracy+flops', 'loss-flops']
    assert len({len(line) for line in str(ranking).splitlines()[1:8]}) == 1
    assert '| accuracy+flops | 0.82 |' in ranking_table(metrics)
    plain = make_ranking()
    assert plain.metrics() == {key: value for key, value in metrics.items() if key not in ranking.rank_by}
    with pytest.raises(condnet.CondnetError, match='beauty is not known, expected one of flops, accuracy, loss'):
        ranking.best(1, 'accuracy+beauty')


def test_costs_are_known_without_a_table():
    alone = dataclasses.replace(make_ranking(), table=None, columns={}, network_cost=SPACE.cost)
    for name in ('flops', 'params'):  # the architectures 0, 2, 1 cost more and more
        assert alone.mean_ranks(f'loss+{name}').tolist() == [1, 3, 2]
        assert alone.mean_ranks(f'loss-{name}').tolist() == [2, 2, 2]


def test_command(tmp_path, capsys):
    archs = ['1', '5000', '12000']
    table = tmp_path / 'latency.csv'
    rows = [f'{i},{SPACE.format(SPACE.parse(int(i)))},{1.5 * int(i)}\n' for i in archs]
    table.write_text('index,arch_str,phone_latency_ms\n' + ''.join(rows))
    known = condnet.load_benchmark('nb201', dataset='glyphs').indices.tolist()
    call = ['--checkpoint', NAME, '--calib-batches', '1', '--eval-images', '26', '--rank-by']
    result = ['--results-file', str(tmp_path / 'r.csv'), '--archs']
    assert validate_main([*call, 'accuracy,loss+flops', *result, *map(str, known[:3])]) == 0
    assert '\nloss+flops ' in capsys.readouterr().out
    summary = json.loads((tmp_path / 'r.json').read_text())
    assert set(summary['loss+flops']) == set(summary['accuracy']) and 'rank_columns' not in summary
    assert validate_main([*call, 'loss-phone_latency_ms', *result, *map(str, known[:3])]) == 2
    assert 'which is not known; name a table with it by --rank-columns' in capsys.readouterr().err
    more = ['--rank-columns', str(table)]
    assert validate_main([*call, 'loss-phone_latency_ms', *more, *result, *map(str, known[:3])]) == 2
    assert 'latency.csv lacks 3 of 3 architectures' in capsys.readouterr().err


def test_columns(tmp_path):
    table, arch = tmp_path / 'c.csv', SPACE.format(SPACE.parse(7))
    table.write_text(f'arch_str,index,ms,other\n{arch},7,1.5,x\n')
    assert read_columns(table, SPACE, ['ms']) == {'ms': {7: 1.5}}
    bad = {'8,1.5,x': 'another index', '7,nan,x': 'finite', '7,a,x': 'number', f'7,1,x\n{arch},7,1,x': 'twice'}
    for rest, error in bad.items():
        text = f'{arch},{rest}'
        table.write_text(f'arch_str,index,ms,other\n{text}\n')
        with pytest.raises(condnet.CondnetError, match=f'c.csv, line .: .*{error}'):
            read_columns(table, SPACE, ['ms'])
    with pytest.raises(condnet.CondnetError, match='lacks seconds'):
        read_columns(table, SPACE, ['seconds'])


def test_winner_of_a_search():
    """By the rank mean among what was evaluated; equal ones stay in the order of the search."""
    candidates = [Candidate(SPACE.parse(i), {'flops': flops, 'params': 1}, condnet.Prediction(i, accuracy, 1.0))
                  for i, flops, accuracy in ((3, 1, 90.0), (4, 3, 80.0), (5, 2, 70.0))]  # fmt: skip
    assert [c.prediction.index for c in select_by(candidates, 'accuracy+flops')] == [4, 3, 5]  # 2.0 2.5 1.5
    assert [c.prediction.index for c in select_by(candidates, 'accuracy-flops')] == [3, 4, 5]  # 3.0 1.5 1.5
    with pytest.raises(condnet.CondnetError, match='cannot select by loss-latency: latency is not known'):
        check_select_by(Problem(SPACE), 'loss-latency')
    with pytest.raises(condnet.CondnetError, match='expected one'):
        condnet.SearchConfig(select_by='accuracy+flops,loss+flops')
    result = condnet.search(NAME, num_evals=6, select_by='loss+flops', sampler='random', calib_batches=1,
                            eval_images=26)  # fmt: skip
    assert result.candidates == select_by(result.candidates, 'loss+flops')
    assert 'winner by the rank mean loss+flops: ' in str(result) and result.summary['selected_by'] == 'loss+flops'
