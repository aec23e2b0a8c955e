"""Architectures best first: on a terminal, as a table (CSV), against their costs, and on a page."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from condnet.reports.page import Row
from condnet.spaces.base import SearchSpace
from condnet.utils.csvfile import write_csv
from condnet.utils.plots import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NUM_SHOWN = 10
_COSTS = {'flops': 'FLOPs', 'params': 'parameters'}


def best_file(path: Path) -> Path:
    """The file of the table, best first, beside that of the predictions."""
    return path.with_name(f'{path.stem}_best.csv')


def format_best(space: SearchSpace, rows: Sequence[Row]) -> str:
    """The best architectures, a line each.

    Args:
        space: Their search space.
        rows: The architectures, best first.
    """
    shown = rows[:NUM_SHOWN]
    costs = [name for name in _COSTS if all(name in row.costs for row in shown)]
    has_truth = all(row.truth is not None for row in shown)
    heads = ['accuracy', 'loss', *(['truth'] if has_truth else []), *(_COSTS[name] for name in costs), 'index']
    lines = [[f'{row.accuracy:.2f}', f'{row.loss:.4f}', *([f'{row.truth:.2f}'] if has_truth else []),
              *(f'{row.costs[name]:,}' for name in costs), str(space.index(row.arch))] for row in shown]  # fmt: skip
    widths = [max(map(len, column)) for column in zip(heads, *lines, strict=True)]
    archs = ['architecture', *(space.format(row.arch) for row in shown)]
    texts = ['  '.join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in [heads, *lines]]
    title = f'best by accuracy, {len(shown)} of {len(rows)}:' if len(rows) > 1 else 'its prediction:'
    return '\n'.join([title, *(f'{text}  {arch}' for text, arch in zip(texts, archs, strict=True))])


def write_best(path: Path, space: SearchSpace, rows: Sequence[Row]) -> None:
    """Write architectures as CSV, best first: index, architecture, prediction, and truth and costs that are known."""
    lines: list[dict[str, Any]] = []
    for row in rows:
        line = {'index': space.index(row.arch), 'arch': space.format(row.arch), 'accuracy': row.accuracy}
        truth = {} if row.truth is None else {'truth': row.truth}
        lines.append({**line, 'loss': row.loss, **truth, **row.costs})
    write_csv(path, tuple(lines[0]), lines)


def draw_costs(space: SearchSpace, rows: Sequence[Row]) -> 'Figure':
    """Plot of predicted accuracy against FLOPs, the best one named."""
    figure = new_figure(6, 4.2)
    ax = figure.subplots()
    ax.scatter([row.costs['flops'] / 1e6 for row in rows], [row.accuracy for row in rows], s=14, linewidths=0)
    best = rows[0]
    ax.scatter(
        [best.costs['flops'] / 1e6], [best.accuracy], s=60, facecolors='none', edgecolors='tab:red', label='best'
    )
    ax.set(xlabel='FLOPs (M)', ylabel='predicted accuracy (%)', title=f'{space}, {len(rows)} architectures')
    ax.grid(alpha=0.3)
    ax.legend()
    return figure
