"""An architecture search as a study of Optuna: what is searched for, where it is kept, and how it goes on.

Optuna proposes architectures, a population at a time; those that respect the limits and are new are evaluated together;
Optuna hears of all. Everything is in Optuna's storage, so a search can be interrupted, continued, shared by several
processes, and watched in optuna-dashboard.
"""

import itertools
import json
import logging
import math
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import sqlalchemy
import sqlalchemy.exc
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection
from optuna.trial import Trial, TrialState

from condnet.commands import check_folder_to_write
from condnet.errors import CondnetError
from condnet.latency import MeasuredLatency
from condnet.locks import Lock, lock_file
from condnet.ranking import Prediction
from condnet.spaces import Arch, SearchSpace

_logger = logging.getLogger('search')

OBJECTIVES = ('accuracy', 'loss', 'params', 'flops', 'latency')
PREDICTED = ('accuracy', 'loss')  # what only the super-network can tell
POPULATION = 50  # as in SPOS; so many proposals go to the super-network together
PATIENCE = 20  # populations without a new architecture, after which a search ends
# By default one decision mutates, often to what it was. The population fills with copies then, and of its children
# hardly one in fifty is new: more than 8,750 proposals for 500 architectures of macro, instead of about 1,000.
MUTATION_PROB = 0.25
LIMITS = ('flops', 'params', 'latency')
SAMPLERS: dict[str, Callable[[int], BaseSampler]] = {
    'nsga2': lambda seed: NSGAIISampler(population_size=POPULATION, mutation_prob=MUTATION_PROB, seed=seed),
    'tpe': lambda seed: TPESampler(seed=seed),
    'random': lambda seed: RandomSampler(seed=seed),
}

Evaluate = Callable[[list[Arch]], Iterable[Prediction]]  # in any order


@dataclass(frozen=True)
class Problem:
    """What is searched for.

    Args:
        space: Where. Its costs need to be known only if a limit or an objective asks for them.
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
                raise CondnetError(f'unknown objective {name!r}; expected some of {", ".join(OBJECTIVES)}')
        if len(set(self.objectives)) != len(self.objectives) or not set(self.objectives) & set(PREDICTED):
            raise CondnetError(
                f'objectives are {",".join(self.objectives)!r}; expected accuracy or loss, each name once'
            )
        for name, limit in self.limits.items():
            if not 0 < limit < math.inf:
                raise CondnetError(f'--max-{name} is {limit}, expected more than 0, and finite')
        for name in ('flops', 'params'):
            if name in (*self.objectives, *self.limits) and not self.has_costs:
                asked = f'--max-{name}' if name in self.limits else f'the objective {name}'
                raise CondnetError(f'{asked} needs the costs of architectures of {self.space.name}, which are not '
                                   'known: it has no cost_table')  # fmt: skip

    @cached_property
    def has_costs(self) -> bool:
        """Whether FLOPs and parameters are known."""
        return self.space.has_costs(self.dataset)

    @property
    def decides(self) -> str:
        """The objective that decides which architecture wins: the first that is predicted."""
        return next(name for name in self.objectives if name in PREDICTED)

    def cost(self, arch: Arch, name: str) -> float:
        """FLOPs, parameters or latency of the benchmark's network."""
        if name != 'latency':
            return getattr(self.space.cost(arch, self.dataset), name)
        if self.latency is None:
            raise CondnetError('the latency of architectures is unknown')
        return self.latency(arch)

    def costs(self, arch: Arch) -> dict[str, float]:
        """Everything that is known of an architecture without its prediction."""
        known = {'flops': self.has_costs, 'params': self.has_costs, 'latency': self.latency is not None}
        return {name: self.cost(arch, name) for name in LIMITS if known[name]}

    def violations(self, costs: dict[str, float]) -> dict[str, float]:
        """By how much costs exceed each limit, relative to it, so that they can be added; 0 or less if they do not."""
        return {name: costs[name] / limit - 1 for name, limit in self.limits.items()}

    def respects_limits(self, arch: Arch) -> bool:
        return all(self.cost(arch, name) <= limit for name, limit in self.limits.items())

    def feasible(self) -> list[Arch] | None:
        """All architectures within the limits; None where each latency would have to be measured to know, or where the
        space is too large to walk through.

        Raises:
            CondnetError: If there is none.
        """
        if 'latency' in self.limits and isinstance(self.latency, MeasuredLatency):
            self._check_measured_limit()
            return None
        if not self.space.is_enumerable:
            return None
        archs = [arch for arch in self.space if self.respects_limits(arch)]
        if not archs:
            limits = ' and '.join(f'--max-{name} {limit:g}' for name, limit in self.limits.items())
            least = ', '.join(f'{min(self.cost(arch, name) for arch in self.space):g} {name}' for name in self.limits)
            raise CondnetError(f'no architecture of {self.space} respects {limits}; the least is {least}')
        return archs

    def _check_measured_limit(self) -> None:
        """Measure the smallest network before a search that nothing would come of."""
        if not (self.has_costs and self.space.is_enumerable):
            return  # which one that is, is not known
        smallest = min(self.space, key=lambda arch: self.cost(arch, 'flops'))
        if (least := self.cost(smallest, 'latency')) > self.limits['latency']:
            raise CondnetError(f'no architecture of {self.space} respects --max-latency {self.limits["latency"]:g}; '
                               f'that of the fewest FLOPs takes {least:.3g} ms here')  # fmt: skip

    def distributions(self) -> dict[str, BaseDistribution]:
        """Optuna's view of the space: a categorical parameter per decision."""
        names = [
            [self.space.operations[choice] for choice in self.space.choices_of(decision)]
            for decision in range(len(self.space.predecessors))
        ]
        return {f'decision{i}': CategoricalDistribution(choices) for i, choices in enumerate(names)}

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


class _Journal(JournalStorage):
    """A journal file, and the lock that whoever writes to it holds.

    Optuna's own lock, a symbolic link, stays when a process is killed: for 30 seconds, and where the path is relative,
    so that the link leads nowhere, for ever.
    """

    def __init__(self, path: Path) -> None:
        self.lock = Lock(lock_file(path))
        super().__init__(JournalFileBackend(str(path), self.lock))  # type: ignore[arg-type]  # its base class is private


class SharedStudy(optuna.Study):
    """A study that several processes may work on.

    Args:
        study: The study.
        storage: Where it is kept.
    """

    def __init__(self, study: optuna.Study, storage: BaseStorage) -> None:
        super().__init__(study.study_name, storage, study.sampler, study.pruner)
        self._shared = storage

    def alone(self) -> AbstractContextManager[Any]:
        """Keep the other processes from evaluations of theirs that would count."""
        if isinstance(self._shared, _Journal):
            return self._shared.lock
        return _database_lock(self._shared, self._study_id) if isinstance(self._shared, RDBStorage) else nullcontext()


@contextmanager
def _database_lock(storage: RDBStorage, study_id: int) -> Iterator[None]:
    """Hold a lock on a study in a database: on its row, or of SQLite, which locks no rows, on all."""
    if storage.engine.name == 'sqlite':
        with _sqlite_lock(storage.engine.url):
            yield
        return
    table = sqlalchemy.table('studies', sqlalchemy.column('study_id'))  # meanwhile nothing can be added to the study
    with storage.engine.begin() as connection:
        connection.execute(sqlalchemy.select(table).where(table.c.study_id == study_id).with_for_update())
        yield


def _sqlite_lock(url: sqlalchemy.URL) -> AbstractContextManager[Any]:
    """A lock on the file of an SQLite database; nothing for one in memory, or another database."""
    file = (url.database or '').removeprefix('file:')
    if url.get_backend_name() != 'sqlite' or file in ('', ':memory:') or Path(file).is_dir():
        return nullcontext()
    return Lock(lock_file(Path(file)))


def open_storage(storage: str) -> BaseStorage:
    """Open a storage of Optuna: a database by its URL, else a journal file, which is created.

    Raises:
        CondnetError: If it is no such thing.
    """
    if '://' not in storage:
        return _open_journal(Path(storage))
    try:
        with _sqlite_lock(sqlalchemy.make_url(storage)):  # two processes would make its tables at once, and one fail
            return RDBStorage(storage)
    except (OSError, ValueError, optuna.exceptions.OptunaError, sqlalchemy.exc.SQLAlchemyError, ImportError) as error:
        raise CondnetError(f'cannot open the database of --storage: {_first_line(error)}') from error


def _open_journal(path: Path) -> _Journal:
    """Open a journal, and drop the half line that a full disk or a killed process may have left at its end."""
    check_folder_to_write(path.parent)
    if path.exists() and not path.is_file():  # a device may have no end
        raise CondnetError(f'{path} is no file, expected a journal of Optuna, or a name for one')
    if path.exists() and (content := path.read_bytes()) and b'\n' not in content:
        raise CondnetError(f'{path} is no journal of Optuna')
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        storage = _Journal(path)
    except (ValueError, LookupError, TypeError) as error:
        raise CondnetError(f'{path} is no journal of Optuna, or is damaged: {_first_line(error)}') from error
    with storage.lock:
        content = path.read_bytes()
        complete = content.rfind(b'\n') + 1
        if complete < len(content):
            with path.open('r+b') as file:
                file.truncate(complete)
    return storage


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


def open_study(
    problem: Problem, storage: BaseStorage, name: str = 'search', identity: dict[str, Any] | None = None
) -> SharedStudy:
    """Create a study, or continue the one of that name.

    Args:
        problem: What is searched for.
        storage: Where the study is kept.
        name: Its name there.
        identity: What must be the same for two searches to be one.

    Raises:
        CondnetError: If the study is of another search.
    """
    directions = [
        StudyDirection.MAXIMIZE if objective == 'accuracy' else StudyDirection.MINIMIZE
        for objective in problem.objectives
    ]
    created = optuna.create_study(storage=storage, study_name=name, directions=directions, load_if_exists=True)
    study, identity = SharedStudy(created, storage), json.loads(json.dumps(identity or {}))
    if not study.get_trials(deepcopy=False) and 'identity' not in study.user_attrs:
        study.set_user_attr('identity', identity)
        with warnings.catch_warnings():
            warnings.simplefilter('ignore', optuna.exceptions.ExperimentalWarning)  # only the dashboard reads them
            study.set_metric_names(list(problem.objectives))
    theirs = study.user_attrs.get('identity', {})
    for key in sorted(theirs.keys() | identity.keys()):
        if theirs.get(key) != identity.get(key):
            raise CondnetError(
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
            costs = {name: attributes[name] for name in LIMITS if name in attributes}
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
    study: SharedStudy,
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
        CondnetError: If no architecture is within the limits.
    """
    feasible = problem.feasible()
    if sampler == 'grid' and feasible is None:
        raise CondnetError('the sampler grid evaluates all architectures within the limits; which of the '
                           f'{problem.space.size} of {problem.space} these are is not known')  # fmt: skip
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
    return SAMPLERS[name](int(np.random.SeedSequence([seed, finished]).generate_state(1)[0]))


def search_population(
    study: SharedStudy, problem: Problem, evaluate: Evaluate, known: dict[Arch, Candidate], num_evals: int
) -> int:
    """Ask for a population, evaluate what is new and within the limits, and tell the study of all.

    What is known already is told again, not evaluated again: without that, the samplers would propose it for ever.

    Args:
        study: The study, with its sampler.
        problem: What is searched for.
        evaluate: Predicts architectures.
        known: `recorded_candidates` of the study; what is proposed joins them.
        num_evals: As for `search`; where other processes have evaluated the rest meanwhile, it stops, and what it
            was evaluating does not count.

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
            with study.alone():
                left = num_evals - _num_evaluated(recorded_candidates(study, problem))
                if left > 0:
                    _tell(study, problem, waiting.pop(arch), replace(known[arch], prediction=prediction))
            if left <= 1:
                break
        return len(new)
    finally:
        # After an error, or if they are not needed any more.
        for trial in itertools.chain.from_iterable(waiting.values()):
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


def pareto_front(study: optuna.Study, problem: Problem) -> set[Arch]:
    """Architectures that no other one of the study beats in every objective; with one objective, the best."""
    return {problem.arch(trial.params) for trial in study.best_trials if 'accuracy' in trial.user_attrs}
