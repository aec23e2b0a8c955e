"""The result of a search."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from condnet.benchmarks.tables import BenchmarkTable
from condnet.models import Supernet
from condnet.ranking.evaluate import EvaluationData
from condnet.reports.page import Page, Row, write_page
from condnet.searching.export import calibrated_subnet, check_onnx_packages, export_network, export_onnx
from condnet.searching.problem import Candidate, Problem
from condnet.searching.report import describe_candidate, draw_candidates, format_summary, write_architectures
from condnet.spaces.base import Arch
from condnet.utils.files import write_file
from condnet.utils.locks import Lock
from condnet.utils.plots import save_figure, to_png

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False, repr=False)
class SearchResult:
    """What a search has found.

    Args:
        problem: What was searched for.
        candidates: Every architecture that was evaluated, best first.
        front_archs: Architectures that none of them beats in every objective.
        truth: What the winner truly reaches, see `condnet.searching.report.true_result`; None if it is not known.
        model: The super-network.
        data: What it was evaluated on.
        counts: How many architectures were evaluated, proposed, and within the limits.
        facts: What made the result.
        network: What is known of the winner as a network of its own, once it is exported.
        table: Ground truth, if there is one.
        files: What was written.
    """

    problem: Problem
    candidates: list[Candidate]
    front_archs: set[Arch]
    truth: dict[str, Any] | None
    model: Supernet
    data: EvaluationData
    counts: dict[str, Any]
    facts: dict[str, Any]
    network: dict[str, Any] = field(default_factory=dict)
    table: BenchmarkTable | None = None
    files: list[Path] = field(default_factory=list)

    @property
    def best(self) -> Candidate:
        """The winner."""
        return self.candidates[0]

    @property
    def front(self) -> list[Candidate]:
        """The Pareto front, best first; with one objective, the best and its equals."""
        return [candidate for candidate in self.candidates if candidate.arch in self.front_archs]

    def __len__(self) -> int:
        return len(self.candidates)

    def __repr__(self) -> str:
        winner = self.problem.space.format(self.best.arch)
        return f'<SearchResult of {len(self)} architectures of {self.problem.space}, best {winner}>'

    def __str__(self) -> str:
        return format_summary(self.summary)

    @property
    def summary(self) -> dict[str, Any]:
        """All of it, for JSON."""
        return {
            'winner': describe_candidate(self.problem, self.best),
            'network': self.network,
            'truth': self.truth,
            **self.counts,
            'front': [describe_candidate(self.problem, candidate) for candidate in self.front],
            **self.facts,
        }

    def to_csv(self, path: str | Path) -> None:
        """Write every evaluated architecture, best first, with its costs and whether it is on the Pareto front."""
        write_architectures(Path(path), self.problem, self.candidates, self.front_archs)

    def plot(self, path: str | Path | None = None) -> 'Figure':
        """Plot of the evaluated architectures, which notebooks show; with a path also written as PNG."""
        return save_figure(draw_candidates(self.problem, self.candidates, self.front_archs), path)

    def export(self, folder: str | Path, onnx: bool = False) -> dict[str, Any]:
        """Write the winner as a network of its own, for `timm.create_model('local-dir:FOLDER', pretrained=True)`.

        Args:
            folder: Where to; it is created.
            onnx: Whether to write it as ONNX as well, beside the folder.

        Returns:
            Of the network as it is read back: its own parameters and FLOPs, and accuracy and loss on the images.

        Raises:
            CondnetError: If a package that ONNX needs is not installed.
        """
        if onnx:
            check_onnx_packages()
        folder = Path(folder)
        net = calibrated_subnet(self.model, self.best.arch, self.data)
        self.network.update(export_network(net, folder, self.facts.get('training', {}), self.data))
        if onnx:
            images = self.data.images[: max(2, self.data.batch_size)]  # a single one would fix the size of a batch
            self.network['onnx_difference'] = export_onnx(net, folder.with_name(f'{folder.name}.onnx'), images)
        return dict(self.network)

    def report(self, path: str | Path) -> None:
        """Write one page of HTML: plots with the architecture under the pointer, the best drawn, and settings.

        Raises:
            CondnetError: If the package that draws its plots is missing.
        """
        truth, space = {}, self.problem.space
        if self.table is not None:
            truth = dict(zip(self.table.indices.tolist(), self.table.accuracy.tolist(), strict=True))
        rows = [Row(c.arch, c.value('accuracy'), c.value('loss'), truth.get(space.index(c.arch)), c.costs)
                for c in self.candidates]  # fmt: skip
        headline, *notes = str(self).splitlines()
        write_page(path, Page(headline, space, rows, settings=self.facts, notes=notes))

    def write(self, output: Path, onnx: bool = False, report: bool = False) -> None:
        """Write table, plot, the winner's network, the summary and perhaps a page to a folder."""
        output.mkdir(parents=True, exist_ok=True)
        with alone_in(output):
            self.to_csv(output / 'architectures.csv')
            write_file(output / 'front.png', to_png(self.plot()))
            self.export(output / 'network', onnx)
            write_file(output / 'search.json', (json.dumps(self.summary, indent=2) + '\n').encode())
            if report:
                self.report(output / 'report.html')
        names = ['architectures.csv', 'front.png', 'network', 'search.json']
        names += (['network.onnx'] if onnx else []) + (['report.html'] if report else [])
        self.files[:] = [output / name for name in names]


@contextmanager
def alone_in(output: Path) -> Iterator[None]:
    """Wait until no other process of the same search is writing its results there."""
    with Lock(output / '.lock'):
        yield
