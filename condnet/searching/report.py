"""What a search has found: tables, plots, and the winner as a network of its own."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from condnet.benchmarks.tables import BenchmarkTable
from condnet.searching.problem import PREDICTED, Candidate, Problem
from condnet.spaces.base import Arch
from condnet.utils.csvfile import write_csv
from condnet.utils.plots import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def expected_best(values: Iterable[float], num: int) -> float:
    """Expectation of the greatest of `num` values drawn at random without replacement.

    It is exact: the i-th greatest of N values is the best of those drawn with the chance
    C(N - 1 - i, num - 1) / C(N, num), i = 0, 1, ...
    """
    ordered = np.sort(np.fromiter(values, dtype=np.float64))[::-1]
    total, num = len(ordered), min(num, len(ordered))
    places = np.arange(total - num)
    ratios = (total - places - num) / (total - places - 1)  # of the chance of a place to that of the one before
    chances = num / total * np.cumprod(np.concatenate(([1.0], ratios)))
    return float(np.dot(chances, ordered[: len(chances)]))


def true_result(
    table: BenchmarkTable, problem: Problem, winner: Candidate, feasible: list[Arch] | None, num_evals: int
) -> dict[str, Any]:
    """What the winner truly reaches, and what random search reaches among the architectures within the limits.

    Args:
        table: Ground truth.
        problem: What was searched for.
        winner: The architecture that was found.
        feasible: Architectures within the limits; None if they are not known, and neither are ranks then.
        num_evals: How many architectures were evaluated.

    Returns:
        `accuracy`; `params` and `flops` of the benchmark's network, if the table has them; `rank` (1 is best) among
        `num_archs`; of that set: `best`; `random`, its mean, what an architecture at random reaches; `random_search`,
        expected of the truly best of `num_evals` random ones, which is more than random search with the same
        super-network can reach.
    """
    truth = dict(zip(table.indices.tolist(), table.accuracy.tolist(), strict=True))
    index = problem.space.index(winner.arch)
    result: dict[str, Any] = {'accuracy': truth.get(index)}
    if result['accuracy'] is None:
        return result
    if (row := table.select([index])).params is not None and row.flops is not None:
        result |= {'params': int(row.params[0]), 'flops': int(row.flops[0])}
    if feasible is None:
        return result
    values = [truth[index] for index in map(problem.space.index, feasible) if index in truth]
    return {
        **result,
        'rank': 1 + sum(value > result['accuracy'] for value in values),
        'num_archs': len(values),
        'best': max(values),
        'random': sum(values) / len(values),
        'random_search': expected_best(values, num_evals),
    }


def write_architectures(path: Path, problem: Problem, candidates: list[Candidate], front: set[Arch]) -> None:
    """Write every evaluated architecture as CSV, best first, with its costs and whether it is on the Pareto front."""
    rows = [{**describe_candidate(problem, candidate), 'front': int(candidate.arch in front)}
            for candidate in candidates]  # fmt: skip
    write_csv(path, rows[0], rows)


_LABELS = {
    'accuracy': 'predicted accuracy (%)',
    'loss': 'predicted loss',
    'params': 'parameters',
    'flops': 'FLOPs',
    'latency': 'latency (ms)',
}


def draw_candidates(problem: Problem, candidates: list[Candidate], front: set[Arch]) -> 'Figure':
    """Plot of the evaluated architectures, the Pareto front and the limit."""
    asked = (*(name for name in problem.objectives if name not in PREDICTED), *problem.limits, *candidates[0].costs)
    other = next(name for name in PREDICTED if name != problem.decides)
    cost = asked[0] if asked else other  # where nothing is known of costs
    chosen = [candidate for candidate in candidates if candidate.arch in front]
    groups = (
        (f'{len(candidates)} evaluated', candidates, {'s': 14, 'linewidths': 0, 'alpha': 0.5}),
        ('Pareto front', chosen, {'s': 40, 'facecolors': 'none', 'edgecolors': 'tab:orange'}),
        ('winner', candidates[:1], {'s': 120, 'marker': '*', 'color': 'tab:red'}),
    )
    figure = new_figure(6, 4.2)
    ax = figure.subplots()
    for label, group, style in groups:
        ax.scatter([c.value(cost) for c in group], [c.value(problem.decides) for c in group], label=label, **style)
    if cost in problem.limits:
        ax.axvline(problem.limits[cost], color='gray', linestyle='--', label='limit')
    ax.set(xlabel=_LABELS[cost], ylabel=_LABELS[problem.decides], title=str(problem.space))
    ax.grid(alpha=0.3)
    ax.legend()
    return figure


def describe_candidate(problem: Problem, candidate: Candidate) -> dict[str, Any]:
    """A candidate, for the summary."""
    index, arch = problem.space.index(candidate.arch), problem.space.format(candidate.arch)
    return {'index': index, 'arch': arch, **candidate.attributes()}


def format_summary(summary: dict[str, Any]) -> str:
    """The result in a few lines, for the terminal."""
    winner, network, truth = summary['winner'], summary['network'], summary['truth']
    costs = [f'{winner["params"]:,} parameters', f'{winner["flops"]:,} FLOPs'] if 'flops' in winner else []
    if 'latency' in winner:
        device = summary.get('latency_device')
        whose = '' if device is None else f" on {device}, as the table has it of the benchmark's network"
        costs.append(f'{winner["latency"]:.3g} ms{whose}')
    front = f', {len(summary["front"])} on the Pareto front of {", ".join(summary["objectives"])}'
    front = front if len(summary['objectives']) > 1 else ''  # of one objective it is the ties for the best
    selected = f' by the rank mean {summary["selected_by"]}' if 'selected_by' in summary else ''
    lines = [
        f'{summary["model"]} ({summary["space"]}): {summary["num_evals"]} architectures evaluated{front}',
        f'winner{selected}: {winner["arch"]} (index {winner["index"]})',
        f'  predicted: accuracy {winner["accuracy"]:.2f}, loss {winner["loss"]:.4f}',
        *([f'  network: {", ".join(costs)}'] if costs else []),
    ]
    if network:
        lines.append(f'  exported network: accuracy {network["accuracy"]:.2f} (import condnet before timm loads it as '
                     f'local-dir:.../{network["folder"]})')  # fmt: skip
    if truth and truth['accuracy'] is not None:
        lines.append(f'  truth: accuracy {truth["accuracy"]:.2f}')
        if 'flops' in truth:
            lines[-1] += f" (benchmark's network: {truth['params']:,} parameters, {truth['flops']:,} FLOPs)"
        if 'rank' in truth:
            lines[-1] += (
                f', rank {truth["rank"]} of {truth["num_archs"]} within the limits (best {truth["best"]:.2f}, mean '
                f'{truth["random"]:.2f}); the truly best of {summary["num_evals"]} random ones: '
                f'{truth["random_search"]:.2f} expected'
            )
    return '\n'.join(lines)
