"""A training from settings to checkpoint."""

import argparse
import contextlib
import functools
import json
import logging
from pathlib import Path
from typing import Any

import timm
import torch
from timm.layers import convert_sync_batchnorm
from timm.scheduler.scheduler import Scheduler
from torch import nn

from condnet.checkpoints.loading import preprocessing
from condnet.checkpoints.training import LAST
from condnet.data import InMemoryLoader, TimmLoader
from condnet.errors import CondnetError
from condnet.models import Supernet
from condnet.models.counts import describe_untrained, untrained_choices
from condnet.ranking.evaluate import EvaluationData
from condnet.training.checks import check_model
from condnet.training.data import create_data, open_data
from condnet.training.loop import Progress, evaluate_fixed_archs, train_one_epoch
from condnet.training.optimization import create_optimizer, create_scheduler, takes_momentum
from condnet.training.output import find_checkpoint, prepare_output, save_checkpoint, write_records
from condnet.training.resume import resume
from condnet.training.step import TrainingStep, compile_model
from condnet.training.task import SupernetTask
from condnet.utils.device import hardware_name
from condnet.utils.distributed import Group, join_group
from condnet.utils.files import check_folder_to_write

_logger = logging.getLogger(__name__)


def train(args: argparse.Namespace) -> None:
    """Run a training, as `parse_args` describes it.

    Raises:
        CondnetError: If settings, data and checkpoint do not fit together, and then nothing is written; or if training
            cannot go on, because it has diverged or the disk is full.
    """
    group, device = join_group(args.device)
    args.num_processes, args.hardware = group.size, hardware_name(device)
    group.from_first(lambda: check_folder_to_write(Path(args.output)))
    path, checkpoint = group.from_first(lambda: find_checkpoint(args))
    with group.first_ahead(args.download):
        source = open_data(args)
        step, scheduler = create_training(args, device, group)
        progress = resume(step, checkpoint, args, scheduler) if checkpoint else Progress()
        batches, data = create_data(args, source, step.task.model.pretrained_cfg, device, group)
    with contextlib.ExitStack() as held:
        output = group.from_first(lambda: prepare_output(args, path, checkpoint, held))
        try:
            train_epochs(args, step, scheduler, progress, batches, data, output)
        except (FloatingPointError, OSError) as error:
            last = output / LAST
            kept = f'the last good checkpoint is {last}' if last.exists() else 'no checkpoint was written before'
            raise CondnetError(f'{error}; {kept}') from error
    group.leave()


def train_epochs(
    args: argparse.Namespace,
    step: TrainingStep,
    scheduler: Scheduler,
    progress: Progress,
    batches: InMemoryLoader | TimmLoader,
    data: EvaluationData | None,
    output: Path,
) -> None:
    """Train what is left of the epochs.

    A checkpoint holds everything that the other files are written from. So it is written first, and they are written
    again at the start: whatever an interruption cut off there is made up for.

    Raises:
        FloatingPointError: If loss or weights are not finite.
        OSError: If a file cannot be written, or another process is lost.
    """
    task, optimizer, group = step.task, step.optimizer, step.group
    save = functools.partial(save_checkpoint, args, step, scheduler, output)
    archs = fixed_archs(task.model, args.eval_archs)
    group.from_first(lambda: write_records(args, task, progress, output))
    for epoch in range(progress.epoch, min(args.epochs, args.stop_epoch or args.epochs)):
        if 0 < epoch == args.split_epoch and not task.get_task_state()['split']:
            task.split(optimizer)
            if args.torchcompile:
                compile_model(task.model)
            _logger.info(f'split: {task.model.num_weight_sets} weight sets')
        lr = optimizer.param_groups[0]['lr']
        batches.set_epoch(epoch)
        metrics = train_one_epoch(step, batches, progress, args.log_interval, args.recovery_interval, save)
        due = args.eval_interval and ((epoch + 1) % args.eval_interval == 0 or epoch == args.epochs - 1)
        # Compiled code would be compiled anew for the recalibration of every architecture.
        with torch.compiler.set_stance('force_eager') if args.torchcompile else contextlib.nullcontext():
            eval_metrics = evaluate_fixed_archs(task, archs, data) if data and due else dict.fromkeys(_EVAL_METRICS, '')
        # Plateau goes by one kind of loss, and the processes of different GPUs may differ in the last digit of it.
        loss = metrics['loss'] if data is None else eval_metrics['loss'] if due else None
        scheduler.step(epoch + 1, group.from_first(functools.partial(lambda value: value, loss)))
        row = {'epoch': epoch} | _prefixed('train_', metrics) | _prefixed('eval_', eval_metrics) | {'lr': lr}
        progress = Progress(epoch + 1, summary=[*progress.summary, row])
        save(progress)
        group.from_first(functools.partial(write_records, args, task, progress, output))
        _logger.info(f'epoch {epoch} done: {json.dumps(row)}')
    if isinstance(task.model, Supernet):
        untrained = untrained_choices(task.model, task.counts_since_split)
        if warning := describe_untrained(task.model.space, None, untrained):
            _logger.warning(f'{warning}; see {output / "counts.csv"}')


_EVAL_METRICS = ('loss', 'accuracy', 'seconds')


def _prefixed(prefix: str, metrics: dict[str, Any]) -> dict[str, Any]:
    return {prefix + name: value for name, value in metrics.items()}


def create_training(
    args: argparse.Namespace, device: torch.device, group: Group | None = None
) -> tuple[TrainingStep, Scheduler]:
    """Model in its task, optimizer and scheduler, all as before the first step.

    Raises:
        CondnetError: If the model cannot be built, or does not go with a setting.
    """
    group = group or Group()
    torch.manual_seed(args.seed)
    kwargs = dict(args.model_kwargs)
    if kwargs.pop('split', False):
        raise CondnetError('a training starts unsplit; use --split-epoch instead of the model argument split')
    try:
        model = timm.create_model(
            args.model,
            num_classes=args.num_classes,
            in_chans=args.input_size[0],
            pretrained_cfg_overlay=preprocessing(args.data_name, args.input_size),
            **kwargs,
        )
    except CondnetError:
        raise
    except Exception as error:  # unknown model, unknown argument, or whatever a constructor stumbles over in one
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CondnetError(f'cannot build the model {args.model!r}: {reason}') from error
    if isinstance(model, Supernet) and model.is_split:
        raise CondnetError(f'a training starts unsplit, and {args.model} is split already')
    if args.split_epoch and not isinstance(model, Supernet):
        raise CondnetError(f'--split-epoch needs a super-network, {args.model} is none')
    if args.sync_bn:
        if device.type != 'cuda' or group.size == 1:
            raise CondnetError('--sync-bn needs several processes with a GPU each (torchrun, --device cuda)')
        model = convert_sync_batchnorm(model)
    model.to(device).to(memory_format=torch.channels_last if args.channels_last else torch.contiguous_format)
    task = SupernetTask(model, args.seed, device, args.sampling, args.share_momentum, args.operation_weights)
    optimizer = create_optimizer(model, args)
    from condnet.cli.train import make_parser

    if args.momentum != make_parser().get_default('momentum') and not takes_momentum(args.opt):
        _logger.warning(f'--momentum does nothing with --opt {args.opt}')
    scheduler = create_scheduler(optimizer, args)
    if args.model_ema:
        task.setup_ema(decay=args.model_ema_decay)
    amp_dtype = getattr(torch, args.amp_dtype) if args.amp else None
    step = TrainingStep(task, optimizer, group, args.grad_accum_steps, amp_dtype, args.update_unsampled)
    check_model(step, args)
    if args.torchcompile:
        compile_model(model)
    return step, scheduler


def fixed_archs(model: nn.Module, num: int) -> list:
    """The sample of architectures that is validated while a super-network trains."""
    return model.space.sample_distinct(min(num, model.space.size), seed=0) if isinstance(model, Supernet) else []
