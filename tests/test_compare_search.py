"""What a search on stored predictions reaches, beside random architectures that are trained."""

import sys

import numpy as np
import pytest

from condnet import get_space
from condnet.benchmarks.tables import BenchmarkTable
from condnet.ranking.evaluate import Prediction
from condnet.searching.report import expected_best
from tools import compare_search
from tools.compare_search import Stored, interval, true_accuracies, worth

MACRO = get_space('macro')


def made_up(num: int | None = None, max_flops: float = np.inf) -> Stored:
    """Predictions that see the number of layers only, of a truth that is that number and a little of the index."""
    archs = list(MACRO)[:num]
    costs = [MACRO.cost(arch) for arch in archs]
    truth = np.array([sum(arch) + MACRO.index(arch) / 1e5 for arch in archs])
    table = BenchmarkTable('macro', 'cifar10', np.arange(len(archs)), truth, np.array([cost.params for cost in costs]),
                           np.array([cost.flops for cost in costs]), 'made up', '')  # fmt: skip
    predictions = {i: Prediction(i, 50.0 + sum(arch), 20.0 - sum(arch)) for i, arch in enumerate(archs)}
    return Stored(predictions, table, max_flops)


@pytest.mark.parametrize('sampler', ['nsga2', 'random'])
def test_a_shorter_search_is_the_beginning_of_a_longer_one(sampler):
    stored = made_up(max_flops=60e6)
    found = list(stored.search('accuracy', sampler, [20, 110], 3))
    assert [len(candidates) for candidates in found] == [20, 110]
    assert found[0] == next(stored.search('accuracy', sampler, [20], 3))
    assert found[0] != next(stored.search('accuracy', sampler, [20], 4))
    for candidates in found:
        values = [candidate.value('accuracy') for candidate in candidates]
        assert values == sorted(values, reverse=True)
        assert all(MACRO.cost(candidate.arch).flops <= 60e6 for candidate in candidates)
    assert {c.arch for c in found[0]} < {c.arch for c in found[1]}


@pytest.mark.parametrize('sampler', ['nsga2', 'random'])
def test_of_a_part_of_the_space_only_that_is_searched(sampler):
    stored = made_up(num=300)
    (candidates,) = stored.search('loss', sampler, [40], 1)
    losses = [candidate.value('loss') for candidate in candidates]
    assert len({candidate.arch for candidate in candidates}) == 40 and losses == sorted(losses)
    assert {MACRO.index(candidate.arch) for candidate in candidates} <= set(range(300))


def test_what_the_first_truly_reach():
    stored = made_up(num=300)
    (candidates,) = stored.search('accuracy', 'random', [300], 1)
    truths = stored.table.accuracy
    assert sorted(true_accuracies(stored, candidates, '', 300)) == sorted(truths)
    by_flops = true_accuracies(stored, candidates, 'accuracy+flops', 3)
    assert by_flops != true_accuracies(stored, candidates, '', 3) and len(by_flops) == 3


def test_noise_is_binomial():
    stored = made_up(num=1000)
    noisy = stored.noisy(400, 7).predictions
    noise = [noisy[i].accuracy - stored.predictions[i].accuracy for i in range(1000)]
    expected = np.mean([np.sqrt(p.accuracy * (100 - p.accuracy) / 400) for p in stored.predictions.values()])
    assert np.std(noise) == pytest.approx(expected, rel=0.1) and abs(np.mean(noise)) < expected / 10


def test_figures():
    values = [1.0, 4.0, 2.0, 8.0, 5.0]
    for num in (1, 3, 5):
        assert worth(values, expected_best(values, num)) == ('all' if num == 5 else str(num))
    assert interval(np.array([1.0, 2.0, 3.0])) == '+2.00 (-0.48 to +4.48)'


def test_command_compares_with_random_ones_of_the_same_number(monkeypatch, capsys):
    limits, stored = [], made_up(max_flops=60e6)
    monkeypatch.setattr(Stored, 'read', lambda path, max_flops: limits.append(max_flops) or stored)
    more = [
        '--max-flops',
        '60e6',
        '--num-evals',
        '20',
        '60',
        '--seeds',
        '2',
        '--objectives',
        'loss',
        '--select-by',
        '',
        '--train',
        '3',
    ]
    monkeypatch.setattr(sys, 'argv', ['compare_search', '--predictions', 'x.csv', *more])
    assert compare_search.main() == 0 and limits == [60e6]
    lines = [line.strip('| ').split(' | ') for line in capsys.readouterr().out.splitlines() if line.startswith('|')]
    values = list(stored.truth.values())
    for line, num in zip(lines[2:], (20, 60), strict=True):
        firsts = [true_accuracies(stored, next(stored.search('loss', 'nsga2', [num], seed)), '', 1)[0]
                  for seed in (100, 101)]  # fmt: skip
        assert line[2:4] == [str(num), f'{np.mean(firsts):.2f}'] and len(line) == len(lines[0]) == 9
        assert line[4:6] == [interval(np.array(firsts) - expected_best(values, num)), worth(values, np.mean(firsts))]
