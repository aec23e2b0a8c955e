"""Figures of a study, as PNG."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from condnet.utils.plots import new_figure, to_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from condnet.studies.report import Spread


_COLORS = {'top-1': 'tab:blue', 'top-5': 'tab:orange', 'top-10': 'tab:green'}
_BASELINE = 'baseline'


@dataclass(frozen=True)
class Series:
    """A spread for each epoch; those that nothing is known of are left out."""

    points: 'list[tuple[int, Spread]]'

    @property
    def known(self) -> 'list[tuple[int, Spread]]':
        return [(epoch, found) for epoch, found in self.points if found.mean is not None]

    @property
    def epochs(self) -> list[int]:
        return [epoch for epoch, _ in self.known]

    @property
    def means(self) -> list[float]:
        return [found.mean for _, found in self.known if found.mean is not None]

    @property
    def stds(self) -> list[float]:
        """Standard deviations; 0 for a single seed."""
        return [found.std or 0.0 for _, found in self.known]


def plot_selection(panels: list[dict[str, Any]], xlabel: str) -> bytes | None:
    """True accuracy of the N best by prediction, by epoch, and the baseline's (Figures 4 to 6).

    Args:
        panels: `title`, `row`, `tops` and `baseline` by N, `truth` (mean, max), `n` seeds.
        xlabel: What the epochs are.

    Returns:
        The figure; None without panels.
    """

    def draw(ax: 'Axes', panel: dict[str, Any]) -> None:
        series = panel['tops']['top-1']
        width = min((b - a for a, b in zip(series.epochs, series.epochs[1:], strict=False)), default=1)
        for i, (top, found) in enumerate(panel['tops'].items()):
            xs = [epoch + (i - 1) * 0.1 * width for epoch in found.epochs]  # beside each other, not on top
            ax.errorbar(xs, found.means, found.stds, color=_COLORS[top], marker='o', ms=4, capsize=3, lw=1.2, label=top)
            level = panel['baseline'][top]
            if level.mean is not None:
                ax.axhline(level.mean, color=_COLORS[top], ls='--', lw=1, label=f'{top}, {_BASELINE}')
                std = level.std or 0.0
                ax.axhspan(level.mean - std, level.mean + std, color=_COLORS[top], alpha=0.08, lw=0)
        low, high = panel['truth']
        if high > low:
            right = ax.secondary_yaxis('right', functions=(lambda y: (y - low) / (high - low),
                                                           lambda y: low + y * (high - low)))  # fmt: skip
            right.set_ylabel('improvement')
        ax.set(xlabel=xlabel, ylabel='true accuracy (%)', title=f'{panel["title"]}, n = {panel["n"]}')
        ax.set_xticks(series.epochs)

    return _plot(panels, draw)


def plot_validation(panels: list[dict[str, Any]], split_epochs: tuple[int, ...]) -> bytes | None:
    """Validation statistics by epoch (Figure 7).

    Args:
        panels: `title`, `row`, `label`, `arms` by name, `n` seeds.
        split_epochs: Where trainings are split.

    Returns:
        The figure; None without panels.
    """

    def draw(ax: 'Axes', panel: dict[str, Any]) -> None:
        for epoch in split_epochs:
            ax.axvline(epoch, color='0.8', lw=0.8, zorder=0)
        for i, (name, series) in enumerate(panel['arms'].items()):
            is_baseline = name == _BASELINE
            color = 'black' if is_baseline else f'C{(i - 1) % 10}'
            ax.plot(series.epochs, series.means, color=color, marker='.', lw=1.8 if is_baseline else 1, label=name,
                    zorder=3 if is_baseline else 2)  # fmt: skip
            if is_baseline:
                lows = [mean - std for mean, std in zip(series.means, series.stds, strict=True)]
                highs = [mean + std for mean, std in zip(series.means, series.stds, strict=True)]
                ax.fill_between(series.epochs, lows, highs, color=color, alpha=0.12, lw=0)
        ax.set(xlabel='epoch', ylabel=panel['label'], title=f'{panel["title"]}, n = {panel["n"]}')

    return _plot(panels, draw)


def _plot(panels: list[dict[str, Any]], draw: 'Callable[[Axes, dict[str, Any]], None]') -> bytes | None:
    """Panels in rows of equal `row`, with one legend."""
    if not panels:
        return None
    rows = list(dict.fromkeys(panel['row'] for panel in panels))
    columns = max(sum(panel['row'] == row for panel in panels) for row in rows)
    figure = new_figure(1 + 5.5 * columns, 0.6 + 3.6 * len(rows))
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for row, axes in zip(rows, grid, strict=True):
        of_row = [panel for panel in panels if panel['row'] == row]
        for ax, panel in zip(axes, of_row, strict=False):
            draw(ax, panel)
            ax.grid(alpha=0.3)
        for ax in axes[len(of_row) :]:
            ax.set_visible(False)
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc='outside lower center', ncols=3, frameon=False)
    return to_png(figure)
