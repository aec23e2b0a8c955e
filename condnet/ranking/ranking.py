"""The result of a ranking."""

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from condnet.benchmarks.tables import BenchmarkTable
from condnet.errors import CondnetError
from condnet.ranking.evaluate import Prediction
from condnet.ranking.mean_ranks import columns_of, mean_ranks
from condnet.ranking.metrics import SHOWN, ranked_by, ranking_metrics
from condnet.ranking.results import draw_predictions, summarize_predictions, write_predictions
from condnet.spaces.base import SearchSpace
from condnet.utils.files import write_file
from condnet.utils.plots import save_figure, to_png

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_logger = logging.getLogger(__name__)


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
    """

    predictions: list[Prediction]
    space: SearchSpace
    table: BenchmarkTable | None
    settings: dict[str, Any] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)
    rank_by: tuple[str, ...] = ()
    columns: dict[str, list[float]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.predictions)

    def __iter__(self) -> Iterator[Prediction]:
        return iter(self.predictions)

    def __repr__(self) -> str:
        truth = 'without a ground truth' if self.table is None else f'compared with {Path(self.table.path).name}'
        return f'<Ranking of {len(self)} architectures of {self.settings.get("space", self.space)}, {truth}>'

    def __str__(self) -> str:
        return format_summary(self.summary)

    def best(self, num: int = 1, by: str = 'accuracy') -> list[Prediction]:
        """The best by prediction, best first.

        Args:
            num: How many.
            by: `accuracy`, where equal ones are ordered by loss, `loss`, or a rank mean, of `rank_by` or another one of
                the same columns; equal ones of it are ordered by accuracy.

        Raises:
            CondnetError: If `by` is something else.
        """
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
        columns = columns_of(by)
        for name, _ in columns:
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
        """The metrics if there is a truth, the number of architectures, and what made the ranking."""
        return {**self._metrics(), **self.settings, **self.notes}

    def metrics(self) -> dict[str, Any]:
        """How well predictions rank the architectures, see `condnet.ranking.metrics.summarize`.

        Raises:
            CondnetError: If there is no ground truth.
        """
        self._check_truth()
        return self._metrics()

    def _check_truth(self) -> BenchmarkTable:
        if self.table is None:
            raise CondnetError('there is no ground truth to compare with; name it with benchmark=')
        return self.table

    def to_csv(self, path: str | Path) -> None:
        """Write the predictions: index, accuracy and loss. Reading gives the same numbers back."""
        write_predictions(Path(path), self.predictions)

    def plot(self, path: str | Path | None = None) -> 'Figure':
        """Scatter plot of prediction against truth, which notebooks show; with a path also written as PNG.

        Raises:
            CondnetError: If there is no ground truth.
        """
        return save_figure(draw_predictions(self.predictions, self._check_truth(), self.summary), path)

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

    def write(self, path: Path) -> None:
        """Write predictions (CSV), summary (JSON) and, with a table, a plot (PNG), each whole or not at all."""
        plot = None if self.table is None else to_png(self.plot())
        path.parent.mkdir(parents=True, exist_ok=True)
        self.to_csv(path)
        write_file(path.with_suffix('.json'), (json.dumps(self.summary, indent=2) + '\n').encode())
        if plot is not None:
            write_file(path.with_suffix('.png'), plot)
        _logger.info(f'wrote {path} and what belongs to it')


def format_summary(summary: dict[str, Any]) -> str:
    """A small table of the summary, for the terminal."""
    if 'accuracy' not in summary:
        return f'{summary["model"]} ({summary["space"]}), {summary["num_archs"]} architectures, no ground truth'
    *headings, last = SHOWN.values()
    lines = [
        f'{summary["model"]} ({summary["space"]}, {"split" if summary["split"] else "unsplit"}), '
        f'{summary["num_archs"]} architectures, true accuracy: mean {summary["truth_mean"]:.2f}, '
        f'best {summary["truth_max"]:.2f}',
    ]
    names = ranked_by(summary)
    width = max(12, *(len(name) + 2 for name in names))
    lines.append(f'{"ranked by":<{width}}' + ''.join(f'{heading:>9}' for heading in headings) + f'{last:>13}')
    for name in names:
        cells = [summary[name][metric] for metric in SHOWN]
        texts = ['-' if cell is None else f'{cell:.3f}' for cell in cells]
        lines.append(f'{name:<{width}}' + ''.join(f'{text:>9}' for text in texts[:-1]) + f'{texts[-1]:>13}')
    return '\n'.join(lines)
