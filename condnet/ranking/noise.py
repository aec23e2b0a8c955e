"""How much of a figure is noise: bootstrap intervals, and what the best prediction could reach."""

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from condnet.ranking.metrics import expected_top, finite_vector

INTERVAL_OF = ('kendall_tau', 'top1', 'top5', 'top10')
_LEVEL = 95  # percent


def bootstrap_intervals(
    predictions: ArrayLike, truth: ArrayLike, num_samples: int = 1000, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """95% intervals of figures of `ranking_metrics`, over which architectures happened to be drawn.

    The architectures are drawn again with replacement (the percentile bootstrap; Efron, 1979). It says nothing of the
    noise of the super-network's own training: for that, train it with several seeds.

    Args:
        predictions: (N,) numbers; higher means better.
        truth: (N,) true values; higher means better.
        num_samples: How often they are drawn again.
        seed: Of the draws.

    Returns:
        Lower and upper end by name, see `INTERVAL_OF`; a figure that some draws leave undefined has none.
    """
    predictions, truth = finite_vector('predictions', predictions), finite_vector('truth', truth)
    order = np.lexsort((truth, -predictions))  # the result does not depend on the order given
    predictions, truth = predictions[order], truth[order]
    rows = np.random.default_rng(seed).integers(len(truth), size=(num_samples, len(truth)))
    tops = [[expected_top(predictions[drawn], truth[drawn], num) for num in (1, 5, 10)] for drawn in np.sort(rows)]
    times = np.stack([np.bincount(drawn, minlength=len(truth)) for drawn in rows])
    samples = np.column_stack([_kendall_taus(predictions, truth, times), tops])
    ends = np.percentile(samples, [50 - _LEVEL / 2, 50 + _LEVEL / 2], axis=0).T.tolist()
    return {name: (low, high) for name, (low, high) in zip(INTERVAL_OF, ends, strict=True) if low == low}


def _kendall_taus(predictions: np.ndarray, truth: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Kendall's tau-b of each row of `times`, which says how often each architecture was drawn: as a quadratic form
    over pairs it is one matrix product for all draws; scipy would sort each anew.
    """
    signs = [np.sign(np.subtract.outer(values, values)).astype(np.float32) for values in (predictions, truth)]
    times = times.astype(np.float32)

    def pairs(values: np.ndarray) -> np.ndarray:
        return np.asarray(np.einsum('sn,sn->s', times @ values, times, dtype=np.float64))

    agreeing = pairs(signs[0] * signs[1])
    with np.errstate(invalid='ignore'):  # a draw of equal values has no tau
        return np.asarray(agreeing / np.sqrt(pairs(np.abs(signs[0])) * pairs(np.abs(signs[1]))))


def seed_ceiling(results: ArrayLike) -> float | None:
    """How well one training of each architecture ranks the mean of several: no prediction can be asked for more.

    Args:
        results: (N, S) true values of N architectures, of S seeds.

    Returns:
        Mean Kendall tau-b between each seed's values and the mean over all seeds; None with fewer than two.
    """
    results = np.asarray(results, dtype=np.float64)
    if results.ndim != 2 or results.shape[1] < 2:
        return None
    mean = results.mean(axis=1)
    return float(np.mean([stats.kendalltau(results[:, seed], mean).statistic for seed in range(results.shape[1])]))
