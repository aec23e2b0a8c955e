"""The training task: timm's classification task, plus the architecture of each step and the split."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, cast

import numpy as np
import torch
from timm.task import ClassificationTask
from torch import nn

from condnet.choice import split_supernet
from condnet.errors import CondnetError
from condnet.models.counts import Choice, choices_of, untrained_choices
from condnet.models.supernet import Supernet
from condnet.spaces.base import Arch, SearchSpace

SAMPLINGS = ('uniform', 'fair')


def archs_of_step(
    space: SearchSpace,
    seed: int,
    step: int,
    sampling: str = 'uniform',
    operation_weights: Sequence[float] | None = None,
) -> list[Arch]:
    """The architectures that a step trains before the weights are updated.

    They depend on nothing but the seed and the step: they are the same on every rank, and after a resume.

    Args:
        space: Search space.
        seed: Seed of the training.
        step: Number of the step.
        sampling: `uniform`: one architecture, drawn uniformly (SPOS). `fair`: as many as there are operations, so that
            each decision takes every operation exactly once, in random order (strict fairness; FairNAS, Chu et al.,
            2021).
        operation_weights: With `uniform`: draw operations in these proportions instead, see `SearchSpace.sample`.
    """
    mixed = int(np.random.SeedSequence((seed, step)).generate_state(1, np.uint64)[0] >> 1)
    generator = torch.Generator().manual_seed(mixed)
    if sampling == 'uniform':
        return [space.sample(generator, operation_weights)]
    check_fair(space)
    choices = [space.choices_of(decision) for decision in range(len(space.predecessors))]
    orders = [torch.randperm(len(each), generator=generator).tolist() for each in choices]
    return [tuple(each[i] for each, i in zip(choices, at_once, strict=True)) for at_once in zip(*orders, strict=True)]


def check_fair(space: SearchSpace) -> None:
    """Refuse to sample fairly where decisions have different numbers of choices.

    Raises:
        CondnetError: If they have.
    """
    numbers = sorted({len(space.choices_of(decision)) for decision in range(len(space.predecessors))})
    if len(numbers) > 1:
        raise CondnetError(f'fair sampling needs decisions with equally many choices, those of {space} have '
                           f'{" or ".join(map(str, numbers))}; use uniform')  # fmt: skip


class SupernetTask(ClassificationTask):
    """Trains sampled sub-networks of a super-network. An ordinary network is trained as it is.

    Args:
        model: Super-network, or stand-alone network.
        seed: Seed of the architectures.
        sampling: How they are drawn, see `archs_of_step`.
        shares_momentum: Whether the copies that the split makes of a weight go on with one momentum for all of them, as
            in the authors' code, see `stored_parameters`; or else each has its own.
        operation_weights: How often operations are drawn relative to each other, see `archs_of_step`.
        criterion: Loss of scores and labels; by default cross-entropy.

    Raises:
        CondnetError: If the weights are not those of the model's operations, or go with another sampling, or fair
            sampling does not go with the space.
    """

    def __init__(
        self,
        model: nn.Module,
        seed: int = 0,
        sampling: str = 'uniform',
        shares_momentum: bool = False,
        operation_weights: Sequence[float] | None = None,
        criterion: nn.Module | None = None,
    ) -> None:
        device = next(model.parameters()).device
        super().__init__(model, criterion=criterion or nn.CrossEntropyLoss(), device=device, verbose=False)
        self.seed, self.sampling, self.shares_momentum = seed, sampling, shares_momentum
        self.operation_weights = operation_weights
        if operation_weights is not None:
            if sampling != 'uniform' or not isinstance(model, Supernet):
                raise CondnetError('operation weights need a super-network and uniform sampling')
            model.space.check_operation_weights(operation_weights)
        if sampling == 'fair' and isinstance(model, Supernet):
            check_fair(model.space)
        self.step = 0  # steps begun so far
        self.counts: Counter[Choice] = Counter()  # how many of them trained an operation in a context
        self.counts_since_split: Counter[Choice] = Counter()
        # Of a super-network that was split from the start: the weight sets that had not been trained by then.
        self.untrained_before: set[Choice] | None = set() if isinstance(model, Supernet) and model.is_split else None
        self.last_contexts: dict[tuple[int, int], int] = {}  # by decision and operation, the context trained last

    @property
    def model(self) -> Any:
        """The super-network or stand-alone network (timm's models have no common type)."""
        return self.trainable_module

    def archs_of(self, step: int) -> list[Arch]:
        """The architectures that a step of this training trains."""
        return archs_of_step(self.model.space, self.seed, step, self.sampling, self.operation_weights)

    def next_subnets(self) -> Iterator[None]:
        """Begin a step: activate one after the other what it trains. `forward` then gives the active one's loss."""
        step = self.step
        self.step += 1
        if not isinstance(self.model, Supernet):
            yield
            return
        for arch in self.archs_of(step):
            self.model.set_active_subnet(arch)
            choices = choices_of(self.model.space, arch)
            self.counts.update(choices)
            self.last_contexts.update({(decision, operation): context for decision, operation, context in choices})
            if self.model.is_split:
                self.counts_since_split.update(choices)
            yield

    def split(self, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Split the super-network, its optimizer's state and its averaged weights.

        Raises:
            CondnetError: If the model is not a super-network, or split already.
        """
        if not isinstance(self.model, Supernet):
            raise CondnetError(f'only a super-network can be split, not {type(self.model).__name__}')
        ema = self.get_trainable_module(ema=True)
        split_supernet(self.model, optimizer, None if ema is None else cast(Supernet, ema.module))
        if optimizer is not None:
            self.share_momentum(optimizer)

    def share_momentum(self, optimizer: torch.optim.Optimizer) -> None:
        """Let the copies of a weight share one optimizer state, if they are to; after the split and after a load."""
        if not self.shares_momentum:
            return
        for block in self.model.choice_blocks():
            for operation in block.choices:
                source, *copies = block.weight_sets(operation)
                for module in copies:
                    for parameter, copied in zip(source.parameters(), module.parameters(), strict=True):
                        optimizer.state[copied] = optimizer.state[parameter]

    def stored_parameters(self) -> set[nn.Parameter]:
        """Parameters of the weight sets that the authors' code would have put away.

        There an operation has one live weight set, that of the context in which it was trained last, and the optimizer
        knows no other. Those of the other contexts are swapped in when they are needed, and stand still until then.
        """
        if not isinstance(self.model, Supernet) or not self.model.is_split:
            return set()
        return {
            parameter
            for block in self.model.choice_blocks()
            for operation in block.choices
            for context, module in enumerate(block.weight_sets(operation))
            if context != self.last_contexts.get((block.decision, operation), 0)
            for parameter in module.parameters()
        }

    def untrained(self) -> list[Choice]:
        """The weight sets that have not been trained since the split, also not by the training that has split them."""
        if not isinstance(self.model, Supernet):
            return []
        found = untrained_choices(self.model, self.counts_since_split)
        return found if self.untrained_before is None else [each for each in found if each in self.untrained_before]

    def get_task_state(self, module: nn.Module | None = None, ema: bool = False) -> dict[str, Any]:
        if ema:
            return {}
        is_supernet = isinstance(self.model, Supernet)
        return {
            'step': self.step,
            'seed': self.seed,
            'split': is_supernet and self.model.is_split,
            'untrained': self.untrained(),
            'counts': dict(self.counts),
            'counts_since_split': dict(self.counts_since_split),
            'last_contexts': dict(self.last_contexts),
        }

    def load_task_state(
        self, state: dict[str, Any] | None, strict: bool = True, module: nn.Module | None = None, ema: bool = False
    ) -> None:
        if state and not ema:
            self.step = state['step']
            self.counts = Counter(state['counts'])
            self.counts_since_split = Counter(state['counts_since_split'])
            self.last_contexts = dict(state.get('last_contexts', {}))  # older checkpoints have none
            if self.untrained_before is not None:
                self.untrained_before = {tuple(choice) for choice in state['untrained']}
