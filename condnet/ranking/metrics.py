"""What is computed from predictions and ground truth: how well a super-network ranks architectures.

Every figure is a function of the set of (prediction, truth) pairs: no result depends on the order of the rows. Where
equal predictions leave open which architectures are the N best, the figure is the expectation over a uniform choice
among the tied ones. (Parameter counts tie hundreds of architectures; any other rule would reward the numbering.)
"""

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from condnet.errors import CondnetError

TOP_SIZES = (1, 5, 10)
SHOWN = {  # what tables show of a ranking, and its heading
    'kendall_tau': 'KT all',
    'kendall_tau_50': 'KT 50',
    'top1': 'top-1',
    'top5': 'top-5',
    'top10': 'top-10',
    'improvement1': 'improvement',
}
BEST_BY_TRUTH = 50  # "KT 50": the part of the space that a search has to tell apart


def ranking_metrics(predictions: ArrayLike, truth: ArrayLike) -> dict[str, float | None]:
    """Compare predictions with the ground truth of the same architectures.

    With fewer rows than a metric asks for (10, 50), all of them are taken. A metric that is undefined, because all
    predictions or all true values are equal, is None.

    Args:
        predictions: (N,) numbers, in any unit; higher means better.
        truth: (N,) true values, such as test accuracies in percent; higher means better.

    Returns:
        `top1`, `top5`, `top10`: mean truth of the best by prediction, in the unit of `truth`;
        `improvement1`, ...: (top - mean) / (max - mean) of the truth, 0 for random, 1 for perfect;
        `best_rank1`, ...: best rank by truth among the best by prediction, 1 for the best architecture of all;
        equal true values share the better rank;
        `kendall_tau`: Kendall's tau-b; `kendall_tau_50`: the same over the 50 best by truth, and all tied with the
        fiftieth; `spearman`: Spearman's rank correlation.

    Raises:
        CondnetError: If the lengths differ, there are fewer than two rows, or a number is not finite.
    """
    predictions, truth = finite_vector('predictions', predictions), finite_vector('truth', truth)
    if len(predictions) != len(truth):
        raise CondnetError(f'got {len(predictions)} predictions and {len(truth)} true values; expected one for each')
    if len(truth) < 2:
        raise CondnetError(f'got {len(truth)} architectures; expected at least 2 to rank')
    order = np.lexsort((truth, -predictions))  # from here on even rounding does not depend on the order given
    predictions, truth = predictions[order], truth[order]

    ranks = stats.rankdata(-truth, method='min')
    tops = {num: expected_top(predictions, truth, num) for num in TOP_SIZES}
    near_best = truth >= np.sort(truth)[-BEST_BY_TRUTH:][0]
    return {
        **{f'top{num}': top for num, top in tops.items()},
        **{f'improvement{num}': _improvement(top, truth) for num, top in tops.items()},
        'kendall_tau': _correlation(stats.kendalltau, predictions, truth),
        'kendall_tau_50': _correlation(stats.kendalltau, predictions[near_best], truth[near_best]),
        'spearman': _correlation(stats.spearmanr, predictions, truth),
        **{f'best_rank{num}': _expected_best_rank(predictions, ranks, num) for num in TOP_SIZES},
    }


RANKED_BY = ('accuracy', 'loss', 'params', 'flops')  # what `summarize` ranks by


def summarize(
    accuracy: ArrayLike,
    loss: ArrayLike,
    truth: ArrayLike,
    params: ArrayLike | None = None,
    flops: ArrayLike | None = None,
) -> dict[str, Any]:
    """Every ranking metric for each way to predict, those that need no super-network included.

    Args:
        accuracy: (N,) validation accuracies of the sub-networks; the paper's prediction.
        loss: (N,) their validation losses; lower means better.
        truth: (N,) true accuracies of the same architectures.
        params: (N,) parameter counts; predicting by size is the baseline that a super-network has to beat. None
            if they are not known.
        flops: (N,) FLOPs, likewise.

    Returns:
        `ranking_metrics` under `accuracy`, `loss` and, if known, `params` and `flops`; `num_archs`, `truth_mean` and
        `truth_max`.

    Raises:
        CondnetError: As `ranking_metrics` does.
    """
    true_values = finite_vector('truth', truth)
    return {
        'accuracy': ranking_metrics(finite_vector('accuracy', accuracy), true_values),
        'loss': ranking_metrics(-finite_vector('loss', loss), true_values),
        **{
            name: ranking_metrics(finite_vector(name, values), true_values)
            for name, values in (('params', params), ('flops', flops))
            if values is not None
        },
        'num_archs': len(true_values),
        'truth_mean': float(np.sort(true_values).mean()),
        'truth_max': float(true_values.max()),
    }


def ranked_by(summary: dict[str, Any]) -> list[str]:
    """What a summary has the metrics of: the pure predictions, the baselines that are known, then rank means."""
    means = [name for name, value in summary.items() if isinstance(value, dict) and 'kendall_tau' in value]
    return [name for name in RANKED_BY if name in summary] + [name for name in means if name not in RANKED_BY]


def finite_vector(name: str, values: ArrayLike) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise CondnetError(f'{name} has shape {array.shape}; expected one number per architecture')
    if not np.isfinite(array).all():
        row = int(np.flatnonzero(~np.isfinite(array))[0])
        raise CondnetError(f'{name} is {array[row]} in row {row}; expected finite numbers')
    return array


def _constant(values: np.ndarray) -> bool:
    return bool(values.min() == values.max())


def _correlation(statistic: Any, predictions: np.ndarray, truth: np.ndarray) -> float | None:
    if _constant(predictions) or _constant(truth):
        return None
    return float(statistic(predictions, truth).statistic)


def _improvement(top: float, truth: np.ndarray) -> float | None:
    return None if _constant(truth) else float((top - truth.mean()) / (truth.max() - truth.mean()))


def _split_at_ties(predictions: np.ndarray, num: int) -> tuple[int, int, int]:
    """Of descending predictions: how many are surely among the `num` best, where the ties end, how many of them fit."""
    num = min(num, len(predictions))
    last = predictions[num - 1]
    sure = int((predictions > last).sum())
    return sure, sure + int((predictions == last).sum()), num - sure


def expected_top(predictions: np.ndarray, truth: np.ndarray, num: int) -> float:
    sure, end, picks = _split_at_ties(predictions, num)
    return float((truth[:sure].sum() + picks * truth[sure:end].mean()) / (sure + picks))


def _expected_best_rank(predictions: np.ndarray, ranks: np.ndarray, num: int) -> float:
    sure, end, picks = _split_at_ties(predictions, num)
    best_sure = ranks[:sure].min(initial=len(ranks))
    tied = np.minimum(np.sort(ranks[sure:end]), best_sure)
    # The chance that the best of the picks is the i-th of the tied ones: the other picks all come after it.
    chances = [math.comb(len(tied) - 1 - i, picks - 1) / math.comb(len(tied), picks) for i in range(len(tied))]
    return float(np.dot(chances, tied))
