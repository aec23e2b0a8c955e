"""Architecture search with a trained super-network: the `condnet-search` command.

Optuna proposes architectures, a population at a time; the super-network predicts those that respect the limits and are
new, together; Optuna hears of all. Everything is in Optuna's storage, so a search can be interrupted, continued, shared
by several processes, and watched in optuna-dashboard.
"""

import argparse
import csv
import io
import itertools
import json
import logging
import math
import sys
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import sqlalchemy.exc
import timm
import torch
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.study import StudyDirection
from optuna.trial import Trial, TrialState

import condnet
from condnet.benchmarks import PACKAGED_TABLES, BenchmarkTable
from condnet.checkpoint import sha256, write_file
from condnet.commands import find_device, hardware_name, run
from condnet.export import calibrated_subnet, check_onnx_packages, export_network, export_onnx
from condnet.latency import MeasuredLatency, read_latency_table
from condnet.models import Supernet
from condnet.ranking import EvaluationData, Prediction, predict
from condnet.spaces import Arch, SearchSpace, benchmark_network
from condnet.validate import (
    add_evaluation_flags,
    check_evaluation_flags,
    find_table,
    load_evaluation_images,
    load_supernet,
    prepare_data,
)

_logger = logging.getLogger('search')

OBJECTIVES = ('accuracy', 'loss', 'params', 'flops', 'latency')
PREDICTED = ('accuracy', 'loss')  # what only the super-network can tell
POPULATION = 50  # as in SPOS; so many proposals go to the super-network together
PATIENCE = 20  # populations without a new architecture, after which a search ends
# By default one decision mutates, often to what it was. The population fills with copies then, and of its children
# hardly one in fifty is new: more than 8,750 proposals for 500 architectures of macro, instead of about 1,000.
MUTATION_PROB = 0.25
_LIMITS = ('flops', 'params', 'latency')
_SAMPLERS: dict[str, Callable[[int], BaseSampler]] = {
    'nsga2': lambda seed: NSGAIISampler(population_size=POPULATION, mutation_prob=MUTATION_PROB, seed=seed),
    'tpe': lambda seed: TPESampler(seed=seed),
    'random': lambda seed: RandomSampler(seed=seed),
}

Evaluate = Callable[[list[Arch]], Iterable[Prediction]]  # in any order


@dataclass(frozen=True)
class Problem:
    """What is searched for.

    Args:
        space: Where.
        objectives: Some of `OBJECTIVES`. Accuracy is to be high, everything else low.
        limits: The most that an architecture may have of `flops`, `params` or `latency`.
        latency: Latency of an architecture in milliseconds; None where it plays no part.
        dataset: Data set of the benchmark whose networks' costs count.
    """

    space: SearchSpace
    objectives: tuple[str, ...] = ('accuracy',)
    limits: dict[str, float] = field(default_factory=dict)
    latency: Callable[[Arch], float] | None = None
    dataset: str = 'cifar10'

    def __post_init__(self) -> None:
        for name in self.objectives:
            if name not in OBJECTIVES:
                raise ValueError(f'unknown objective {name!r}; expected some of {", ".join(OBJECTIVES)}')
        if len(set(self.objectives)) != len(self.objectives) or not set(self.objectives) & set(PREDICTED):
            raise ValueError(f'objectives are {",".join(self.objectives)!r}; expected accuracy or loss, each name once')
        for name, limit in self.limits.items():
            if not limit > 0:
                raise ValueError(f'--max-{name} is {limit}, expected more than 0')

    @property
    def decides(self) -> str:
        """The objective that decides which architecture wins: the first that is predicted."""
        return next(name for name in self.objectives if name in PREDICTED)

    def cost(self, arch: Arch, name: str) -> float:
        """FLOPs, parameters or latency of the benchmark's network."""
        if name != 'latency':
            return getattr(self.space.cost(arch, self.dataset), name)
        if self.latency is None:
            raise ValueError('the latency of architectures is unknown')
        return self.latency(arch)

    def costs(self, arch: Arch) -> dict[str, float]:
        """Everything that is known of an architecture without its prediction."""
        return {name: self.cost(arch, name) for name in _LIMITS if name != 'latency' or self.latency is not None}

    def violations(self, costs: dict[str, float]) -> dict[str, float]:
        """By how much costs exceed each limit, relative to it, so that they can be added; 0 or less if they do not."""
        return {name: costs[name] / limit - 1 for name, limit in self.limits.items()}

    def respects_limits(self, arch: Arch) -> bool:
        return all(self.cost(arch, name) <= limit for name, limit in self.limits.items())

    def feasible(self) -> list[Arch] | None:
        """All architectures within the limits; None where each latency would have to be measured to know.

        Raises:
            ValueError: If there is none.
        """
        if 'latency' in self.limits and isinstance(self.latency, MeasuredLatency):
            return None
        archs = [arch for arch in self.space if self.respects_limits(arch)]
        if not archs:
            limits = ' and '.join(f'--max-{name} {limit:g}' for name, limit in self.limits.items())
            least = ', '.join(f'{min(self.cost(arch, name) for arch in self.space):g} {name}' for name in self.limits)
            raise ValueError(f'no architecture of {self.space} respects {limits}; the least is {least}')
        return archs

    def distributions(self) -> dict[str, BaseDistribution]:
        """Optuna's view of the space: a categorical parameter per decision."""
        names = [self.space.operations[choice] for choice in self.space.choices]
        return {f'decision{i}': CategoricalDistribution(names) for i in range(len(self.space.predecessors))}

    def params(self, arch: Arch) -> dict[str, str]:
        """An architecture as parameters of a trial."""
        return {f'decision{i}': self.space.operations[operation] for i, operation in enumerate(arch)}

    def arch(self, params: dict[str, Any]) -> Arch:
        """The architecture that a trial's parameters stand for."""
        return tuple(self.space.operations.index(params[f'decision{i}']) for i in range(len(self.space.predecessors)))


@dataclass(frozen=True)
class Candidate:
    """An architecture that was proposed; one that violates a limit has no prediction, as it was never evaluated."""

    arch: Arch
    costs: dict[str, float]
    prediction: Prediction | None = None

    def value(self, name: str) -> float:
        """Its value of an objective. Without a prediction, accuracy and loss are the worst there are."""
        if name in self.costs:
            return self.costs[name]
        if self.prediction is not None:
            return getattr(self.prediction, name)
        return -math.inf if name == 'accuracy' else math.inf

    def values(self, names: Iterable[str]) -> list[float]:
        return [self.value(name) for name in names]

    def attributes(self) -> dict[str, float]:
        """What is kept of it in a trial."""
        predicted = {} if self.prediction is None else {name: getattr(self.prediction, name) for name in PREDICTED}
        return {**self.costs, **predicted}


# The storage


def open_storage(storage: str) -> BaseStorage:
    """Open a storage of Optuna: a database by its URL, else a journal file, which is created.

    Raises:
        ValueError: If it is no such thing.
    """
    try:
        return RDBStorage(storage) if '://' in storage else _open_journal(Path(storage))
    except (optuna.exceptions.OptunaError, sqlalchemy.exc.SQLAlchemyError, ImportError) as error:
        raise ValueError(f'cannot open the database of --storage: {_first_line(error)}') from error


def _open_journal(path: Path) -> JournalStorage:
    """Open a journal, and drop the half line that a full disk or a killed process may have left at its end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        storage = JournalStorage(JournalFileBackend(str(path)))
    except (ValueError, LookupError, TypeError) as error:
        raise ValueError(f'{path} is no journal of Optuna, or is damaged: {_first_line(error)}') from error
    lock = JournalFileSymlinkLock(str(path))
    lock.acquire()
    try:
        content = path.read_bytes()
        complete = content.rfind(b'\n') + 1
        if content and not complete:
            raise ValueError(f'{path} is no journal of Optuna')
        if complete < len(content):
            with path.open('r+b') as file:
                file.truncate(complete)
    finally:
        lock.release()
    return storage


def open_study(
    problem: Problem, storage: BaseStorage, name: str = 'search', identity: dict[str, Any] | None = None
) -> optuna.Study:
    """Create a study, or continue the one of that name.

    Args:
        problem: What is searched for.
        storage: Where the study is kept.
        name: Its name there.
        identity: What must be the same for two searches to be one.

    Raises:
        ValueError: If the study is of another search.
    """
    directions = [
        StudyDirection.MAXIMIZE if objective == 'accuracy' else StudyDirection.MINIMIZE
        for objective in problem.objectives
    ]
    study = optuna.create_study(storage=storage, study_name=name, directions=directions, load_if_exists=True)
    identity = json.loads(json.dumps(identity or {}))
    if not study.get_trials(deepcopy=False) and 'identity' not in study.user_attrs:
        study.set_user_attr('identity', identity)
        with warnings.catch_warnings():
            warnings.simplefilter('ignore', optuna.exceptions.ExperimentalWarning)  # only the dashboard reads them
            study.set_metric_names(list(problem.objectives))
    theirs = study.user_attrs.get('identity', {})
    for key in sorted(theirs.keys() | identity.keys()):
        if theirs.get(key) != identity.get(key):
            raise ValueError(
                f'the storage holds the study {name!r} of another search: its {key} is {theirs.get(key)!r}, not '
                f'{identity.get(key)!r}; choose another --output, --storage or --study-name'
            )
    return study


def recorded_candidates(study: optuna.Study, problem: Problem) -> dict[Arch, Candidate]:
    """Every architecture that the study knows, evaluated or found to violate a limit."""
    candidates = {}
    for trial in study.get_trials(deepcopy=False, states=[TrialState.COMPLETE]):
        arch, attributes = problem.arch(trial.params), trial.user_attrs
        if arch not in candidates:
            prediction = None
            if 'accuracy' in attributes:
                prediction = Prediction(problem.space.index(arch), attributes['accuracy'], attributes['loss'])
            costs = {name: attributes[name] for name in _LIMITS if name in attributes}
            candidates[arch] = Candidate(arch, costs, prediction)
    return candidates


def evaluated_candidates(study: optuna.Study, problem: Problem) -> list[Candidate]:
    """Every architecture that was evaluated, best first by the objective that decides."""
    candidates = recorded_candidates(study, problem).values()
    return sorted((c for c in candidates if c.prediction is not None), key=partial(_merit, problem))


def _merit(problem: Problem, candidate: Candidate) -> tuple[float, ...]:
    """Sorts candidates, best first; equal accuracies, of which there are many on few images, by loss."""
    value = candidate.value(problem.decides)
    return (
        -value if problem.decides == 'accuracy' else value,
        candidate.value('loss'),
        problem.space.index(candidate.arch),
    )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


# The search


def search(
    study: optuna.Study,
    problem: Problem,
    evaluate: Evaluate,
    num_evals: int,
    sampler: str = 'nsga2',
    seed: int = 0,
) -> None:
    """Go on until the study holds so many distinct evaluated architectures, whoever evaluated them.

    It ends earlier when nothing new is proposed any more. Where there are no more architectures within the limits than
    may be evaluated, and with the sampler `grid`, all of them are evaluated.

    Args:
        study: A study of the problem.
        problem: What is searched for.
        evaluate: Predicts architectures.
        num_evals: Distinct evaluations, those that the study holds already included.
        sampler: `nsga2`, `tpe`, `random` or `grid`.
        seed: With the number of finished trials it determines what is proposed; processes that share a study should
            have one each.

    Raises:
        ValueError: If no architecture is within the limits.
    """
    feasible = problem.feasible()
    if feasible is not None and (sampler == 'grid' or len(feasible) <= num_evals):
        _logger.info(f'all {len(feasible)} architectures within the limits are evaluated')
        search_exhaustively(study, problem, feasible, evaluate)
        return
    fruitless = 0
    while fruitless < PATIENCE:
        known = recorded_candidates(study, problem)
        done = _num_evaluated(known)
        _logger.info(f'{done} of {num_evals} architectures, {len(study.get_trials(deepcopy=False))} proposals')
        if done >= num_evals:
            return
        study.sampler = _make_sampler(study, sampler, seed)
        new = search_population(study, problem, evaluate, known, num_evals)
        fruitless = 0 if new else fruitless + 1
    _logger.warning(f'the search ends early: {PATIENCE * POPULATION} proposals in a row brought nothing to evaluate')


def _num_evaluated(candidates: dict[Arch, Candidate]) -> int:
    return sum(candidate.prediction is not None for candidate in candidates.values())


def _make_sampler(study: optuna.Study, name: str, seed: int) -> BaseSampler:
    """A sampler for the next population; all that it has learned is in the study."""
    finished = sum(trial.state.is_finished() for trial in study.get_trials(deepcopy=False))
    return _SAMPLERS[name](int(np.random.SeedSequence([seed, finished]).generate_state(1)[0]))


def search_population(
    study: optuna.Study, problem: Problem, evaluate: Evaluate, known: dict[Arch, Candidate], num_evals: int
) -> int:
    """Ask for a population, evaluate what is new and within the limits, and tell the study of all.

    What is known already is told again, not evaluated again: without that, the samplers would propose it for ever.

    Args:
        study: The study, with its sampler.
        problem: What is searched for.
        evaluate: Predicts architectures.
        known: `recorded_candidates` of the study; what is proposed joins them.
        num_evals: As for `search`; it stops at once where other processes have evaluated the rest meanwhile.

    Returns:
        How many new architectures were proposed.
    """
    waiting: dict[Arch, list[Trial]] = defaultdict(list)
    try:
        new = _ask(study, problem, known, num_evals - _num_evaluated(known), waiting)
        for arch in [arch for arch in waiting if arch not in new]:
            _tell(study, problem, waiting.pop(arch), known[arch])
        for prediction in evaluate(new) if new else ():
            arch = problem.space.parse(prediction.index)
            _tell(study, problem, waiting.pop(arch), replace(known[arch], prediction=prediction))
            if waiting and _num_evaluated(recorded_candidates(study, problem)) >= num_evals:
                break
        return len(new)
    finally:
        for trial in itertools.chain.from_iterable(
            waiting.values()
        ):  # after an error, or if they are not needed any more
            study.tell(trial, state=TrialState.FAIL)


def _ask(
    study: optuna.Study,
    problem: Problem,
    known: dict[Arch, Candidate],
    limit: int,
    waiting: dict[Arch, list[Trial]],
) -> list[Arch]:
    """Ask for a population, or less if so many are not to be evaluated; proposals go to `waiting` and `known`.

    Returns:
        The architectures that are new and within the limits.
    """
    new: list[Arch] = []
    for _ in range(POPULATION):
        if len(new) == limit:
            break
        trial = study.ask(problem.distributions())
        arch = problem.arch(trial.params)
        waiting[arch].append(trial)
        is_known = arch in known
        if not is_known:
            known[arch] = Candidate(arch, problem.costs(arch))
        violations = problem.violations(known[arch].costs)
        for name, violation in violations.items():
            trial.set_constraint(name, violation)
        if not is_known and all(violation <= 0 for violation in violations.values()):
            new.append(arch)
    return new


def _tell(study: optuna.Study, problem: Problem, trials: list[Trial], candidate: Candidate) -> None:
    """Tell the study of all proposals of one architecture."""
    for trial in trials:
        for name, value in candidate.attributes().items():
            trial.set_user_attr(name, value)
        study.tell(trial, candidate.values(problem.objectives))


def search_exhaustively(study: optuna.Study, problem: Problem, archs: list[Arch], evaluate: Evaluate) -> None:
    """Evaluate architectures in one go, those that the study does not hold yet; the work is not shared.

    The work of Optuna's grid sampler, which reads all trials again at every proposal, and proposes one at a time.
    """
    known, distributions = recorded_candidates(study, problem), problem.distributions()
    todo = [arch for arch in archs if arch not in known or known[arch].prediction is None]
    for prediction in evaluate(todo) if todo else ():
        arch = problem.space.parse(prediction.index)
        candidate = Candidate(arch, problem.costs(arch), prediction)
        study.add_trial(
            optuna.trial.create_trial(
                params=problem.params(arch),
                distributions=distributions,
                values=candidate.values(problem.objectives),
                user_attrs=candidate.attributes(),
                constraints=problem.violations(candidate.costs),
            )
        )


# What a search found


def pareto_front(study: optuna.Study, problem: Problem) -> set[Arch]:
    """Architectures that no other one of the study beats in every objective; with one objective, the best."""
    return {problem.arch(trial.params) for trial in study.best_trials if 'accuracy' in trial.user_attrs}


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
        `accuracy`; `rank` (1 is best) among `num_archs`; of that set: `best`; `random`, its mean, what an architecture
        at random reaches; `random_search`, expected of the truly best of `num_evals` random ones, which is more than
        random search with the same super-network can reach.
    """
    truth = dict(zip(table.indices.tolist(), table.accuracy.tolist(), strict=True))
    result = {'accuracy': truth.get(problem.space.index(winner.arch))}
    if result['accuracy'] is None or feasible is None:
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
    text = io.StringIO()
    writer = csv.writer(text, lineterminator='\n')
    writer.writerow(['index', 'arch', *candidates[0].attributes(), 'front'])
    for candidate in candidates:
        names = problem.space.index(candidate.arch), problem.space.format(candidate.arch)
        writer.writerow([*names, *map(repr, candidate.attributes().values()), int(candidate.arch in front)])
    write_file(path, text.getvalue().encode())


_LABELS = {
    'accuracy': 'predicted accuracy (%)',
    'loss': 'predicted loss',
    'params': 'parameters',
    'flops': 'FLOPs',
    'latency': 'latency (ms)',
}


def plot_candidates(problem: Problem, candidates: list[Candidate], front: set[Arch]) -> bytes:
    """Plot of the evaluated architectures, the Pareto front and the limit, as PNG."""
    from matplotlib.figure import Figure  # slow to import, and without pyplot no display is asked for

    cost = next((name for name in problem.objectives if name not in PREDICTED), next(iter(problem.limits), 'flops'))
    chosen = [candidate for candidate in candidates if candidate.arch in front]
    groups = (
        (f'{len(candidates)} evaluated', candidates, {'s': 14, 'linewidths': 0, 'alpha': 0.5}),
        ('Pareto front', chosen, {'s': 40, 'facecolors': 'none', 'edgecolors': 'tab:orange'}),
        ('winner', candidates[:1], {'s': 120, 'marker': '*', 'color': 'tab:red'}),
    )
    figure = Figure(figsize=(6, 4.2), layout='constrained')
    ax = figure.subplots()
    for label, group, style in groups:
        ax.scatter([c.value(cost) for c in group], [c.value(problem.decides) for c in group], label=label, **style)
    if cost in problem.limits:
        ax.axvline(problem.limits[cost], color='gray', linestyle='--', label='limit')
    ax.set(xlabel=_LABELS[cost], ylabel=_LABELS[problem.decides], title=str(problem.space))
    ax.grid(alpha=0.3)
    ax.legend()
    stream = io.BytesIO()
    figure.savefig(stream, format='png', dpi=110)
    return stream.getvalue()


# The command


def make_parser() -> argparse.ArgumentParser:
    """Flags of the command."""
    parser = argparse.ArgumentParser('condnet-search', description=(__doc__ or '').splitlines()[0], allow_abbrev=False)
    parser.add_argument('checkpoint', help='training checkpoint, or folder of a model')
    parser.add_argument('--output', default='output/search', help='directory of the results')
    parser.set_defaults(model=None)  # any super-network
    group = parser.add_argument_group('search')
    group.add_argument('--sampler', choices=(*_SAMPLERS, 'grid'), default='nsga2', help="Optuna's; grid: everything")
    group.add_argument('--num-evals', type=int, default=500, help='distinct architectures to evaluate, by all '
                       'processes that share the storage')  # fmt: skip
    group.add_argument('--objectives', default='accuracy', help=f'some of {",".join(OBJECTIVES)}; several give a '
                       'Pareto front')  # fmt: skip
    group.add_argument('--max-flops', type=float, help="most FLOPs (multiply-adds) of the benchmark's network")
    group.add_argument('--max-params', type=float, help="most parameters of the benchmark's network")
    group.add_argument('--max-latency', type=float, help="highest latency of the benchmark's network, in ms")
    group.add_argument('--latency-table', help='latencies as HW-NAS-Bench has them (default: measured on --device)')
    group.add_argument('--latency-device', help='whose latencies to take from the table, such as raspi4')
    group.add_argument('--seed', type=int, default=0, help='give each process that shares a storage its own')
    group.add_argument('--storage', help="database URL or journal file (default: the output's study.journal)")
    group.add_argument('--study-name', default='search', help='name of the study in the storage')
    group.add_argument('--onnx', action='store_true', help='write the winner as ONNX as well')
    add_evaluation_flags(parser)
    return parser


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the flags.

    Raises:
        ValueError: If a value makes no sense.
    """
    args = make_parser().parse_args(argv)
    check_evaluation_flags(args)
    for name, least in (('num_evals', 1), ('seed', 0)):
        if getattr(args, name) < least:
            raise ValueError(f'--{name.replace("_", "-")} is {getattr(args, name)}, expected at least {least}')
    needs_latency = 'latency' in args.objectives.split(',') or args.max_latency is not None
    if (args.latency_table or args.latency_device) and not needs_latency:
        raise ValueError('--latency-table is of no use without --max-latency or the objective latency')
    if args.latency_device and not args.latency_table:
        raise ValueError(f'--latency-device is {args.latency_device!r}, expected a --latency-table with it')
    if args.onnx:
        check_onnx_packages()
    return args


def main(argv: list[str] | None = None) -> int:
    """Search; returns the exit status."""
    return run('condnet-search', lambda: search_architectures(parse_args(argv)))


def search_architectures(args: argparse.Namespace) -> dict[str, Any]:
    """Search as `parse_args` describes it, write the results and return their summary.

    Raises:
        ValueError: If the checkpoint, data, tables and storage do not fit together.
        OSError: If a disk is full. What was evaluated is in the storage then.
    """
    model = load_supernet(args)
    calibration, validation, dataset = load_evaluation_images(model, args)
    problem = make_problem(model, dataset, args)
    feasible = problem.feasible()
    table = find_truth(model, dataset, args)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    identity = search_identity(model, problem, dataset, len(validation), args)
    data = prepare_data(model, calibration, validation, args)
    output = Path(args.output)
    with storage_errors():
        storage = open_storage(args.storage or str(output / 'study.journal'))
        study = open_study(problem, storage, args.study_name, identity)
        search(study, problem, lambda archs: predict(model, archs, data), args.num_evals, args.sampler, args.seed)
        candidates, front = evaluated_candidates(study, problem), pareto_front(study, problem)
    if not candidates:
        raise ValueError('no proposal was within the limits; expected less tight ones')
    output.mkdir(parents=True, exist_ok=True)
    write_architectures(output / 'architectures.csv', problem, candidates, front)
    write_file(output / 'front.png', plot_candidates(problem, candidates, front))
    winner = candidates[0]
    summary = {
        'winner': describe_candidate(problem, winner),
        'network': export_winner(model, winner, data, output, args),
        'truth': None if table is None else true_result(table, problem, winner, feasible, len(candidates)),
        'num_evals': len(candidates),
        'num_proposals': len(study.get_trials(deepcopy=False)),
        'num_feasible': None if feasible is None else len(feasible),
        'front': [describe_candidate(problem, candidate) for candidate in candidates if candidate.arch in front],
        **identity,
        'sampler': args.sampler,
        'seed': args.seed,
        'training': args.training,
        'hardware': hardware_name(find_device(args.device)),
        'versions': {'torch': torch.__version__, 'timm': timm.__version__, 'optuna': optuna.__version__},
    }
    write_file(output / 'search.json', (json.dumps(summary, indent=2) + '\n').encode())
    print(format_summary(summary))
    return summary


def make_problem(model: Supernet, dataset: str, args: argparse.Namespace) -> Problem:
    """What the flags ask for. Costs are those of the benchmark's networks on the data set, or else on CIFAR-10.

    Raises:
        ValueError: If they contradict each other.
    """
    limits = {name: getattr(args, f'max_{name}') for name in _LIMITS if getattr(args, f'max_{name}') is not None}
    objectives = tuple(args.objectives.split(','))
    latency: Callable[[Arch], float] | None = None
    if args.latency_table:
        latency = read_latency_table(args.latency_table, model.space, args.latency_device).__getitem__
    elif 'latency' in (*objectives, *limits):
        if args.sampler == 'grid' and 'latency' in limits:
            raise ValueError('--sampler grid with --max-latency needs --latency-table; the latency of every '
                             'architecture would have to be measured first')  # fmt: skip
        size, network = model.pretrained_cfg['input_size'], benchmark_network(model.space.name, dataset)
        latency = MeasuredLatency(model.space, model.num_classes, size, find_device(args.device), network)
    if (model.space.name, dataset) not in PACKAGED_TABLES:
        dataset = 'cifar10'
    return Problem(model.space, objectives, limits, latency, dataset)


def find_truth(model: Supernet, dataset: str, args: argparse.Namespace) -> BenchmarkTable | None:
    """The benchmark's table if it is at hand; a search does not need it, so only one that was named must be there."""
    try:
        return find_table(model, dataset, args)
    except ValueError as error:
        if args.benchmark:
            raise
        _logger.warning(f'what the winner truly reaches is not reported: {error}')
        return None


def search_identity(
    model: Supernet, problem: Problem, dataset: str, num_images: int, args: argparse.Namespace
) -> dict[str, Any]:
    """What a study's values depend on; a search that differs in any of it is another search."""
    latency = None
    if args.latency_table:
        latency = f'{args.latency_device} of {sha256(args.latency_table)}'
    elif problem.latency is not None:
        latency = hardware_name(find_device(args.device))
    return {
        'model': model.pretrained_cfg['architecture'],
        'checkpoint_sha256': args.checkpoint_sha256,
        'ema': args.use_ema,
        'space': str(problem.space),
        'objectives': list(problem.objectives),
        'limits': problem.limits,
        'latency': latency,
        'dataset': dataset,
        'eval_images': num_images,
        'calib_batches': args.calib_batches,
        'calib_momentum': args.calib_momentum,
        'amp_dtype': args.amp_dtype,
        'condnet': condnet.__version__,
    }


@contextmanager
def storage_errors() -> Iterator[None]:
    """Say what became of the search where its storage fails.

    Raises:
        OSError: Instead of what Optuna and SQLAlchemy raise.
    """
    try:
        yield
    except (OSError, optuna.exceptions.OptunaError, sqlalchemy.exc.SQLAlchemyError) as error:
        raise OSError(
            f'the storage of the search failed: {_first_line(error)}; what it holds is kept, and the same command '
            'goes on from there'
        ) from error


def describe_candidate(problem: Problem, candidate: Candidate) -> dict[str, Any]:
    """A candidate, for the summary."""
    index, arch = problem.space.index(candidate.arch), problem.space.format(candidate.arch)
    return {'index': index, 'arch': arch, **candidate.attributes()}


def export_winner(
    model: Supernet, winner: Candidate, data: EvaluationData, output: Path, args: argparse.Namespace
) -> dict[str, Any]:
    """Write the winner as a network of its own, and return what it costs and scores."""
    net = calibrated_subnet(model, winner.arch, data)
    network = export_network(net, output / 'network', args.training, data)
    if args.onnx:
        network['onnx_difference'] = export_onnx(net, output / 'network.onnx', data.images[: data.batch_size])
    return network


def format_summary(summary: dict[str, Any]) -> str:
    """The result in a few lines, for the terminal."""
    winner, network, truth = summary['winner'], summary['network'], summary['truth']
    latency = f', {winner["latency"]:.3g} ms' if 'latency' in winner else ''
    lines = [
        f'{summary["model"]} ({summary["space"]}): {summary["num_evals"]} architectures evaluated, '
        f'{len(summary["front"])} on the Pareto front of {", ".join(summary["objectives"])}',
        f'winner: {winner["arch"]} (index {winner["index"]})',
        f'  predicted: accuracy {winner["accuracy"]:.2f}, loss {winner["loss"]:.4f}',
        f"  benchmark's network: {winner['params']:,} parameters, {winner['flops']:,} FLOPs{latency}",
        f'  exported network: {network["params"]:,} parameters, {network["flops"]:,} FLOPs, accuracy '
        f'{network["accuracy"]:.2f}',
    ]
    if truth and truth['accuracy'] is not None:
        lines.append(f'  truth: accuracy {truth["accuracy"]:.2f}')
        if 'rank' in truth:
            lines[-1] += (
                f', rank {truth["rank"]} of {truth["num_archs"]} within the limits (best {truth["best"]:.2f}, mean '
                f'{truth["random"]:.2f}); the truly best of {summary["num_evals"]} random ones: '
                f'{truth["random_search"]:.2f} expected'
            )
    return '\n'.join(lines)


if __name__ == '__main__':
    sys.exit(main())
