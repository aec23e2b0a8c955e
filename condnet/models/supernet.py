"""What all super-networks have in common: the active sub-network, the split, and the way in and out of checkpoints."""

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from timm.layers import SelectAdaptivePool2d
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from condnet.choice import ChoiceBlock, Copies
from condnet.errors import CondnetError
from condnet.models.options import TimmOptions
from condnet.models.statistics import MIXED, Statistics, warn_user
from condnet.models.weights import active_state_dict, check_state_dict, expand_contexts, state_dict_is_split
from condnet.spaces.base import Arch, SearchSpace

State = tuple[Any, ...]  # tensors, or None for zeros


@dataclass(frozen=True)
class Step:
    """A part of a sub-network's forward pass, which maps one state to the next; a state is one or more tensors.

    Args:
        key: Two steps with equal keys compute the same from the same state, and calibrate the same BatchNorm layers.
        modules: The modules that it runs.
        run: What it computes.
    """

    key: Hashable
    modules: tuple[nn.Module, ...]
    run: Callable[[State], State]

    @classmethod
    def of(cls, module: nn.Module) -> 'Step':
        """A step that runs one module on a state of one tensor."""
        return cls(module, (module,), lambda state: (module(state[0]),))


class Supernet(nn.Module):
    """A super-network: a network in which every decision is a `ChoiceBlock`.

    Which sub-network runs is state of the model, see `set_active_subnet`. A new one is over-complete.

    A subclass is a timm model (`forward_features`, `forward_head`, `get_classifier`, ...). Its constructor sets the
    attributes below, makes the choice blocks and calls `set_up`. It overrides `make_standalone` and, so that rankings
    share work, `forward_steps`.
    """

    space: SearchSpace
    num_classes: int
    in_chans: int
    global_pool: SelectAdaptivePool2d
    pretrained_cfg: dict[str, Any]  # set by timm
    timm_options = TimmOptions()
    statistics = Statistics()
    _has_warned: bool = False  # that they are not the active sub-network's

    def set_up(self, split: bool, active_subnet: 'str | int | Arch | None') -> None:
        """What a constructor does last, with `space` set and all choice blocks made.

        Args:
            split: Whether every operation has one weight set per context from the start.
            active_subnet: The sub-network that is active from the start; None for the over-complete state.

        Raises:
            CondnetError: If that is not an architecture of `space`.
        """
        self.register_forward_pre_hook(_before_forward)
        self.register_load_state_dict_post_hook(_after_load)  # type: ignore[no-untyped-call]
        check_switch('split', split)
        if split:
            self.split()
        if active_subnet is not None:
            self.set_active_subnet(active_subnet)

    @property
    def calibrated_subnet(self) -> Arch | None:
        """The architecture whose BatchNorm statistics these are; None if they are of no single one."""
        return None if self.statistics.fit is None else self.statistics.fit[0]

    def set_calibrated_subnet(self, arch: 'str | int | Arch | None') -> None:
        """Say whose BatchNorm statistics these are; the use of any other sub-network warns of that, once.

        Args:
            arch: Architecture; None where they mix several, as after training.

        Raises:
            CondnetError: If it is not an architecture of `space`.
        """
        self.statistics = MIXED if arch is None else Statistics.of(self.space.parse(arch))

    def check_statistics(self) -> None:
        """Warn, once, if the BatchNorm statistics do not fit the active sub-network; not of a new network's."""
        if self.statistics.fit == (self.active_subnet,) or self._has_warned or self._has_initial_statistics():
            return
        self._has_warned = True
        warn_user('the BatchNorm statistics are not of the active sub-network; call condnet.calibrate(model, images)')

    def _has_initial_statistics(self) -> bool:
        """Whether no image has passed the BatchNorm layers in training, neither here nor where they come from."""
        if not self.statistics.may_be_initial or torch.compiler.is_compiling():  # what a graph cannot look at
            return self.statistics.may_be_initial
        counts = [m.num_batches_tracked for m in self.modules() if isinstance(m, _BatchNorm)]
        numbers = [count for count in counts if type(count) is torch.Tensor and not count.is_meta]  # no fake ones
        return not (numbers and bool(torch.stack(numbers).any()))

    def choice_blocks(self) -> list[ChoiceBlock]:
        """All choice blocks; several of them may make the same decision, as the cells of nb201 do."""
        if not hasattr(self, '_choice_blocks'):
            # A tuple, so that the blocks are not registered as children a second time.
            self._choice_blocks = tuple(m for m in self.modules() if isinstance(m, ChoiceBlock))
        return list(self._choice_blocks)

    @property
    def active_subnet(self) -> Arch | None:
        """The active architecture, or None in the over-complete state."""
        return getattr(self, '_active_subnet', None)

    def set_active_subnet(self, arch: 'str | int | Arch | None') -> None:
        """Choose the sub-network that runs.

        Args:
            arch: Architecture as tuple, official string or official index. None: every candidate, averaged over
                operations and contexts (over-complete).

        Raises:
            CondnetError: If it is not an architecture of `space`.
        """
        self._active_subnet = None if arch is None else self.space.parse(arch)
        for block in self.choice_blocks():
            block.set_active(self._active_subnet)

    def sample_active_subnet(self, generator: torch.Generator | None = None) -> Arch:
        """Draw an architecture uniformly, activate and return it."""
        arch = self.space.sample(generator)
        self.set_active_subnet(arch)
        return arch

    @contextmanager
    def subnet(self, arch: 'str | int | Arch | None') -> Iterator[None]:
        """Choose the sub-network that runs, as `set_active_subnet` does; afterwards it is that of before again."""
        before = self.active_subnet
        self.set_active_subnet(arch)
        try:
            yield
        finally:
            self.set_active_subnet(before)

    def active_modules(self) -> list[nn.Module]:
        """All modules except those of weight sets that are not in use; every one in the over-complete state."""
        idle: set[nn.Module] = set()
        for block in self.choice_blocks():
            if block.active is not None:
                idle.update(block.candidates.modules())
                idle.difference_update(block.active_module().modules())
        return [module for module in self.modules() if module not in idle]

    def forward_steps(self) -> list[Step]:
        """The forward pass of the active sub-network in steps, from (images,); the last one, the head, makes (logits,).

        The finer they are, the more of the work can architectures share that differ only in later steps. Without a
        search space's own knowledge the features are a single step.

        Raises:
            CondnetError: In the over-complete state.
        """
        self.check_active()
        forward_features = cast(Any, self.forward_features)
        return [Step(self.active_subnet, (self,), lambda state: (forward_features(state[0]),)), self.head_step()]

    def head_step(self) -> Step:
        """The last step, from features to logits."""
        head, forward_head = cast(Any, self.get_classifier)(), cast(Any, self.forward_head)
        return Step(head, (self.global_pool, head), lambda state: (forward_head(state[0]),))

    def check_active(self) -> None:
        """Refuse the over-complete state.

        Raises:
            CondnetError: In that state.
        """
        if self.active_subnet is None:
            raise CondnetError('no sub-network is active; call set_active_subnet(arch) first')

    @property
    def is_split(self) -> bool:
        """Whether operations have one weight set per context."""
        return getattr(self, '_is_split', False)

    @property
    def num_weight_sets(self) -> int:
        """Number of weight sets, as the paper counts them (72 for nb201, 16 for macro, before the split)."""
        return sum(block.num_weight_sets for block in self.choice_blocks())

    def split(self) -> Copies:
        """Give every operation one weight set per context, by copying. Nothing that is computed changes.

        The optimizer must learn of the new parameters; `condnet.choice.split_supernet` splits both.

        Returns:
            Every new parameter, beside the one it is a copy of. Nothing if the model was split before.
        """
        if self.is_split:
            return []
        copies = [pair for block in self.choice_blocks() for pair in block.split()]
        self._is_split = True
        self.set_active_subnet(self.active_subnet)  # the contexts exist only now
        # What timm writes into config.json, so that the model is built split again.
        self._model_args = {**getattr(self, '_model_args', {}), 'split': True}
        return copies

    def get_active_subnet(self) -> nn.Module:
        """The active sub-network as a stand-alone network of plain layers, with copies of its weights.

        Raises:
            CondnetError: In the over-complete state.
        """
        self.check_active()
        self.check_statistics()
        reference = next(self.parameters())
        net = self.make_standalone(cast(Arch, self.active_subnet), self._standalone_args())
        self.timm_options.set_in(net)
        net._model_args = {**getattr(net, '_model_args', {}), **self.timm_options.as_arguments()}  # type: ignore[assignment]
        net.to(device=reference.device, dtype=reference.dtype)
        active = {name: m.active for name, m in self.named_modules() if isinstance(m, ChoiceBlock)}
        net.load_state_dict(active_state_dict(self.state_dict(), active))
        return net.train(self.training)

    def new_subnet(self, arch: 'str | int | Arch') -> nn.Module:
        """The stand-alone network of an architecture with new weights, as `get_active_subnet` fills it."""
        return self.make_standalone(self.space.parse(arch), self._standalone_args())

    def _standalone_args(self) -> dict[str, Any]:
        """Arguments of the stand-alone network that every space has; preprocessing is the super-network's."""
        config = getattr(self, 'pretrained_cfg', {})
        overlay = {key: config[key] for key in ('input_size', 'mean', 'std', 'label_names') if key in config}
        return {
            'num_classes': self.num_classes,
            'in_chans': self.in_chans,
            'global_pool': self.global_pool.pool_type,
            'pretrained_cfg_overlay': overlay,
        }

    def make_standalone(self, arch: Arch, common: dict[str, Any]) -> nn.Module:
        """Make the stand-alone network of an architecture, with new weights.

        Its layers have the names that they have here, but for `candidates.OPERATION.CONTEXT` of choice blocks.

        Args:
            arch: The architecture.
            common: Arguments that every such network takes: number of classes, image channels, pooling and
                `pretrained_cfg_overlay`.
        """
        raise NotImplementedError(f'{type(self).__name__} does not override make_standalone')


def check_switch(name: str, value: Any) -> None:
    """Refuse what is neither true nor false; of the words on a command line, 'false' would count as true.

    Raises:
        CondnetError: If it is anything else.
    """
    if value not in (True, False):
        raise CondnetError(f'{name} is {value!r}, expected True or False')


def _before_forward(model: Supernet, _: Any) -> None:
    """Before a forward pass: in training statistics change, otherwise they have to fit."""
    if torch.compiler.is_exporting():  # a warning is not for a graph
        return
    if not model.training:
        model.check_statistics()
    elif not torch.compiler.is_compiling():
        norm = next((module for module in model.modules() if isinstance(module, _BatchNorm)), None)
        momentum = None if norm is None else norm.momentum  # `bn_momentum` is that of every layer
        are_initial = model._has_initial_statistics()
        model.statistics = model.statistics.after_training(model.active_subnet, are_initial, momentum)
    elif not model.statistics.may_be_initial and model.statistics.fit != (model.active_subnet,):
        model.statistics = MIXED  # a number of passes would be a constant of the graph


def _after_load(model: Supernet, _: Any) -> None:
    """After a `load_state_dict`: nothing is known any more."""
    model.statistics = Statistics()
    model.statistics = Statistics(may_be_initial=model._has_initial_statistics())


def checkpoint_filter_fn(state_dict: dict[str, torch.Tensor], model: nn.Module) -> dict[str, torch.Tensor]:
    """Refuse a checkpoint that is not this model's; of a super-network, make both agree about the split.

    Either the model grows, or the weights are copied.

    Raises:
        CondnetError: If the checkpoint is of another model or search space, or lacks weights.
    """
    if isinstance(model, Supernet):
        if state_dict_is_split(state_dict):
            model.split()
        elif model.is_split:
            state_dict = expand_contexts(state_dict, model.state_dict())
    check_state_dict(state_dict, model)
    return state_dict
