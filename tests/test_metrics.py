"""Metrics are checked against figures worked out by hand or by brute force over every way to break the ties."""

import itertools
import json

import numpy as np
import pytest

from condnet.ranking.metrics import ranking_metrics, summarize


def brute_force(predictions, truth, num, figure):
    """Mean of a figure of the `num` best rows over every order of the rows that sorts the predictions."""
    best_first = sorted(predictions, reverse=True)
    orders = itertools.permutations(range(len(truth)))
    sorting = [order for order in orders if [predictions[row] for row in order] == best_first]
    return np.mean([figure([truth[row] for row in order[:num]]) for order in sorting])


def test_figures_by_hand():
    truth = [90.0, 91.0, 92.0, 93.0, 94.0, 80.0]  # mean 90, max 94
    metrics = ranking_metrics([5.0, 4.0, 3.0, 2.0, 1.0, 0.0], truth)
    assert metrics['top1'] == 90.0 and metrics['improvement1'] == 0.0 and metrics['best_rank1'] == 5
    assert metrics['top5'] == 92.0 and metrics['improvement5'] == 0.5 and metrics['best_rank5'] == 1
    assert metrics['kendall_tau'] == pytest.approx(-5 / 15)  # of 15 pairs the 10 among the first five are wrong
    perfect = ranking_metrics(truth, truth)
    assert [perfect[key] for key in ('kendall_tau', 'spearman', 'improvement1', 'best_rank1')] == pytest.approx([1] * 4)


def test_kendall_is_tau_b():
    # 6 pairs: 4 concordant, 1 tied in the predictions, 1 tied in the truth: 4 / sqrt(5 * 5).
    assert ranking_metrics([1, 1, 2, 3], [1, 2, 3, 3])['kendall_tau'] == pytest.approx(0.8)


def test_spearman_is_no_linear_correlation():
    assert ranking_metrics([1, 2, 3, 100], [1, 2, 3, 4])['spearman'] == pytest.approx(1)


@pytest.mark.parametrize('predictions', [[3, 2, 2, 2, 1, 2, 0], [1] * 7, [2, 2, 1, 1, 1, 1, 1], [7, 6, 5, 4, 3, 2, 1]])
def test_ties_are_averaged(predictions):
    truth = [50.0, 90.0, 60.0, 40.0, 95.0, 90.0, 10.0]
    metrics = ranking_metrics(predictions, truth)
    for num in (1, 5):
        assert metrics[f'top{num}'] == pytest.approx(brute_force(predictions, truth, num, np.mean))
        rank = brute_force(predictions, truth, num, lambda top: 1 + sum(t > max(top) for t in truth))
        assert metrics[f'best_rank{num}'] == pytest.approx(rank)


def test_order_of_rows_changes_nothing():
    rng = np.random.default_rng(0)
    predictions, truth = rng.integers(0, 9, 200) / 7, rng.integers(800, 940, 200) / 10  # many ties in both
    expected = ranking_metrics(predictions, truth)
    for _ in range(5):
        order = rng.permutation(200)
        assert ranking_metrics(predictions[order], truth[order]) == expected  # to the last bit


def test_kendall_50_takes_the_best_by_truth():
    truth = np.arange(100.0)
    predictions = np.where(truth >= 50, -truth, truth - 1000)  # the best half is reversed, and above the other half
    metrics = ranking_metrics(predictions, truth)
    assert metrics['kendall_tau_50'] == pytest.approx(-1)
    assert metrics['kendall_tau'] > 0


def test_kendall_50_keeps_all_that_tie_with_the_fiftieth():
    truth = np.concatenate([np.arange(2.0, 51.0), [1.0, 1.0, 0.0]])  # 49 above, two tied for the fiftieth place
    predictions = np.concatenate([np.arange(2.0, 51.0), [60.0, 1.0, 99.0]])
    for order in (slice(None), slice(None, None, -1)):
        tau = ranking_metrics(predictions[order], truth[order])['kendall_tau_50']
        pairs = 51 * 50 / 2
        assert tau == pytest.approx((pairs - 1 - 2 * 49) / np.sqrt(pairs * (pairs - 1)))


def test_undefined_metrics_are_none():
    same_predictions = ranking_metrics([1, 1, 1], [80.0, 85.0, 90.0])
    assert same_predictions['kendall_tau'] is same_predictions['kendall_tau_50'] is same_predictions['spearman'] is None
    assert same_predictions['top1'] == pytest.approx(85.0) and same_predictions['improvement1'] == pytest.approx(0)
    same_truth = ranking_metrics([1, 2, 3], [0.1, 0.1, 0.1])  # their mean is not exactly 0.1
    assert same_truth['improvement1'] is same_truth['kendall_tau'] is None
    assert same_truth['best_rank1'] == 1


def test_fewer_rows_than_asked_for():
    metrics = ranking_metrics([2, 1], [90.0, 80.0])
    assert metrics['top1'] == 90.0 and metrics['top5'] == metrics['top10'] == 85.0
    assert metrics['kendall_tau_50'] == metrics['kendall_tau'] == 1


@pytest.mark.parametrize(
    'predictions, truth, message',
    [
        ([1, float('nan')], [1, 2], 'predictions is nan in row 1'),
        ([1, 2], [float('inf'), 2], 'truth is inf in row 0'),
        ([1, 2, 3], [1, 2], '3 predictions and 2 true values'),
        ([1], [1], 'got 1 architectures'),
        ([], [], 'got 0 architectures'),
        ([[1, 2]], [1, 2], r'predictions has shape \(1, 2\)'),
    ],
)
def test_bad_input(predictions, truth, message):
    with pytest.raises(ValueError, match=message):
        ranking_metrics(predictions, truth)


def test_summary_ranks_by_low_loss_and_by_size():
    truth = [90.0, 91.0, 92.0]
    summary = summarize(accuracy=[1, 2, 3], loss=[3.0, 2.0, 1.0], truth=truth, params=[5, 6, 7], flops=[7, 6, 5])
    taus = [summary[key]['kendall_tau'] for key in ('accuracy', 'loss', 'params', 'flops')]
    assert taus == pytest.approx([1, 1, 1, -1])
    assert (summary['num_archs'], summary['truth_mean'], summary['truth_max']) == (3, 91.0, 92.0)
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary  # plain numbers, for the results file


def test_summary_names_the_column_that_is_not_finite():
    with pytest.raises(ValueError, match='loss is nan in row 1'):
        summarize([1, 2], [1.0, float('nan')], [1, 2], [1, 2], [1, 2])
