"""Optimizers and learning rate schedules: timm's, by their names, as far as they go with super-networks."""

import difflib
import warnings
from collections import defaultdict
from typing import Any

import torch
from timm.optim import create_optimizer_v2, get_optimizer_info, list_optimizers
from timm.optim.kron import Kron
from timm.optim.lookahead import Lookahead
from timm.scheduler import PlateauLRScheduler, create_scheduler_v2
from timm.scheduler.scheduler import Scheduler
from torch import nn

from condnet.checkpoints.training import SCHEDULE_FLAGS
from condnet.errors import CondnetError
from condnet.models.supernet import Supernet
from condnet.training.config import TrainConfig

_LOOKAHEAD = 'lookahead_'
_BEFORE_NOISE = 'restore_lr'  # plateau's rates without the noise of the last epoch


class _Lookahead(Lookahead):
    """timm's, but its state is that of the optimizer inside it, where it belongs to: the split copies it."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        super().__init__(optimizer)  # type: ignore[no-untyped-call]  # timm's has no types

    @property
    def state(self) -> defaultdict[torch.Tensor, Any]:
        inside: torch.optim.Optimizer = self._base_optimizer
        return inside.state

    @state.setter
    def state(self, value: defaultdict[torch.Tensor, Any]) -> None:
        """timm's own would stay empty."""


def create_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """The optimizer that the settings name. BatchNorm and biases do not decay.

    Raises:
        CondnetError: If there is none of that name, if it cannot be used here, or if it does not take a setting.
    """
    name = config.opt.lower().removeprefix(_LOOKAHEAD)
    check_optimizer(config.opt)
    if config.layer_decay is not None and isinstance(model, Supernet):
        raise CondnetError('`layer_decay` is for a stand-alone network: what depth the layers of a super-network have '
                           'is up to the architecture')  # fmt: skip
    constants = _constants(config)
    try:
        optimizer = create_optimizer_v2(
            model,
            name,
            lr=config.lr,
            weight_decay=config.weight_decay,
            momentum=config.momentum,
            layer_decay=config.layer_decay,
            **constants,
            foreach=False if config.share_momentum else None,  # what weights share is updated for one after the other
        )
    except (
        TypeError,
        ValueError,
        RuntimeError,
    ) as error:  # an argument that it does not have, or a value that it does not take
        raise CondnetError(f'`opt` {config.opt} does not go with the other settings: {error}') from error
    return _Lookahead(optimizer) if config.opt.lower().startswith(_LOOKAHEAD) else optimizer


def check_optimizer(opt: str) -> None:
    """Check that an optimizer trains super-networks, before anything else is done.

    Raises:
        CondnetError: If there is none of that name, or it needs what is not available here.
    """
    name = opt.lower().removeprefix(_LOOKAHEAD)
    if name not in list_optimizers():
        known = map(str, list_optimizers(exclude_filters=['bnb*', 'fused*']))
        near = [f'; did you mean {other}?' for other in difflib.get_close_matches(name, known, 1)]
        raise CondnetError(f"`opt` {opt} is not one of timm's optimizers{''.join(near)}")
    info = get_optimizer_info(name)
    if isinstance(info.opt_class, str):
        raise CondnetError(f'`opt` {opt} is of the package {info.opt_class.split(".")[0]}, expected one of '
                           "PyTorch's or timm's own")  # fmt: skip
    if info.opt_class is Kron:  # its random numbers follow the order of the weights, too, which the split changes
        raise CondnetError(f'`opt` {opt} compiles code for every shape of a weight, which takes minutes for each')
    if info.second_order:
        raise CondnetError(f'`opt` {opt} needs second derivatives, which are not computed here')


def _constants(config: TrainConfig) -> dict[str, Any]:
    """Those of the optimizer that are set; timm would pass over what it does not have.

    Raises:
        CondnetError: If it does not have one.
    """
    info = get_optimizer_info(config.opt.lower().removeprefix(_LOOKAHEAD))
    given = {'eps': config.opt_eps, 'betas': config.opt_betas}
    given = {name: value for name, value in given.items() if value is not None}
    if twice := sorted(given.keys() & config.opt_kwargs.keys()):
        raise CondnetError(f'`opt_kwargs` has {twice[0]}, and so does `opt_{twice[0]}`')
    for name, has_it in (('eps', info.has_eps), ('betas', info.has_betas)):
        if name in given | config.opt_kwargs and not has_it:
            raise CondnetError(f'`opt_{name}` does nothing with `opt` {config.opt}, which has none')
    return given | config.opt_kwargs


def takes_momentum(opt: str) -> bool:
    """Whether an optimizer takes `momentum`; others have constants of their own."""
    return get_optimizer_info(opt.lower().removeprefix(_LOOKAHEAD)).has_momentum


def create_scheduler(optimizer: torch.optim.Optimizer, config: TrainConfig, num_updates: int = 1) -> Scheduler:
    """The schedule that the settings name, stepped after every epoch or update.

    Args:
        optimizer: Whose rates it changes.
        config: The settings.
        num_updates: Updates of an epoch, for a schedule that is stepped after every one.

    Raises:
        CondnetError: If it does not go with a setting.
    """
    settings: dict[str, Any] = {name: value for name in SCHEDULE_FLAGS if (value := getattr(config, name)) is not None}
    if config.lr_noise is not None:
        settings['noise'] = list(config.lr_noise)
    name = 'constant' if config.sched == 'none' else config.sched  # timm makes no scheduler at all of none
    scheduler: Scheduler
    try:
        with warnings.catch_warnings():  # timm's plateau says that its state is not kept; `schedule_state` keeps it
            warnings.simplefilter('ignore', FutureWarning)
            scheduler, _ = create_scheduler_v2(
                optimizer,
                name,
                num_epochs=config.epochs,
                min_lr=config.min_lr,
                warmup_epochs=config.warmup_epochs,
                warmup_lr=config.warmup_lr,
                warmup_prefix=config.warmup_prefix,
                cooldown_epochs=config.cooldown_epochs,
                plateau_mode='min',
                noise_pct=config.lr_noise_pct,
                noise_std=config.lr_noise_std,
                noise_seed=config.seed,
                cycle_mul=config.lr_cycle_mul,
                cycle_decay=config.lr_cycle_decay,
                cycle_limit=config.lr_cycle_limit,
                k_decay=config.lr_k_decay,
                decay_fn=config.lr_decay_fn,
                step_on_epochs=not config.sched_on_updates,
                updates_per_epoch=num_updates,
                **settings,
            )
    except ValueError as error:
        raise CondnetError(f'`sched` {config.sched} does not go with the other settings: {error}') from error
    if isinstance(scheduler, PlateauLRScheduler):
        scheduler.lr_scheduler.eps = 0.0  # PyTorch's 1e-8 would never change a rate that is as small
    return scheduler


def current_rate(optimizer: torch.optim.Optimizer) -> float:
    """The learning rate, without the factors of layers (`layer_decay`); the last layer has none."""
    return float(max(group['lr'] for group in optimizer.param_groups))


def schedule_state(scheduler: Scheduler) -> dict[str, Any]:
    """What a schedule goes on from, beside epoch and update: only plateau has a memory."""
    if not isinstance(scheduler, PlateauLRScheduler):
        return {}
    noise: dict[str, Any] = {} if scheduler.restore_lr is None else {_BEFORE_NOISE: list(scheduler.restore_lr)}
    return scheduler.lr_scheduler.state_dict() | noise


def load_schedule_state(scheduler: Scheduler, state: dict[str, Any]) -> None:
    """Restore what `schedule_state` gave; nothing for a checkpoint from before it was kept."""
    if state and isinstance(scheduler, PlateauLRScheduler):
        scheduler.restore_lr = state.get(_BEFORE_NOISE)
        scheduler.lr_scheduler.load_state_dict({key: state[key] for key in state if key != _BEFORE_NOISE})
