"""What a training consists of before its first step: model, task, optimizer, schedule."""

import dataclasses
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import timm
import torch
from timm.layers import convert_sync_batchnorm
from timm.loss import create_classification_loss
from timm.scheduler.scheduler import Scheduler
from torch import nn

from condnet.checkpoints.loading import preprocessing
from condnet.errors import CondnetError, first_line
from condnet.models import Supernet
from condnet.models.counts import Choice
from condnet.training.checks import check_model
from condnet.training.config import Settled, TrainConfig
from condnet.training.initial import load_initial_weights
from condnet.training.mixing import Mixing
from condnet.training.optimization import create_optimizer, create_scheduler, takes_momentum
from condnet.training.progress import Progress
from condnet.training.step import TrainingStep, compile_model
from condnet.training.task import SupernetTask
from condnet.utils.distributed import Group

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Training:
    """A training that can begin, or go on.

    Args:
        config: Its settings.
        settled: What data and machine have settled.
        step: What is done with a batch; it has the model in its task, and the optimizer.
        scheduler: Schedule of the learning rate, stepped after every epoch; see `step_on_updates`.
    """

    config: TrainConfig
    settled: Settled
    step: TrainingStep
    scheduler: Scheduler


def create_training(
    config: TrainConfig,
    settled: Settled,
    device: torch.device,
    group: Group | None = None,
    checkpoint: dict[str, Any] | None = None,
) -> Training:
    """A training as it is before its first step.

    Args:
        config: Its settings.
        settled: What data and machine have settled.
        device: Where it is.
        group: The processes that train together.
        checkpoint: What it will go on from. It has the weights, so that those to begin with are not looked for.

    Raises:
        CondnetError: If the model cannot be built, or does not go with a setting.
    """
    group = group or Group()
    torch.manual_seed(config.seed)
    model = _create_model(config, settled)
    untrained = load_initial_weights(model, config) if checkpoint is None else []
    if checkpoint is not None and isinstance(model, Supernet) and has_begun_split(checkpoint):
        model.split()
    if config.split_epoch and isinstance(model, Supernet) and model.is_split:
        raise CondnetError(f'`split_epoch` is {config.split_epoch}, and {config.model} is split from the start: use '
                           '`split_epoch` 0')  # fmt: skip
    if config.sync_bn:
        if device.type != 'cuda' or group.size == 1:
            raise CondnetError('`sync_bn` needs several processes with a GPU each (torchrun, `device` cuda)')
        model = convert_sync_batchnorm(model)
    memory_format = torch.channels_last if config.channels_last else torch.contiguous_format
    model.to(device).to(memory_format=memory_format)
    task = _create_task(model, config, untrained)
    optimizer = create_optimizer(model, config)
    if config.momentum != TrainConfig.momentum and not takes_momentum(config.opt):
        _logger.warning(f'`momentum` does nothing with `opt` {config.opt}')
    scheduler = create_scheduler(optimizer, config)
    if config.model_ema:
        task.setup_ema(decay=config.model_ema_decay, use_warmup=config.model_ema_warmup)
    amp_dtype = getattr(torch, config.amp_dtype) if config.amp else None
    clip = None if config.clip_grad is None else (config.clip_grad, config.clip_mode)
    mixing = _create_mixing(config, settled, group)
    step = TrainingStep(
        task, optimizer, group, config.grad_accum_steps, amp_dtype, config.update_unsampled, clip, mixing
    )
    check_model(step, config, settled)
    if config.torchcompile:
        compile_model(model)
    return Training(config, settled, step, scheduler)


def step_on_updates(training: Training, num_updates: int, progress: Progress) -> Training:
    """A training whose schedule is stepped after every update, if it is to be; the data say how many an epoch has.

    Args:
        training: The training.
        num_updates: Updates of an epoch.
        progress: How far it is.
    """
    if not training.config.sched_on_updates:
        return training
    scheduler = create_scheduler(training.step.optimizer, training.config, num_updates)
    if done := progress.epoch * num_updates + progress.batch:
        scheduler.step_update(done)  # it has begun with the first rate again
    return dataclasses.replace(training, scheduler=scheduler)


def _create_task(model: nn.Module, config: TrainConfig, untrained: Iterable[Choice]) -> SupernetTask:
    criterion = None
    if config.smoothing or config.mixes or config.bce_loss:  # mixing smooths labels itself
        criterion = create_classification_loss(
            'bce' if config.bce_loss else 'ce',
            smoothing=config.smoothing,
            soft_targets=config.mixes,
            bce_target_thresh=config.bce_target_thresh,
            bce_sum=config.bce_sum,
            pos_weight=config.bce_pos_weight,
        )
    task = SupernetTask(model, config.seed, config.sampling, config.share_momentum, config.operation_weights, criterion)
    if task.untrained_before is not None:
        task.untrained_before.update(untrained)
    return task


def _create_mixing(config: TrainConfig, settled: Settled, group: Group) -> Mixing | None:
    if config.cutmix_minmax is not None:
        least, most = config.cutmix_minmax
        for size in settled.input_size[1:]:
            if int(size * least) >= int(size * most):
                raise CondnetError(
                    f'`cutmix_minmax` is {least:g} {most:g}: of {size} pixels there is none between them'
                )
    return Mixing(config, settled.num_classes, group.rank) if config.mixes else None


def has_begun_split(checkpoint: dict[str, Any]) -> bool:
    """Whether the training of a checkpoint has trained a super-network that was split from the start."""
    return bool(checkpoint['task_state']['split'] and not checkpoint['args'].split_epoch)


def _create_model(config: TrainConfig, settled: Settled) -> nn.Module:
    rates = {'drop_rate': config.drop, 'drop_path_rate': config.drop_path}
    kwargs: dict[str, Any] = {name: rate for name, rate in rates.items() if rate} | config.model_kwargs
    try:
        model = timm.create_model(
            config.model,
            num_classes=settled.num_classes,
            in_chans=settled.input_size[0],
            pretrained_cfg_overlay=preprocessing(settled.data_name or '', settled.input_size, vars(settled)),
            **kwargs,
        )
    except CondnetError:
        raise
    except Exception as error:  # unknown model, unknown argument, or whatever a constructor stumbles over in one
        raise CondnetError(f'cannot build the model {config.model!r}: {first_line(error)}') from error
    if config.split_epoch and not isinstance(model, Supernet):
        raise CondnetError(f'`split_epoch` needs a super-network, which {config.model} is not')
    if config.fast_norm and not any(getattr(module, '_fast_norm', False) for module in model.modules()):
        raise CondnetError(f"`fast_norm` does nothing with {config.model}, which has none of timm's LayerNorm and "
                           'GroupNorm')  # fmt: skip
    return model
