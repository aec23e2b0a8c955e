"""The result of a ranking."""

import dataclasses
import json
import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from condnet.benchmarks.tables import BenchmarkTable
from condnet.errors import CondnetError
from condnet.ranking.costs import NetworkCosts
from condnet.ranking.evaluate import Prediction
from condnet.ranking.mean_ranks import columns_of, mean_ranks
from condnet.ranking.metrics import SHOWN, ranked_by, ranking_metrics
from condnet.ranking.noise import bootstrap_intervals, seed_ceiling
from condnet.ranking.results import draw_predictions, summarize_predictions, write_predictions
from condnet.ranking.show import best_file, draw_costs, format_best, write_best
from condnet.reports.page import Page, Row, write_page
from condnet.spaces.base import Arch, SearchSpace
from condnet.spaces.costs import Cost
from condnet.utils.files import write_file
from condnet.utils.plots import save_figure, to_png

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_logger = logging.getLogger(__name__)
_MOST_DRAWN = 2000  # architectures of which bootstrap samples are drawn; of more, figures have next to no such noise
_MOST_BUILT = 500  # networks that are built to know their costs, where these do not add up


@dataclass(frozen=True, eq=False, repr=False)
class Ranking:
    """What a super-network says of architectures, and how well that ranks them.

    Args:
        predictions: In order of the official index.
        space: The search space.
        table: Ground truth of the same architectures in the same order; None if there is none.
        settings: What made it.
        notes: What else its summary says, behind all else.
        rank_by: Rank means that its summary has as well, see `condnet.ranking.mean_ranks`.
        columns: What rank means need beside the predictions, by name, in the same order as these.
        network_cost: Parameters and FLOPs of the stand-alone network of an architecture; None if they are not known.
        files: What was written.
    """

    predictions: list[Prediction]
    space: SearchSpace
    table: BenchmarkTable | None
    settings: dict[str, Any] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)
    rank_by: tuple[str, ...] = ()
    columns: dict[str, list[float]] = field(default_factory=dict)
    network_cost: Callable[[Arch], Cost] | None = None
    files: list[Path] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.predictions)

    def __iter__(self) -> Iterator[Prediction]:
        return iter(self.predictions)

    def __repr__(self) -> str:
        truth = 'without a ground truth' if self.table is None else f'compared with {Path(self.table.path).name}'
        return f'<Ranking of {len(self)} architectures of {self.settings.get("space", self.space)}, {truth}>'

    def __str__(self) -> str:
        summary = format_summary({'space': str(self.space), **self.summary})
        return f'{summary}\n{format_best(self.space, self.rows)}' if self.predictions else summary

    def best(self, num: int = 1, by: str = 'accuracy') -> list[Prediction]:
        """The best by prediction, best first.

        Args:
            num: How many.
            by: `accuracy`, where equal ones are ordered by loss, `loss`, or a rank mean, of `rank_by` or another one of
                the same columns and of costs; equal ones of it are ordered by accuracy.

        Raises:
            CondnetError: If `by` is something else, or the number negative.
        """
        if num < 0:
            raise CondnetError(f'num is {num}, expected at least 0')
        values = {'accuracy': [p.accuracy for p in self.predictions], 'loss': [-p.loss for p in self.predictions]}
        scores = values[by] if by in values else self.mean_ranks(by).tolist()
        pairs = sorted(zip(scores, self.predictions, strict=True),
                       key=lambda pair: (-pair[0], -pair[1].accuracy, pair[1].loss, pair[1].index))  # fmt: skip
        return [prediction for _, prediction in pairs[:num]]

    def mean_ranks(self, by: str) -> np.ndarray:
        """Rank mean (N,) of each architecture, higher is better, such as `accuracy+flops`.

        Raises:
            CondnetError: If a column is not known.
        """
        known = self.columns | {name: [getattr(p, name) for p in self.predictions] for name in ('accuracy', 'loss')}
        columns, cost = columns_of(by), self.network_cost
        for name, _ in columns:
            if name not in known and name in ('flops', 'params') and cost is not None:
                known[name] = [getattr(cost(self.space.parse(p.index)), name) for p in self.predictions]
            if name not in known:
                raise CondnetError(f'cannot rank by {by}: {name} is not known, expected one of {", ".join(known)}')
        return mean_ranks([(known[name], sign) for name, sign in columns])

    def _metrics(self) -> dict[str, Any]:
        metrics = summarize_predictions(self.predictions, self.table)
        if self.table is not None:
            truth = self.table.accuracy
            metrics |= {by: ranking_metrics(self.mean_ranks(by), truth) for by in self.rank_by}
        return metrics

    @cached_property
    def summary(self) -> dict[str, Any]:
        """The metrics if there is a truth, with their noise, the number of architectures, and what made the ranking."""
        return {**self._metrics(), **self._noise(), **self.settings, **self.notes}

    def _noise(self) -> dict[str, Any]:
        """Intervals of the figures, and the highest Kendall tau that can be asked for, as far as they are known."""
        if self.table is None or len(self) < 2:
            return {}
        noise: dict[str, Any] = {}
        if len(self) <= _MOST_DRAWN:
            truth = self.table.accuracy
            values = {'accuracy': [p.accuracy for p in self], 'loss': [-p.loss for p in self]}
            values |= {by: self.mean_ranks(by).tolist() for by in self.rank_by}
            intervals = {by: bootstrap_intervals(numbers, truth) for by, numbers in values.items()}
            noise['intervals'] = {by: {key: list(ends) for key, ends in its.items()} for by, its in intervals.items()}
        ceiling = None if self.table.seeds is None else seed_ceiling(self.table.seeds)
        return noise if ceiling is None or math.isnan(ceiling) else {**noise, 'ceiling': ceiling}

    @cached_property
    def rows(self) -> list[Row]:
        """The architectures, best first by accuracy, with what is known of them; costs are the user's networks'."""
        cost, truth = self.network_cost, {}
        if isinstance(cost, NetworkCosts) and len(self) > _MOST_BUILT and not cost.is_sum:
            cost = None
        if self.table is not None:
            truth = dict(zip(self.table.indices.tolist(), self.table.accuracy.tolist(), strict=True))
        rows = []
        for prediction in self.best(len(self)):
            arch = self.space.parse(prediction.index)
            costs = {} if cost is None else dataclasses.asdict(cost(arch))
            rows.append(Row(arch, prediction.accuracy, prediction.loss, truth.get(prediction.index), costs))
        return rows

    def metrics(self) -> dict[str, Any]:
        """How well predictions rank the architectures, see `condnet.ranking.metrics.summarize`.

        Raises:
            CondnetError: If there is no ground truth.
        """
        self._check_truth()
        return self._metrics()

    def _check_truth(self) -> BenchmarkTable:
        if self.table is None:
            raise CondnetError('there is no ground truth to compare with; name it with `benchmark`')
        return self.table

    def to_csv(self, path: str | Path) -> None:
        """Write the predictions: index, accuracy and loss. Reading gives the same numbers back."""
        write_predictions(Path(path), self.predictions)

    def plot(self, path: str | Path | None = None) -> 'Figure':
        """Scatter plot of prediction against truth, or else FLOPs, which notebooks show; with a path written as PNG.

        Raises:
            CondnetError: If neither is known.
        """
        if self.table is None and self._has_costs:
            return save_figure(draw_costs(self.space, self.rows), path)
        return save_figure(draw_predictions(self.predictions, self._check_truth(), self.summary), path)

    @property
    def _has_costs(self) -> bool:
        return bool(self.predictions) and all('flops' in row.costs for row in self.rows)

    def report(self, path: str | Path) -> None:
        """Write one page of HTML: plots with the architecture under the pointer, the best drawn, figures and settings.

        Raises:
            CondnetError: If the package that draws its plots is missing.
        """
        summary, intervals = self.summary, self.summary.get('intervals', {})
        measures = {by: {**summary[by], 'intervals': intervals.get(by, {})} for by in ranked_by(summary)}
        title = f'{summary.get("model", "")} ({summary.get("space", self.space)}): {len(self)} architectures ranked'
        settings = {**self.settings, **self.notes}
        write_page(path, Page(title, self.space, self.rows, measures, summary.get('ceiling'), settings))

    def to_frame(self) -> Any:
        """A data frame of pandas: index, architecture, prediction, and what the table says.

        Raises:
            CondnetError: If pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise CondnetError('a data frame needs pandas: pip install pandas') from error
        columns: dict[str, Any] = {
            'index': [p.index for p in self.predictions],
            'arch': [self.space.format(self.space.parse(p.index)) for p in self.predictions],
            'accuracy': [p.accuracy for p in self.predictions],
            'loss': [p.loss for p in self.predictions],
        }
        if self.table is not None:
            known = {'truth': self.table.accuracy, 'params': self.table.params, 'flops': self.table.flops}
            columns |= {name: values for name, values in known.items() if values is not None}
        return pandas.DataFrame(columns)

    def write(self, path: Path, report: bool = False) -> None:
        """Write predictions (CSV), the same best first, summary (JSON), a plot (PNG) and perhaps a page (HTML)."""
        plot = to_png(self.plot()) if self.table is not None or self._has_costs else None
        path.parent.mkdir(parents=True, exist_ok=True)
        self.to_csv(path)
        write_file(path.with_suffix('.json'), (json.dumps(self.summary, indent=2) + '\n').encode())
        write_best(best_file(path), self.space, self.rows)
        self.files[:] = [path, path.with_suffix('.json'), best_file(path)]
        if plot is not None:
            write_file(path.with_suffix('.png'), plot)
            self.files.append(path.with_suffix('.png'))
        if report:
            self.report(path.with_suffix('.html'))
            self.files.append(path.with_suffix('.html'))


def format_summary(summary: dict[str, Any]) -> str:
    """A small table of the summary, for the terminal."""
    what, numbers = _describe_model(summary), f'{summary["num_archs"]} architectures'
    if 'accuracy' not in summary:
        return f'{what}, {numbers}, no ground truth'
    *headings, last = SHOWN.values()
    truth = f'true accuracy: mean {summary["truth_mean"]:.2f}, best {summary["truth_max"]:.2f}'
    lines = [f'{what}, {numbers}, {truth}']
    names = ranked_by(summary)
    width = max(12, *(len(name) + 2 for name in names))
    lines.append(f'{"ranked by":<{width}}' + ''.join(f'{heading:>9}' for heading in headings) + f'{last:>13}')
    for name in names:
        cells = [summary[name][metric] for metric in SHOWN]
        texts = ['-' if cell is None else f'{cell:.3f}' for cell in cells]
        lines.append(f'{name:<{width}}' + ''.join(f'{text:>9}' for text in texts[:-1]) + f'{texts[-1]:>13}')
    lines += _describe_noise(summary)
    return '\n'.join(lines)


def _describe_model(summary: dict[str, Any]) -> str:
    """The model with its space, as far as the summary says them: that of a ranking made by hand need not."""
    facts = [summary['space']] if 'space' in summary else []
    if 'accuracy' in summary and 'split' in summary:
        facts.append('split' if summary['split'] else 'unsplit')
    model = summary.get('model', 'super-network')
    return f'{model} ({", ".join(facts)})' if facts else str(model)


def _describe_noise(summary: dict[str, Any]) -> list[str]:
    lines = []
    for by, its in summary.get('intervals', {}).items():
        ends = [f'{title} {its[key][0]:.{digits}f} to {its[key][1]:.{digits}f}' for key, title, digits in
                (('kendall_tau', 'KT', 2), ('top1', 'top-1', 2), ('top10', 'top-10', 2)) if key in its]  # fmt: skip
        lines.append(f'95% intervals by {by}: {", ".join(ends)}')
    if 'ceiling' in summary:
        lines.append(f'ceiling: one training of each architecture ranks their means with KT {summary["ceiling"]:.2f}')
    return lines
