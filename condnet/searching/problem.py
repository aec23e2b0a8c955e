"""What is searched for: objectives, limits, and candidates."""

import itertools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution

from condnet.errors import CondnetError
from condnet.ranking.costs import NetworkCosts
from condnet.ranking.evaluate import Prediction
from condnet.ranking.mean_ranks import columns_of, mean_ranks
from condnet.searching.config import OBJECTIVES
from condnet.searching.latency import MeasuredLatency
from condnet.spaces.base import Arch, SearchSpace
from condnet.spaces.costs import Cost
from condnet.utils.settings import SettingError

PREDICTED = ('accuracy', 'loss')  # what only the super-network can tell
LIMITS = ('flops', 'params', 'latency')
_FEW = 500  # networks that are built to know their costs, before a search
Evaluate = Callable[[list[Arch]], Iterable[Prediction]]  # in any order


@dataclass(frozen=True)
class Problem:
    """What is searched for.

    Args:
        space: Where. Its costs need to be known only if a limit or an objective asks for them.
        objectives: Some of `OBJECTIVES`. Accuracy is to be high, everything else low.
        limits: The most that an architecture may have of `flops`, `params` or `latency`.
        latency: Latency of an architecture in milliseconds; None where it plays no part.
        network_cost: FLOPs and parameters of the network that an architecture becomes; None where they are not known.
    """

    space: SearchSpace
    objectives: tuple[str, ...] = ('accuracy',)
    limits: dict[str, float] = field(default_factory=dict)
    latency: Callable[[Arch], float] | None = None
    network_cost: Callable[[Arch], Cost] | None = None

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
                raise SettingError(f'max_{name}', f'is {limit}, expected more than 0, and finite')
        for name in ('flops', 'params'):
            if name in (*self.objectives, *self.limits) and not self.has_costs:
                asked = f'`max_{name}`' if name in self.limits else f'the objective {name}'
                raise CondnetError(f'{asked} needs the costs of architectures of {self.space.name}, which are not '
                                   'known: its super-network makes no stand-alone networks')  # fmt: skip

    @property
    def has_costs(self) -> bool:
        """Whether FLOPs and parameters are known."""
        return self.network_cost is not None

    @property
    def decides(self) -> str:
        """The objective that decides which architecture wins: the first that is predicted."""
        return next(name for name in self.objectives if name in PREDICTED)

    def cost(self, arch: Arch, name: str) -> float:
        """FLOPs, parameters or latency of the network that an architecture becomes."""
        value: float
        if name == 'latency' and self.latency is not None:
            value = self.latency(arch)
        elif name != 'latency' and self.network_cost is not None:
            value = getattr(self.network_cost(arch), name)
        else:
            raise CondnetError(f'the {name} of architectures is unknown')
        return value

    @property
    def known_costs(self) -> tuple[str, ...]:
        """What is known of architectures without their predictions."""
        known = {'flops': self.has_costs, 'params': self.has_costs, 'latency': self.latency is not None}
        return tuple(name for name in LIMITS if known[name])

    def costs(self, arch: Arch) -> dict[str, float]:
        """Everything that is known of an architecture without its prediction."""
        return {name: self.cost(arch, name) for name in self.known_costs}

    def violations(self, costs: dict[str, float]) -> dict[str, float]:
        """By how much costs exceed each limit, relative to it, so that they can be added; 0 or less if they do not."""
        return {name: costs[name] / limit - 1 for name, limit in self.limits.items()}

    def respects_limits(self, arch: Arch) -> bool:
        return all(self.cost(arch, name) <= limit for name, limit in self.limits.items())

    def feasible(self) -> list[Arch] | None:
        """All architectures within the limits; None where each latency would have to be measured to know, or each
        network to be built, or where the space is too large to walk through.

        Raises:
            CondnetError: If there is none.
        """
        if 'latency' in self.limits and isinstance(self.latency, MeasuredLatency):
            self._check_measured_limit()
            return None
        if not self.space.is_enumerable or (self.limits.keys() & {'flops', 'params'} and not self._walks_costs()):
            return None
        if not (archs := self._within_limits):
            limits = ' and '.join(f'`max_{name}` {limit:g}' for name, limit in self.limits.items())
            least = ', '.join(f'{min(self.cost(arch, name) for arch in self.space):g} {name}' for name in self.limits)
            raise CondnetError(f'no architecture of {self.space} respects {limits}; the least is {least}')
        return archs

    @cached_property
    def _within_limits(self) -> list[Arch]:
        return [arch for arch in self.space if self.respects_limits(arch)]

    def with_many_flops(self, num: int, of: int, seed: int) -> list[Arch]:
        """Up to `num` architectures, each that of most FLOPs among `of` random ones within the limits.

        A longer list begins with a shorter one. Where FLOPs, or what is within the limits, can only be told by building
        or measuring each network, it is empty.
        """
        if not self._knows_costs() or ('latency' in self.limits and isinstance(self.latency, MeasuredLatency)):
            return []
        drawn = self.space.shuffled(seed)
        if not self.space.is_enumerable:
            drawn = itertools.islice(drawn, num * of)  # there may be none within the limits
        within = filter(self.respects_limits, drawn)
        groups = (list(itertools.islice(within, of)) for _ in range(num))
        return [max(group, key=lambda arch: self.cost(arch, 'flops')) for group in groups if group]

    def _walks_costs(self) -> bool:
        """Whether the costs of all architectures are at hand."""
        return self.space.is_enumerable and self._knows_costs()

    def _knows_costs(self) -> bool:
        """Whether FLOPs and parameters of an architecture are known without its network, or networks are few."""
        if not isinstance(self.network_cost, NetworkCosts):
            return self.has_costs
        return self.space.size <= _FEW or self.network_cost.is_sum

    def _check_measured_limit(self) -> None:
        """Measure the smallest network before a search that nothing would come of."""
        if not self._walks_costs():
            return  # which one that is, is not known
        smallest = min(self.space, key=lambda arch: self.cost(arch, 'flops'))
        if (least := self.cost(smallest, 'latency')) > self.limits['latency']:
            raise CondnetError(f'no architecture of {self.space} respects `max_latency` {self.limits["latency"]:g}; '
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
            predicted: float = getattr(self.prediction, name)
            return predicted
        return -math.inf if name == 'accuracy' else math.inf

    def values(self, names: Iterable[str]) -> list[float]:
        return [self.value(name) for name in names]

    def attributes(self) -> dict[str, float]:
        """What is kept of it in a trial."""
        predicted = {} if self.prediction is None else {name: getattr(self.prediction, name) for name in PREDICTED}
        return {**self.costs, **predicted}


def check_select_by(problem: Problem, by: str) -> None:
    """Check, before anything is evaluated, that `select_by` will do.

    Raises:
        CondnetError: If a number is not known.
    """
    known = (*PREDICTED, *problem.known_costs)
    for name, _ in columns_of(by):
        if name not in known:
            raise CondnetError(f'cannot select by {by}: {name} is not known, expected some of {", ".join(known)}')


def select_by(candidates: list[Candidate], by: str) -> list[Candidate]:
    """Evaluated candidates, best first by a rank mean among them, such as `accuracy+flops`; equal ones stay in order.

    A rank mean depends on all that were evaluated, so no sampler can aim at it; it chooses among what was found.

    """
    columns = columns_of(by)
    ranks = mean_ranks([([candidate.value(name) for candidate in candidates], sign) for name, sign in columns])
    return [candidates[i] for i in np.argsort(-ranks, kind='stable')]
