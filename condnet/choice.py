"""The method: choice blocks that hold candidate operations x contexts, and the split that makes the contexts.

A super-network makes a decision at every choice block: one of the block's candidate operations runs. Ordinarily each
candidate has one weight set, so its output has to suit whatever ran before. With conditional weights it has one per
*context*, which is one combination of the operations chosen at the block's predecessors.

Training all of those from scratch would starve them. So training starts with one shared context. The *split*, once,
copies every weight set into one per context, and training goes on: the copies specialise.

Source: "Conditional super-network weights" (https://arxiv.org/abs/2104.11522), sections 3.2 and 3.3.
"""

import copy
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import torch
from torch import nn

from condnet.errors import CondnetError
from condnet.spaces.base import Arch, SearchSpace

Copies = list[tuple[nn.Parameter, nn.Parameter]]  # (source, copy)


class ChoiceBlock(nn.Module):
    """All candidate operations of one decision, each with one weight set per context.

    The weight set of operation `o` in context `c` is the module `candidates[str(o)][c]`. Before the split, and forever
    for an operation without weights, there is only context 0.

    Args:
        space: The search space that the decision belongs to.
        decision: Which of its decisions this is.
        make_candidate: Makes the module of an operation, given its number. It maps (B, C, H, W) to (B, C', H', W'),
            or to None, which stands for zeros.
    """

    def __init__(self, space: SearchSpace, decision: int, make_candidate: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.space = space
        self.decision = decision
        self.candidates = nn.ModuleDict({str(o): nn.ModuleList([make_candidate(o)]) for o in self.choices})
        self.active: tuple[int, int] | None = None  # operation and context; None: over-complete

    @property
    def choices(self) -> tuple[int, ...]:
        """Numbers of the operations that the decision may pick."""
        return self.space.choices_of(self.decision)

    def weight_sets(self, operation: int) -> nn.ModuleList:
        """The weight sets of an operation, by context."""
        weight_sets = self.candidates[str(operation)]
        if not isinstance(weight_sets, nn.ModuleList):
            raise TypeError(f'expected a ModuleList of contexts, got {type(weight_sets).__name__}')
        return weight_sets

    def set_active(self, arch: Arch | None) -> None:
        """Activate what an architecture uses here; None activates everything (over-complete)."""
        if arch is None:
            self.active = None
            return
        operation = arch[self.decision]
        context = self.space.context(arch, self.decision) if len(self.weight_sets(operation)) > 1 else 0
        self.active = operation, context

    def active_module(self) -> nn.Module:
        """The weight set in use.

        Raises:
            CondnetError: In the over-complete state, where there is no single one.
        """
        if self.active is None:
            raise CondnetError('no sub-network is active; call set_active_subnet(arch) first')
        operation, context = self.active
        return self.weight_sets(operation)[context]

    def forward(self, x: torch.Tensor) -> torch.Tensor | None:
        if self.active is not None:
            output: torch.Tensor | None = self.active_module()(x)
            return output
        outputs = [_mean([module(x) for module in self.weight_sets(o)]) for o in self.choices]
        return _mean(outputs)

    @property
    def num_weight_sets(self) -> int:
        """Weight sets of the operations that the paper counts."""
        return sum(len(self.weight_sets(o)) for o in self.choices if o in self.space.weighted)

    @torch.no_grad()
    def split(self) -> Copies:
        """Copy the weight set of every operation that has weights into one per context.

        Returns:
            Every new parameter, beside the one it is a copy of.
        """
        copies: Copies = []
        for operation in self.choices:
            weight_sets = self.weight_sets(operation)
            source = weight_sets[0]
            for _ in range(1, self.space.num_contexts(self.decision) if has_weights(source) else 1):
                weight_sets.append(copy.deepcopy(source))
                copies += zip(source.parameters(), weight_sets[-1].parameters(), strict=True)
        return copies


def has_weights(module: nn.Module) -> bool:
    """Whether a candidate has weights, and therefore can specialise."""
    return next(module.parameters(), None) is not None


def _mean(outputs: Iterable[torch.Tensor | None]) -> torch.Tensor | None:
    """Mean of outputs of which None stands for zeros."""
    outputs = list(outputs)
    tensors = [output for output in outputs if output is not None]
    return sum(tensors[1:], start=tensors[0]) / len(outputs) if tensors else None


class Splittable(Protocol):
    """What can be split: a model of choice blocks, such as `condnet.Supernet`."""

    @property
    def is_split(self) -> bool: ...

    def split(self) -> Copies: ...

    def named_parameters(self) -> Iterable[tuple[str, nn.Parameter]]: ...


def split_supernet(
    model: Splittable,
    optimizer: torch.optim.Optimizer | None = None,
    ema: Splittable | None = None,
) -> None:
    """Split a super-network in training: its weights, its optimizer's state and its averaged weights.

    Nothing that is computed changes: every copy starts as its source, in its source's parameter group (learning rate,
    weight decay and schedule go on) and with a copy of its source's optimizer state.

    Args:
        model: A super-network, not yet split.
        optimizer: Optimizer of the model's parameters.
        ema: Super-network of averaged weights.

    Raises:
        CondnetError: If the model is split already, or a parameter is in no group of the optimizer.
    """
    if model.is_split or (ema is not None and ema.is_split):
        raise CondnetError('the super-network is split already; it can be split once')
    groups = {} if optimizer is None else _groups_by_parameter(optimizer)
    missing = [name for name, p in model.named_parameters() if p.requires_grad and p not in groups]
    if optimizer is not None and missing:
        raise CondnetError(f'the optimizer does not train {missing[0]}; it was made for another model')
    for source, new in model.split():
        if optimizer is not None and source in groups:
            groups[source]['params'].append(new)
            if source in optimizer.state:
                optimizer.state[new] = copy.deepcopy(optimizer.state[source])
    if ema is not None:
        ema.split()


def _groups_by_parameter(optimizer: torch.optim.Optimizer) -> dict[nn.Parameter, dict[str, Any]]:
    return {parameter: group for group in optimizer.param_groups for parameter in group['params']}
