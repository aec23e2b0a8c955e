"""The ranking engine: architectures as a tree, whose common beginnings are evaluated once."""

import itertools
import math
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from condnet.errors import CondnetError
from condnet.models.supernet import State, Step, Supernet
from condnet.ranking.calibration import (
    as_parameters,
    calibration_batches,
    check_images,
    errors_of_single_images,
    fresh_statistics,
    mean_momenta,
    set_momentum,
)
from condnet.ranking.evaluate import (
    EvaluationData,
    Prediction,
    as_supernet,
    autocast,
    evaluate_subnet,
    make_prediction,
    score,
)
from condnet.spaces.base import Arch
from condnet.spaces.notation import list_archs


def predict(model: nn.Module, archs: Iterable['str | int | Arch'], data: EvaluationData) -> Iterator[Prediction]:
    """Predictions for architectures, in the order that shares the most work; the super-network is left as it was.

    They are those of `evaluate_subnet`, bit for bit at equal batches: with recalibrated BatchNorm, what a step of the
    forward pass computes depends on the steps up to it alone. So architectures are walked through as a tree, depth
    first. The steps up to where two of them part are calibrated, then validated, and the activations there are kept
    until the second one has been there. Architectures that compute the same are evaluated once.

    Args:
        model: Super-network.
        archs: Architectures; of a repeated one there is one prediction. A string is one of them, and so is a tuple
            with a number for each decision.
        data: What they are evaluated on. With a `momentum`, statistics start from the super-network's own, so nothing
            is shared: this is the plain way then.

    Raises:
        CondnetError: If it is not a super-network, or an architecture is not one of its space; at the end, after all
            others, if losses are not finite.
    """
    supernet = as_supernet(model)
    parsed = list(dict.fromkeys(supernet.space.parse(arch) for arch in list_archs(archs, supernet.space)))
    if data.momentum is not None:
        return (evaluate_subnet(model, arch, data) for arch in parsed)
    return _predict(supernet, group_by_route(supernet, parsed), data)


Route = tuple[int, ...]


def _predict(model: Supernet, groups: list[tuple[Route, list[Arch]]], data: EvaluationData) -> Iterator[Prediction]:
    failed = []
    for archs, logits in walk(model, groups, data):
        accuracy, loss = score(logits, data)
        if math.isfinite(loss):
            yield from (make_prediction(model.space, arch, accuracy, loss) for arch in archs)
        else:
            failed += archs
    if failed:
        raise CondnetError(f'the validation loss of {len(failed)} architectures is not finite, first '
                           f'{model.space.format(failed[0])}; the others are predicted')  # fmt: skip


def group_by_route(model: Supernet, archs: Iterable[Arch]) -> list[tuple[Route, list[Arch]]]:
    """Architectures by what they compute, in depth-first order.

    A route has a number for each step of the forward pass. Architectures of equal routes compute the same, and share
    as many steps with others as their routes begin with equal numbers.
    """
    numbers: dict[Hashable, int] = {}
    groups: dict[Route, list[Arch]] = {}
    with model.subnet(model.active_subnet):
        for arch in archs:
            model.set_active_subnet(arch)
            route = tuple(numbers.setdefault(step.key, len(numbers)) for step in model.forward_steps())
            groups.setdefault(route, []).append(arch)
    return sorted(groups.items())


@dataclass(frozen=True)
class Activations:
    """States of all batches after a step; calibration has none where no BatchNorm follows.

    `momenta` says how much BatchNorm takes of each calibration batch.
    """

    calibration: list[State]
    validation: list[State]
    momenta: list[float] = field(default_factory=list)

    def tensors(self) -> Iterator[torch.Tensor]:
        """All tensors of all states; some may share their storage."""
        return (tensor for state in (*self.calibration, *self.validation) for tensor in state if tensor is not None)


def _num_bytes(kept: Iterable[Activations]) -> int:
    """Bytes of what is kept, each storage counted once: steps pass on what later ones need."""
    storages = (tensor.untyped_storage() for activations in kept for tensor in activations.tensors())
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def walk(
    model: Supernet, groups: list[tuple[Route, list[Arch]]], data: EvaluationData
) -> Iterator[tuple[list[Arch], list[torch.Tensor]]]:
    """Evaluate groups of architectures in depth-first order, as `group_by_route` makes them.

    Returns:
        Each group's architectures, with the logits (B, num_classes) of every validation batch.
    """
    shared = [_common_prefix(before[0], after[0]) for before, after in itertools.pairwise(groups)]
    branches, kept = _branch_depths(shared), Kept(data.memory)
    check_images(model, data.to_calibrate())
    batches = [as_parameters(batch, model) for batch in calibration_batches(data.to_calibrate())]
    images = Activations([(x,) for x in batches], [(x,) for x in data.images.split(data.batch_size)],
                          mean_momenta(batches))  # fmt: skip
    for i, (_, archs) in enumerate(groups):
        kept.prune(branches[i])
        yield archs, _run_subnet(model, archs[0], data, images, kept)


def _common_prefix(a: Route, b: Route) -> int:
    return next((depth for depth, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _branch_depths(shared: list[int]) -> list[set[int]]:
    """For each architecture, after how many of its steps a later one parts from it.

    Args:
        shared: How many steps each architecture shares with the next one.
    """
    depths: list[set[int]] = [set()]
    for depth in reversed(shared):  # a later one can share no more with this one than the next one does
        depths.append({depth} | {later for later in depths[-1] if later < depth})
    return [{depth for depth in at if depth > 0} for at in reversed(depths)]


class Kept:
    """Activations that later architectures start from, by number of steps, within a budget in bytes."""

    def __init__(self, memory: int) -> None:
        self.memory = memory
        self.by_depth: dict[int, Activations] = {}
        self.wanted: set[int] = set()

    def prune(self, wanted: set[int]) -> None:
        """Forget those that nothing starts from any more, and say after how many steps of the next one others part."""
        self.by_depth = {depth: kept for depth, kept in self.by_depth.items() if depth in self.wanted}
        self.wanted = wanted

    def add(self, depth: int, activations: Activations) -> None:
        """Keep activations; if all is too much, those are forgotten that are needed last: the ones of few steps."""
        self.by_depth[depth] = activations
        while self.by_depth and _num_bytes(self.by_depth.values()) > self.memory:
            del self.by_depth[min(self.by_depth)]


@torch.no_grad()
def _run_subnet(
    model: Supernet, arch: Arch, data: EvaluationData, images: Activations, kept: Kept
) -> list[torch.Tensor]:
    """Logits of the validation batches, by way of what is kept; keeps what later architectures start from."""
    with model.subnet(arch):
        branches = kept.wanted
        *steps, head = model.forward_steps()
        start = max(kept.by_depth, default=0)
        activations = kept.by_depth.get(start, images)
        with autocast(data):
            for stop in sorted({depth for depth in branches if depth > start} | {len(steps)}):
                # What starts from here later may have BatchNorm layers also where this one has no more.
                is_needed = stop in branches or bool(_batch_norms_of(steps[stop:]))
                activations = _run_steps(model, steps[start:stop], activations, is_needed)
                if stop in branches:
                    kept.add(stop, activations)
                start = stop
        features = Activations([], [(state[0].float(),) for state in activations.validation])
        return [state[0] for state in _run_steps(model, [head], features, False).validation]


def _batch_norms_of(steps: list[Step]) -> list[_BatchNorm]:
    return [m for step in steps for module in step.modules for m in module.modules() if isinstance(m, _BatchNorm)]


def _run_steps(model: nn.Module, steps: list[Step], before: Activations, is_calibration_needed: bool) -> Activations:
    """Calibrate the BatchNorm layers of consecutive steps, then validate with them; they are left as they were.

    A batch goes through all the steps before the next one does, so that it stays in the processor's cache.
    """
    modules = [model]  # whose own methods steps may call: `forward_head` drops inputs if the model is in training
    modules += [m for step in steps for module in step.modules for m in module.modules()]
    modes = [module.training for module in modules]
    last = max((i for i, step in enumerate(steps, 1) if _batch_norms_of([step])), default=0)
    calibrated = steps if is_calibration_needed else steps[:last]
    calibration = []
    try:
        with errors_of_single_images(), fresh_statistics(layers := _batch_norms_of(steps)):
            _set_mode(modules, True)
            batches = zip(before.calibration, before.momenta, strict=True) if calibrated else ()
            for state, momentum in batches:
                set_momentum(layers, momentum)
                after = _forward(calibrated, state)
                if is_calibration_needed:
                    calibration.append(after)
            _set_mode(modules, False)
            validation = [_forward(steps, state) for state in before.validation]
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode
    return Activations(calibration, validation, before.momenta if is_calibration_needed else [])


def _forward(steps: list[Step], state: State) -> State:
    for step in steps:
        state = step.run(state)
    return state


def _set_mode(modules: list[nn.Module], training: bool) -> None:
    for module in modules:
        module.training = training
