"""An architecture search as a study of Optuna: what is searched for, where it is kept, and how it goes on.

Optuna proposes architectures, a population at a time; those that respect the limits and are new are evaluated together;
Optuna hears of all. Everything is in Optuna's storage, so a search can be interrupted, continued, shared by several
processes, and watched in optuna-dashboard.
"""

import itertools
import json
import logging
import warnings
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import optuna
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import Trial, TrialState

from condnet.errors import CondnetError
from condnet.ranking.evaluate import Prediction
from condnet.searching.problem import LIMITS, PREDICTED, Candidate, Evaluate, Problem
from condnet.searching.storage import SharedStudy
from condnet.spaces.base import Arch

_logger = logging.getLogger(__name__)


POPULATION = 50  # as in SPOS; so many proposals go to the super-network together
PATIENCE = 20  # populations without a new architecture, after which a search ends
# By default one decision mutates, often to what it was. The population fills with copies then, and of its children
# hardly one in fifty is new: more than 8,750 proposals for 500 architectures of macro, instead of about 1,000.
MUTATION_PROB = 0.25
# Nothing is bred in the first population, so that a short search would be a random one. Each of it is therefore that of
# most FLOPs among so many random ones within the limits: a warm start by a proxy that costs nothing
# (https://arxiv.org/abs/2101.08134).
WARM_START = 32
SAMPLERS: dict[str, Callable[[int], BaseSampler]] = {
    'nsga2': lambda seed: NSGAIISampler(population_size=POPULATION, mutation_prob=MUTATION_PROB, seed=seed),
    'tpe': lambda seed: TPESampler(seed=seed),
    'random': lambda seed: RandomSampler(seed=seed),
}


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
    for key in {**identity, **theirs}:
        if theirs.get(key) != identity.get(key):
            raise CondnetError(
                f'the storage holds the study {name!r} of another search: its {key} is {theirs.get(key)!r}, not '
                f'{identity.get(key)!r}; choose another `output`, `storage` or `study_name`'
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


def run_study(
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
    if sampler != 'random':
        _warm_start(study, problem, min(num_evals, POPULATION), seed)
    _search_by_population(study, problem, evaluate, num_evals, lambda: _make_sampler(study, sampler, seed))


def _warm_start(study: optuna.Study, problem: Problem, num: int, seed: int) -> None:
    """Have a study begin with so many architectures of many FLOPs, unless a cost is an objective."""
    known = recorded_candidates(study, problem)
    if set(problem.objectives) <= set(PREDICTED) and len(known) < num:
        new = [arch for arch in problem.with_many_flops(num, WARM_START, seed) if arch not in known]
        for arch in new[: num - len(known)]:
            study.enqueue_trial(problem.params(arch))


def _search_by_population(
    study: SharedStudy, problem: Problem, evaluate: Evaluate, num_evals: int, make_sampler: Callable[[], BaseSampler]
) -> None:
    fruitless = 0
    while fruitless < PATIENCE:
        known = recorded_candidates(study, problem)
        done = _num_evaluated(known)
        most = max(done, num_evals)  # it may hold more than are asked for now
        _logger.info(f'{done} of {most} architectures, {len(study.get_trials(deepcopy=False))} proposals')
        if done >= num_evals:
            return
        study.sampler = make_sampler()
        new = search_population(study, problem, evaluate, known, num_evals)
        fruitless = 0 if new else fruitless + 1
    _logger.warning(f'the search ends early: {PATIENCE * POPULATION} proposals in a row brought nothing to evaluate')


def _num_evaluated(candidates: dict[Arch, Candidate]) -> int:
    return sum(candidate.prediction is not None for candidate in candidates.values())


def _num_recorded(study: optuna.Study) -> int:
    """How many architectures the study has the prediction of; counted at every prediction, so no more is read of it."""
    trials = study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
    return len({frozenset(trial.params.items()) for trial in trials if 'accuracy' in trial.user_attrs})


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
        num_evals: As for `run_study`; where other processes have evaluated the rest meanwhile, it stops, and what it
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
                left = num_evals - _num_recorded(study)
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
