"""How much of a figure is noise."""

import numpy as np
import pytest
from scipy import stats

from condnet import CondnetError
from condnet.ranking.metrics import expected_top
from condnet.ranking.noise import bootstrap_intervals, seed_ceiling


def made(num: int, seed: int = 0, ties: bool = True):
    generator = np.random.default_rng(seed)
    truth = generator.normal(size=num)
    predictions = truth + generator.normal(size=num)
    return (predictions.round(1), truth.round(1)) if ties else (predictions, truth)


@pytest.mark.parametrize('ties', [True, False])
def test_intervals_are_percentiles_of_draws_with_replacement(ties):
    """Against the plain way: draw, and let scipy compute Kendall's tau of what was drawn."""
    predictions, truth = made(40, ties=ties)
    order = np.lexsort((truth, -predictions))
    predictions, truth = predictions[order], truth[order]
    draws = np.random.default_rng(5).integers(40, size=(300, 40))
    taus = [stats.kendalltau(predictions[rows], truth[rows]).statistic for rows in draws]
    tops = [expected_top(np.sort(predictions[rows])[::-1], truth[np.sort(rows)], 5) for rows in draws]
    got = bootstrap_intervals(predictions, truth, 300, seed=5)
    assert got['kendall_tau'] == pytest.approx(np.percentile(taus, [2.5, 97.5]), abs=1e-5)
    assert got['top5'] == pytest.approx(np.percentile(tops, [2.5, 97.5]), abs=1e-9)


def test_interval_holds_the_true_value_95_times_of_100():
    """Samples of a large population, whose Kendall tau is known: the interval has the coverage that it claims."""
    predictions, truth = made(4000, ties=False)
    whole = stats.kendalltau(predictions, truth).statistic
    generator, hits = np.random.default_rng(1), 0
    for _ in range(100):
        rows = generator.choice(4000, 60, replace=False)
        low, high = bootstrap_intervals(predictions[rows], truth[rows], 200)['kendall_tau']
        hits += low <= whole <= high
    assert 88 <= hits <= 99


def test_order_of_rows_and_repeated_calls_do_not_matter():
    predictions, truth = made(30)
    shuffled = np.random.default_rng(3).permutation(30)
    assert bootstrap_intervals(predictions, truth) == bootstrap_intervals(predictions[shuffled], truth[shuffled])


def test_equal_predictions_have_no_interval_of_tau():
    assert set(bootstrap_intervals(np.ones(12), np.arange(12.0))) == {'top1', 'top5', 'top10'}
    with pytest.raises(CondnetError, match='finite'):
        bootstrap_intervals([1, np.nan], [1, 2])


def test_ceiling():
    """Two seeds that agree leave no noise; where one is reversed, half of the pairs are undecided."""
    assert seed_ceiling([[1, 1], [2, 2], [3, 3]]) == 1
    results = np.array([[1.0, 2], [2, 1], [3, 3]])
    expected = np.mean([stats.kendalltau(results[:, i], results.mean(axis=1)).statistic for i in (0, 1)])
    assert seed_ceiling(results) == pytest.approx(expected) and expected < 1
    assert seed_ceiling([[1.0], [2.0]]) is None
