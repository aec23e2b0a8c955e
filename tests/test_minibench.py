"""The ground truth on glyphs: the table that comes with the package, and the script that made it."""

import csv

import numpy as np
import pytest
import timm
from conftest import FORK
from test_benchmarks import nb201_row, write_nb201

from condnet.benchmarks.registry import find_benchmark
from condnet.benchmarks.tables import load_benchmark
from condnet.spaces.nb201 import NB201_NETWORKS
from condnet.spaces.registry import get_space
from tools import minibench
from tools.minibench import describe, main, make_table, noise_ceiling, read_rows, train_network

SPACE, TABLE = get_space('nb201'), find_benchmark('nb201', 'glyphs').packaged
INDICES = sorted(SPACE.index(arch) for arch in ((0, 0, 0, 1, 0, 0), (1, 0, 0, 4, 0, 2)))  # quick to train


def test_packaged_table_holds_a_uniform_draw():
    rows = read_rows(TABLE, num_seeds=3)
    drawn = SPACE.sample_distinct(128, seed=0)
    assert {row['arch_str'] for row in rows} >= {SPACE.format(arch) for arch in drawn}
    assert [int(row['index']) for row in rows] == sorted(SPACE.index(row['arch_str']) for row in rows)
    table = load_benchmark('nb201', dataset='glyphs')
    means = [np.mean([float(row[f'accuracy_{seed}']) for seed in range(3)]) for row in rows]
    assert table.accuracy.tolist() == pytest.approx(means)
    assert table.indices.tolist() == [int(row['index']) for row in rows]


def test_packaged_table_tells_architectures_apart():
    rows = read_rows(TABLE, num_seeds=3)
    accuracy = [[float(row[f'accuracy_{seed}']) for seed in range(3)] for row in rows]
    assert noise_ceiling(accuracy) > 0.6
    assert all(len({row[f'loss_{seed}'] for seed in range(3)}) == 3 for row in rows)  # no seed was copied


def test_packaged_costs_are_those_of_the_networks():
    table = load_benchmark('nb201', dataset='glyphs')
    for row in (0, 50, 127):
        net = timm.create_model('nb201_net', arch=int(table.indices[row]), **NB201_NETWORKS['glyphs'])
        assert sum(parameter.numel() for parameter in net.parameters()) == table.params[row]
        assert SPACE.cost(int(table.indices[row]), 'glyphs').flops == table.flops[row]


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp('minibench') / 'whole.csv'
    make_table(path, INDICES, num_seeds=2, workers=1, steps=3)
    return path


def test_rows_are_what_training_gives(whole):
    rows = read_rows(whole, num_seeds=2)
    assert [int(row['index']) for row in rows] == INDICES
    assert all(0 <= float(row['accuracy_0']) <= 100 and float(row['loss_0']) > 0 for row in rows)
    assert rows[0]['loss_0'] != rows[0]['loss_1'] and rows[0]['loss_0'] != rows[1]['loss_0']
    assert load_benchmark('nb201', whole, dataset='glyphs').indices.tolist() == INDICES


def test_interrupted_table_is_completed(whole, tmp_path, monkeypatch):
    path = tmp_path / 'deep' / 'part.csv'
    make_table(path, INDICES[1:], num_seeds=2, workers=1, steps=3)
    measured, measure = [], minibench.measure
    monkeypatch.setattr(minibench, 'measure', lambda index, **how: measured.append(index) or measure(index, **how))
    make_table(path, INDICES, num_seeds=2, workers=1, steps=3)
    assert measured == INDICES[:1] and path.read_bytes() == whole.read_bytes()


def test_two_processes_make_the_same_table(whole, tmp_path, monkeypatch):
    monkeypatch.setattr(minibench.multiprocessing, 'get_context', lambda _: FORK)  # they need not import everything
    make_table(tmp_path / 'two.csv', INDICES, num_seeds=2, workers=2, steps=3)
    assert (tmp_path / 'two.csv').read_bytes() == whole.read_bytes()


def test_training_learns():
    images, data = minibench._data()
    assert minibench.accuracy_and_loss(train_network(INDICES[1], 0, images, steps=40), data)[0] > 100 / 26 * 1.5


def test_another_file_is_kept(tmp_path, capsys):
    path = tmp_path / 'other.csv'
    path.write_text('index,accuracy\n1,2\n')
    assert main(['--output', str(path)]) == 2
    assert 'expected index, arch_str, accuracy_0' in capsys.readouterr().err
    assert path.read_text() == 'index,accuracy\n1,2\n'
    assert main(['--output', str(tmp_path / 'new.csv'), '--seeds', '1']) == 2
    assert '--seeds is 1' in capsys.readouterr().err


def fake_row(index, accuracies, losses):
    cost = SPACE.cost(index, 'glyphs')
    row = {'index': str(index), 'arch_str': SPACE.format(index), 'params': str(cost.params), 'flops': str(cost.flops)}
    row |= {f'accuracy_{seed}': str(value) for seed, value in enumerate(accuracies)}
    return row | {f'loss_{seed}': str(value) for seed, value in enumerate(losses)}


def test_description_by_hand(tmp_path, monkeypatch):
    """Seeds agree by accuracy, and disagree by loss; CIFAR-10 agrees about one of three pairs only."""
    by_size = sorted(range(40), key=lambda index: SPACE.cost(index, 'glyphs').params)
    indices = [by_size[0], by_size[20], by_size[39]]
    rows = [fake_row(index, (10 + i, 20 + i), (1 + i, 9 - i)) for i, index in enumerate(indices)]
    cifar10 = [nb201_row(index, cifar10_test_acc=acc) for index, acc in zip(indices, (60, 50, 55), strict=True)]
    write_nb201(tmp_path / 'nas-bench-201.csv', cifar10)
    monkeypatch.setenv('CONDNET_DATA', str(tmp_path))
    figures = describe(rows, num_seeds=2)
    expected = {'ceiling_accuracy': 1, 'ceiling_loss': -1, 'params': 1, 'flops': 1, 'cifar10': -1 / 3}
    assert figures == pytest.approx(expected)
    monkeypatch.setenv('CONDNET_DATA', str(tmp_path / 'nothing'))
    assert 'cifar10' not in describe(rows, num_seeds=2)


BAD_ROWS = {
    'another architecture': ({'index': '3'}, 'line 2: index 3 of .*expected its official index'),
    'another network': ({'params': '129306'}, 'of a glyphs network'),
    'no accuracy': ({'accuracy_1': ''}, 'line 2: could not convert'),
    'no percentage': ({'accuracy_0': '300'}, 'expected a percentage'),
}


@pytest.mark.parametrize('changes, message', BAD_ROWS.values(), ids=BAD_ROWS)
def test_bad_row(tmp_path, changes, message):
    row = fake_row(7, (50, 60), (1, 1)) | changes
    with (tmp_path / 'bad.csv').open('w', newline='') as file:
        writer = csv.DictWriter(file, row)
        writer.writeheader()
        writer.writerow(row)
    with pytest.raises(ValueError, match=message):
        load_benchmark('nb201', tmp_path / 'bad.csv', dataset='glyphs')


def test_noise_ceiling_is_the_mean_over_pairs_of_seeds():
    seeds = [[1, 2, 3, 4], [1, 2, 4, 3], [4, 3, 2, 1]]  # tau: 4 / 6, -1, -4 / 6
    assert noise_ceiling(np.transpose(seeds)) == pytest.approx(-1 / 3)


@pytest.mark.parametrize('results', [[[1, 2]], [[1], [2]], [1, 2], [[1, 2], [1, 3]], [[1, 2], [np.nan, 3]]])
def test_results_without_a_noise_ceiling(results):
    with pytest.raises(ValueError, match='expected'):
        noise_ceiling(results)
