"""A ranking from super-network to results."""

import dataclasses
import hashlib
import itertools
import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from tqdm import tqdm

from condnet.benchmarks.tables import BenchmarkTable
from condnet.errors import CondnetError, show
from condnet.models import Supernet
from condnet.models.counts import describe_untrained
from condnet.ranking.config import DEFAULT_NUM_ARCHS, EvalConfig, RankConfig
from condnet.ranking.costs import NetworkCosts
from condnet.ranking.evaluate import EvaluationData, Prediction
from condnet.ranking.inputs import (
    Benchmark,
    Data,
    find_table,
    open_evaluation_images,
    provenance,
    with_data,
)
from condnet.ranking.mean_ranks import columns_of, parse_rank_by, read_columns
from condnet.ranking.ranking import Ranking
from condnet.ranking.results import Journal, check_finished
from condnet.ranking.subject import Model, Subject, as_supernet_subject, open_supernet
from condnet.ranking.tree import predict
from condnet.ranking.workers import Team, join_team
from condnet.reports.page import check_report_package
from condnet.spaces.base import ENUMERABLE, Arch, SearchSpace
from condnet.spaces.notation import integer, list_archs, plain
from condnet.spaces.registry import get_space
from condnet.utils.files import check_folder_to_write
from condnet.utils.settings import SettingError, make_config

_logger = logging.getLogger(__name__)


def rank(
    model: Model,
    archs: 'int | str | Iterable[str | int | Arch] | None' = None,
    data: Data | None = None,
    benchmark: Benchmark | None = None,
    config: EvalConfig | None = None,
    **settings: Any,
) -> Ranking:
    """Predict architectures with a super-network, and compare the predictions with a benchmark.

    Nothing is printed, and nothing written unless `results_file` says where: then predictions, summary and plot, and
    a ranking that was interrupted is continued.

    Args:
        model: Training checkpoint, folder of a model, name of a pretrained one, or a super-network, which is left as
            it is (and evaluated on the device that it is on, if none is set).
        archs: How many random ones of the benchmark's, 'all', or these: tuples, official strings or indices. A string
            is one architecture, and so is a tuple with a number for each decision; a list holds several. By default
            200, or all of fewer.
        data: What to evaluate on: the directory of the data set that it was trained on, 'glyphs', the whole training
            set as `condnet.data.Images`, or an `EvaluationData`. A model of the letters needs none.
        benchmark: Ground truth: file, directory or table; False for none. By default it is looked for in the data's
            directory and in $CONDNET_DATA.
        config: How they are evaluated; by default `RankConfig()`.
        **settings: Fields of `RankConfig`, which take precedence.

    Raises:
        CondnetError: If super-network, data and table do not fit together.
    """
    config = make_config(RankConfig, config, for_model(model, config, settings))
    num = archs if isinstance(archs, str) and archs == 'all' else integer(plain(archs))
    if num is not None:
        config, archs = dataclasses.replace(config, num_archs=str(num), archs=None), None
    subject = open_supernet(model, config, config.model)
    request = _Request(None if archs is None else _listed(archs, subject.model.space), data, benchmark)
    return cast(Ranking, _Ranker(subject, with_data(config, data)).rank(request))


def _listed(archs: Any, space: SearchSpace) -> list[Any]:
    """Architectures one by one; none of them would otherwise be 200 random ones."""
    if not isinstance(archs, Iterable) or not (listed := list_archs(archs, space)):
        raise CondnetError(f"`archs` is {show(archs)}, expected a number, 'all', or at least one architecture")
    return listed


def for_model(model: Model, config: EvalConfig | None, settings: dict[str, Any]) -> dict[str, Any]:
    """Settings with the device of a model that is given itself, where none is set."""
    if isinstance(model, nn.Module) and config is None and 'device' not in settings:
        return settings | {'device': str(next(model.parameters()).device)}
    return settings


def rank_in_team(subject: Subject[nn.Module], config: RankConfig) -> Ranking | None:
    """Rank as the command does: torchrun's processes share the work, and a terminal shows how far it is.

    Returns:
        The ranking; None in processes that help the first one.

    Raises:
        CondnetError: If it is not a super-network, or data and table do not fit it. Nothing is written then.
        ConnectionError: If another process is lost.
    """
    ranker = _Ranker(as_supernet_subject(subject), config, shows_progress=True)
    return ranker.rank(_Request(), join_team())


@dataclass(frozen=True)
class _Request:
    """What the caller gives itself, where settings would only name it, see `rank`."""

    archs: list[Any] | None = None
    data: Data | None = None
    benchmark: Benchmark | None = None


@dataclass(frozen=True)
class _Ranker:
    """A ranking of one super-network."""

    subject: Subject[Supernet]
    config: RankConfig
    shows_progress: bool = False

    def rank(self, request: _Request, team: Team | None = None) -> Ranking | None:
        """The ranking; None in processes that only help the first one of a team."""
        if self.config.results_file is not None:
            check_results_file(Path(self.config.results_file))
            if self.config.report:
                check_report_package()
        model, config = self.subject.model, self.config
        given = self._given(request)
        is_ranking = len(given) > 1 or (not given and config.num_archs != '1')  # one architecture has no rank
        with team.first_ahead(config.download) if team is not None else nullcontext():
            images = open_evaluation_images(self.subject, config, request.data)
            table = find_table(model, images.dataset, config, request.benchmark) if is_ranking else None
        num_archs, archs = config.num_archs, sorted(given, key=model.space.index)
        if not given:
            num_archs, archs = draw_archs(model.space, table, config)
        if warning := describe_untrained(model.space, archs, self.subject.training.get('untrained', [])):
            _logger.warning(f'of what is ranked, {warning}')
        table = self._rows(table, archs, bool(given) and request.benchmark in (None, True) and not config.benchmark)
        settings = provenance(self.subject, config, images)
        settings['architectures'] = 'given' if given else f'{num_archs}, drawn with seed {config.seed}'
        settings |= {'table': None if table is None else {'file': Path(table.path).name, 'sha256': table.sha256}}
        if config.results_file is not None:
            check_finished(Path(config.results_file), settings, map(model.space.index, archs))
        data = images.prepare(model, config)
        if team is not None:
            team.check_equal(settings)
            if team.rank > 0:
                team.help(model, data)
                return None
        # The journal does without the notes: those of before they were recorded are continued.
        notes = {'data_match': images.match}
        cost = NetworkCosts.of(model, images.input_size(model))
        columns = self._columns(archs, table, cost)
        if columns and config.rank_columns is not None:
            path = Path(config.rank_columns)
            notes['rank_columns'] = {'file': path.name, 'sha256': hashlib.sha256(path.read_bytes()).hexdigest()}
        rank_by = tuple(parse_rank_by(config.rank_by))
        ranking = Ranking([], model.space, table, settings, notes, rank_by, columns, cost)
        return self._predict(ranking, archs, data, team)

    def _rows(self, table: BenchmarkTable | None, archs: list[Arch], may_lack: bool) -> BenchmarkTable | None:
        """The truth of the architectures; None if nobody named the table, and it lacks some that are named."""
        indices = [self.subject.model.space.index(arch) for arch in archs]
        if table is not None and may_lack and (lacking := set(indices).difference(table.indices.tolist())):
            _logger.info(f'predictions are written without a comparison: {Path(table.path).name} lacks '
                         f'{len(lacking)} of these {len(archs)} architectures')  # fmt: skip
            return None
        return None if table is None else table.select(indices)

    def _given(self, request: _Request) -> set[Arch]:
        """The architectures that are named; none if random ones are asked for.

        Raises:
            CondnetError: If one is none of the search space, or an empty list is given.
        """
        asked = self.config.archs if request.archs is None else request.archs
        given = {self.subject.model.space.parse(arch) for arch in asked or ()}
        if asked is not None and not given:
            raise SettingError('archs', 'is empty, expected architectures, or leave it out')
        return given

    def _columns(
        self, archs: list[Arch], table: BenchmarkTable | None, cost: NetworkCosts | None
    ) -> dict[str, list[float]]:
        """What rank means need beside the predictions, in order of the architectures.

        Raises:
            CondnetError: If it is not known of all of them.
        """
        space, file = self.subject.model.space, self.config.rank_columns
        wanted = {name for by in parse_rank_by(self.config.rank_by) for name, _ in columns_of(by)[1:]}
        columns: dict[str, list[float]] = {}
        for name in ('flops', 'params'):
            known = None if table is None else getattr(table, name)
            if known is not None:
                columns[name] = known.tolist()
            elif name in wanted and cost is not None:
                columns[name] = [getattr(cost(arch), name) for arch in archs]
        if missing := sorted(wanted - columns.keys()):
            if file is None:
                raise CondnetError(f'`rank_by` needs {", ".join(missing)}, which is not known; name a table with it '
                                   'by `rank_columns`')  # fmt: skip
            read, indices = read_columns(file, get_space(space.name), missing), [space.index(arch) for arch in archs]
            if lacking := [index for index in indices if index not in read[missing[0]]]:
                raise CondnetError(f'{file} lacks {len(lacking)} of {len(archs)} architectures: index {lacking[0]}')
            columns |= {name: [values[index] for index in indices] for name, values in read.items()}
        return columns

    def _predict(self, ranking: Ranking, archs: list[Arch], data: EvaluationData, team: Team | None) -> Ranking:
        """Predictions for all architectures, and the results files, if they are asked for."""
        path = None if self.config.results_file is None else Path(self.config.results_file)
        journal = None if path is None else Journal(path.with_suffix('.partial'), ranking.settings)
        model = self.subject.model

        def evaluate(missing: list[Arch]) -> Iterator[Prediction]:
            return predict(model, missing, data) if team is None else team.lead(model, missing, data)

        predictions = rank_architectures(model.space, archs, evaluate, journal, self.shows_progress)
        ranking = dataclasses.replace(ranking, predictions=predictions)
        if path is not None and journal is not None:
            ranking.write(path, self.config.report)
            journal.remove()
        return ranking


def check_results_file(path: Path) -> None:
    """Check, without a trace, that results can be written.

    Raises:
        CondnetError: If they cannot.
    """
    if path.is_dir():
        raise SettingError('results_file', f'is {str(path)!r}, expected the name of a file that ends in .csv')
    check_folder_to_write(path.parent)


def rank_architectures(
    space: SearchSpace,
    archs: list[Arch],
    evaluate: Callable[[list[Arch]], Iterator[Prediction]],
    journal: Journal | None = None,
    shows_progress: bool = False,
) -> list[Prediction]:
    """Predictions for all architectures: those in the journal, and the missing ones, which are added to it."""
    wanted = {space.index(arch): arch for arch in archs}
    done = [] if journal is None else [known for known in journal.predictions if known.index in wanted]
    missing = [wanted[index] for index in sorted(wanted.keys() - {known.index for known in done})]
    num_done = len(done)
    if journal is not None and num_done:
        _logger.info(f'{num_done} of {len(archs)} architectures are in {journal.path}')
    is_hidden = not (shows_progress and sys.stderr.isatty())
    progress = tqdm(evaluate(missing), 'ranking', len(archs), initial=num_done, disable=is_hidden)
    for prediction in log_lines(progress, len(missing)):
        if journal is not None:
            journal.append(prediction)
        done.append(prediction)
    return sorted(done, key=lambda prediction: prediction.index)  # the plot depends on their order


def draw_archs(space: SearchSpace, table: BenchmarkTable | None, config: RankConfig) -> tuple[str, list[Arch]]:
    """Random architectures in order of their index, out of those in the benchmark's table, and how many were asked for.

    Raises:
        CondnetError: If there are fewer than asked for.
    """
    if table is None:
        size, archs = space.size, space.shuffled(config.seed)
    else:
        known = _archs_of_table(space, table, config.seed)
        size, archs = len(known), iter(known)
    asked = str(min(DEFAULT_NUM_ARCHS, size)) if config.num_archs is None else config.num_archs
    if asked == 'all' and size > ENUMERABLE:
        raise CondnetError(f'{space} has {size} architectures, too many to rank all; give a number with `num_archs`')
    num = size if asked == 'all' else int(asked)
    if not 0 < num <= size:
        where = '' if table is None else f' with a row in {table.path}'
        raise CondnetError(f'cannot draw {num} architectures, expected 1..{size}: {space} has no more{where}')
    return asked, sorted(itertools.islice(archs, num), key=space.index)


def _archs_of_table(space: SearchSpace, table: BenchmarkTable, seed: int) -> list[Arch]:
    """Architectures of a space, or a part of one, that have a row in a table, in random order."""
    archs = [space.parse(index) for index in sorted(set(table.indices.tolist())) if index in space]
    if space.is_enumerable:
        known = set(archs)
        return [arch for arch in space.shuffled(seed) if arch in known]
    order = torch.randperm(len(archs), generator=torch.Generator().manual_seed(seed))
    return [archs[i] for i in order.tolist()]


def log_lines(predictions: Iterable[Prediction], num: int) -> Iterator[Prediction]:
    """Pass predictions on, and leave a line in the log now and then."""
    started = time.perf_counter()
    for done, prediction in enumerate(predictions, 1):
        if done % 20 == 0 or done == num:
            rate = done / (time.perf_counter() - started)
            _logger.info(f'{done} of {num} architectures, {rate:.2f} per second, {(num - done) / rate:.0f} s left')
        yield prediction
