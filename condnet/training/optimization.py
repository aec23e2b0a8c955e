"""Optimizers and learning rate schedules: timm's, by their names, as far as they go with super-networks."""

import difflib
import warnings
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
from condnet.training.config import TrainConfig

_LOOKAHEAD = 'lookahead_'


class _Lookahead(Lookahead):
    """timm's, but its state is that of the optimizer inside it, where it belongs to: the split copies it."""

    @property
    def state(self) -> Any:  # type: ignore[override]
        return self._base_optimizer.state

    @state.setter
    def state(self, value: Any) -> None:
        """timm's own would stay empty."""


def create_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """The optimizer that the settings name. BatchNorm and biases do not decay.

    Raises:
        CondnetError: If there is none of that name, if it cannot be used here, or if it does not take a setting.
    """
    name = config.opt.lower().removeprefix(_LOOKAHEAD)
    check_optimizer(config.opt)
    constants = _constants(config)
    try:
        optimizer = create_optimizer_v2(
            model,
            name,
            lr=config.lr,
            weight_decay=config.weight_decay,
            momentum=config.momentum,
            **constants,
            foreach=False if config.share_momentum else None,  # what weights share is updated for one after the other
        )
    except (TypeError, ValueError) as error:  # an argument that it does not have, or a value that it does not take
        raise CondnetError(f'--opt {config.opt} does not go with the other flags: {error}') from error
    return _Lookahead(optimizer) if config.opt.lower().startswith(_LOOKAHEAD) else optimizer


def check_optimizer(opt: str) -> None:
    """Check that an optimizer trains super-networks, before anything else is done.

    Raises:
        CondnetError: If there is none of that name, or it needs what is not to be had here.
    """
    name = opt.lower().removeprefix(_LOOKAHEAD)
    if name not in list_optimizers():
        known = map(str, list_optimizers(exclude_filters=['bnb*', 'fused*']))
        near = [f'; did you mean {other}?' for other in difflib.get_close_matches(name, known, 1)]
        raise CondnetError(f"--opt {opt} is none of timm's optimizers{''.join(near)}")
    info = get_optimizer_info(name)
    if isinstance(info.opt_class, str):
        raise CondnetError(f'--opt {opt} is of the package {info.opt_class.split(".")[0]}, expected one of '
                           "PyTorch's or timm's own")  # fmt: skip
    if info.opt_class is Kron:  # its random numbers follow the order of the weights, too, which the split changes
        raise CondnetError(f'--opt {opt} compiles code for every shape of a weight, which takes minutes for each')
    if info.second_order:
        raise CondnetError(f'--opt {opt} needs second derivatives, which are not computed here')


def _constants(config: TrainConfig) -> dict[str, Any]:
    """Those of the optimizer that are set; timm would pass over what it does not have.

    Raises:
        CondnetError: If it does not have one.
    """
    info = get_optimizer_info(config.opt.lower().removeprefix(_LOOKAHEAD))
    given = {'eps': (config.opt_eps, info.has_eps), 'betas': (config.opt_betas, info.has_betas)}
    for name, (value, has_it) in given.items():
        if value is not None and not has_it:
            raise CondnetError(f'--opt-{name} does nothing with --opt {config.opt}, which has none')
    return {name: value for name, (value, _) in given.items() if value is not None}


def takes_momentum(opt: str) -> bool:
    """Whether an optimizer takes `--momentum`; others have constants of their own."""
    return get_optimizer_info(opt.lower().removeprefix(_LOOKAHEAD)).has_momentum


def create_scheduler(optimizer: torch.optim.Optimizer, config: TrainConfig) -> Scheduler:
    """The schedule that the settings name, stepped after every epoch.

    Raises:
        CondnetError: If it does not go with a setting.
    """
    settings = {name: value for name in SCHEDULE_FLAGS if (value := getattr(config, name)) is not None}
    name = 'constant' if config.sched == 'none' else config.sched  # timm makes no scheduler at all of none
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
                cooldown_epochs=config.cooldown_epochs,
                plateau_mode='min',
                **settings,
            )
    except ValueError as error:
        raise CondnetError(f'--sched {config.sched} does not go with the other flags: {error}') from error
    if isinstance(scheduler, PlateauLRScheduler):
        scheduler.lr_scheduler.eps = 0.0  # PyTorch's 1e-8 would never change a rate that is as small
    return scheduler


def schedule_state(scheduler: Scheduler) -> dict[str, Any]:
    """What a schedule goes on from, beside the epoch: only plateau has a memory."""
    return scheduler.lr_scheduler.state_dict() if isinstance(scheduler, PlateauLRScheduler) else {}


def load_schedule_state(scheduler: Scheduler, state: dict[str, Any]) -> None:
    """Restore what `schedule_state` gave; nothing for a checkpoint from before it was kept."""
    if state and isinstance(scheduler, PlateauLRScheduler):
        scheduler.lr_scheduler.load_state_dict(state)
