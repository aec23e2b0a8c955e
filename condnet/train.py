"""Training of super-networks and stand-alone networks: the `condnet-train` command, also reached as `train.py`."""

import argparse
import contextlib
import csv
import functools
import io
import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

import timm
import torch
import yaml
from timm.layers import convert_sync_batchnorm
from timm.scheduler.scheduler import Scheduler
from torch import nn

from condnet.checkpoint import (
    LAST,
    PREVIOUS,
    find_training_checkpoint,
    preprocessing,
    save_training_checkpoint,
    training_checkpoints,
    write_file,
)
from condnet.commands import (
    DATASET_HELP,
    ModelKwargs,
    check_folder_to_write,
    check_forward,
    check_numbers,
    hardware_name,
    open_images,
    run,
)
from condnet.counts import counts_table, describe_untrained, untrained_choices
from condnet.data import (
    Images,
    InMemoryLoader,
    TimmLoader,
    augmentation_of,
    check_size,
    choose_timm_images,
    create_timm_loader,
    dataset_name,
    fingerprint_of,
    withheld_indices,
)
from condnet.distributed import Group, join_group
from condnet.engine import Progress, evaluate_fixed_archs, train_one_epoch
from condnet.errors import CondnetError
from condnet.locks import Lock
from condnet.models import Supernet
from condnet.optimization import (
    SCHEDULE_FLAGS,
    SCHEDULES,
    create_optimizer,
    create_scheduler,
    load_schedule_state,
    schedule_state,
    takes_momentum,
)
from condnet.plugins import add_import_flag, import_plugins
from condnet.ranking import CALIBRATION_BATCH_SIZE, EvaluationData, choose_images, evaluation_data
from condnet.recipes import read_recipe
from condnet.step import TrainingStep, compile_model
from condnet.task import SAMPLINGS, SupernetTask

_logger = logging.getLogger('train')


def make_parser() -> argparse.ArgumentParser:
    """Flags of the command. A recipe sets defaults, a flag overrides its recipe."""
    parser = argparse.ArgumentParser('condnet-train', description=__doc__, allow_abbrev=False)
    parser.add_argument('-c', '--config', metavar='RECIPE', help='name of a packaged recipe, or a YAML file')
    add_import_flag(parser)
    parser.add_argument('--data-dir', help='directory with CIFAR-10, or with another data set; glyphs needs none')
    parser.add_argument('--download', action='store_true', help='download CIFAR-10 into --data-dir if it is not there')
    parser.add_argument('--dataset', help=DATASET_HELP)
    parser.add_argument('--train-split', default='train', help='with --dataset: the part to train on')
    parser.add_argument('--val-split', default='validation', help='with --dataset: the part to validate on')
    parser.add_argument('--num-classes', type=int, help='default: those of the data; with --dataset 10')
    parser.add_argument('--input-size', type=int, nargs=3, help='default: that of the data; with --dataset 3 32 32')
    parser.add_argument('--workers', type=int, default=1, help='with --dataset: processes that load it')
    parser.add_argument('--output', default='output/train', help='directory of checkpoints and summary.csv')
    group = parser.add_argument_group('model')
    group.add_argument('--model', default='nb201_cond_supernet', help='name of a timm model')
    group.add_argument('--model-kwargs', nargs='*', default={}, action=ModelKwargs, help='space=no_zero, arch=... '
                       '(as --archs of condnet-validate), ...')  # fmt: skip
    group.add_argument('--channels-last', action=argparse.BooleanOptionalAction, default=True, help='memory layout')
    group.add_argument('--device', default='cpu', help='device to train on; cuda: under torchrun a GPU per process')
    group.add_argument('--amp', action='store_true', help='mixed precision')
    group.add_argument('--amp-dtype', choices=('bfloat16', 'float16'), default='bfloat16', help='its data type; with '
                       'float16 the loss is scaled')  # fmt: skip
    group.add_argument('--torchcompile', action='store_true', help='compile the candidate operations (or a whole '
                       'stand-alone network)')  # fmt: skip
    group.add_argument('--sync-bn', action='store_true', help='several GPUs normalise a batch together')
    group = parser.add_argument_group('method')
    group.add_argument('--sampling', choices=SAMPLINGS, default='uniform', help='one architecture per step, or (fair) '
                       'as many as there are operations, so that each is trained once before an update')  # fmt: skip
    group.add_argument('--operation-weights', type=float, nargs='+', help='draw operations in these proportions, by '
                       'their official numbers, instead of equally often')  # fmt: skip
    group.add_argument('--share-momentum', action='store_true', help="the authors' variant: the copies of a weight "
                       'have one momentum')  # fmt: skip
    group.add_argument('--update-unsampled', action='store_true', help="the authors' variant: weights that are not "
                       'sampled decay and follow their momentum')  # fmt: skip
    group = parser.add_argument_group('schedule')
    group.add_argument('--epochs', type=int, default=250, help='epochs of the schedule')
    group.add_argument('--split-epoch', type=int, default=0, help='split after so many epochs; 0 for never')
    group.add_argument('--stop-epoch', type=int, default=0, help='stop after so many epochs of the schedule; 0: never')
    group.add_argument('--resume', metavar='PATH', help='continue from this checkpoint, or from the newest one in this '
                       'folder; --output itself is started if it has none; with --split-epoch also an unsplit one '
                       'with a split')  # fmt: skip
    group.add_argument('--recovery-interval', type=int, default=0, help='also write a checkpoint every so many batches '
                       'of an epoch; 0 for only after it')  # fmt: skip
    group.add_argument('--keep-epochs', type=int, nargs='*', default=[], help='keep the checkpoints after these epochs')
    group.add_argument('--batch-size', type=int, default=256, help='images per update, over all processes')
    group.add_argument('--grad-accum-steps', type=int, default=1, help='parts into which a process divides its share '
                       'of a batch to save memory; BatchNorm normalises each for itself')  # fmt: skip
    group.add_argument('--seed', type=int, default=0, help='seed of weights, architectures, data order, augmentation')
    group = parser.add_argument_group('optimizer')
    group.add_argument('--opt', default='momentum', help="timm optimizer (timm's 'sgd' is Nesterov, 'momentum' is not)")
    group.add_argument('--lr', type=float, default=0.025)
    group.add_argument('--min-lr', type=float, default=1e-5)
    group.add_argument('--sched', default='cosine', help=f'{", ".join(SCHEDULES)}: as in timm, stepped once per epoch; '
                       'plateau after every validation, by its loss, or with --eval-interval 0 by the training '
                       'loss')  # fmt: skip
    group.add_argument('--decay-epochs', type=float, help='step: epochs between two changes (default: 90); wsd: the '
                       'last epochs, or a share of all (default: 0.2)')  # fmt: skip
    group.add_argument('--decay-milestones', type=int, nargs='+', help='multistep: the first epochs with '
                       'another rate, counted from 1 (default: 90 180 270)')  # fmt: skip
    group.add_argument('--decay-rate', type=float, help='step, multistep, plateau: factor; poly: power (default: 0.1)')
    group.add_argument('--patience-epochs', type=int, help='plateau: validations without a lower loss (default: 10)')
    group.add_argument('--momentum', type=float, default=0.9)
    group.add_argument('--weight-decay', type=float, default=3e-4, help='not on BatchNorm and biases')
    group.add_argument('--model-ema', action='store_true', help='also average the weights')
    group.add_argument('--model-ema-decay', type=float, default=0.9998)
    group = parser.add_argument_group('validation during training, of a fixed sample of architectures')
    group.add_argument('--eval-interval', type=int, default=1, help='every so many epochs; 0 for never')
    group.add_argument('--eval-archs', type=int, default=4, help='architectures (drawn with seed 0)')
    group.add_argument('--eval-batches', type=int, default=4, help='calibration batches of 256')
    group.add_argument(
        '--eval-images', type=int, help='withheld images (default: up to 1,000, equally many of a class)'
    )
    group.add_argument('--log-interval', type=int, default=50, help='batches between lines of the log')
    return parser


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read recipe and flags.

    Raises:
        CondnetError: If the recipe or a value makes no sense.
    """
    parser = make_parser()
    config = parser.parse_known_args(argv)[0].config
    if config:
        parser.set_defaults(**read_recipe(config, parser))
    args = parser.parse_args(argv)
    import_plugins(args)
    _check_args(args)
    return args


def _check_args(args: argparse.Namespace) -> None:
    counts = ('epochs', 'batch_size', 'eval_archs', 'eval_batches', 'eval_images', 'log_interval', 'grad_accum_steps')
    check_numbers(args, 1, *counts, 'num_classes')
    check_numbers(args, 0, 'seed', 'recovery_interval', 'eval_interval', 'workers', 'lr', 'min_lr', 'weight_decay')
    check_numbers(args, 0, 'momentum', 'model_ema_decay', below=1)
    for name, values in (('input-size', args.input_size), ('keep-epochs', args.keep_epochs)):
        if not all(0 < value < 2**31 for value in values or ()):
            raise CondnetError(f'--{name} is {" ".join(map(str, values))}, expected numbers of at least 1')
    for name, last in (('split_epoch', args.epochs - 1), ('stop_epoch', args.epochs)):
        if not 0 <= getattr(args, name) <= last:
            raise CondnetError(f'--{name.replace("_", "-")} is {getattr(args, name)}, expected 1..{last} for --epochs '
                               f'{args.epochs}, or 0 for never')  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """Train; returns the exit status."""
    return run('condnet-train', lambda: train(parse_args(argv)))


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


def find_checkpoint(args: argparse.Namespace) -> tuple[Path | None, dict[str, Any] | None]:
    """The checkpoint to go on from, and its file; None for a training from the start.

    Raises:
        CondnetError: If there should be one, and there is none that can be read.
    """
    if not args.resume:
        return None, None
    if _is_same(args.resume, args.output) and not training_checkpoints(Path(args.output)):
        _logger.info(f'there is no checkpoint in {args.output} yet: training starts from the beginning')
        return None, None
    return find_training_checkpoint(Path(args.resume))


def _is_same(one: str | Path, other: str | Path) -> bool:
    return Path(one).resolve() == Path(other).resolve()


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


def check_model(step: TrainingStep, args: argparse.Namespace) -> None:
    """Try a model on images of the size that it is to be trained on, before anything is written; it stays as it is.

    Raises:
        CondnetError: If it cannot take them, or does not give the scores of the classes.
    """
    model, device = step.task.model, step.task.device
    if args.channels_last and device.type == 'cpu' and any(map(_breaks_channels_last, model.modules())):
        raise CondnetError(f'{args.model} has a 1x1 convolution with a stride on few channels, whose gradient in the '
                           'layout channels_last crashes PyTorch on CPUs; use --no-channels-last')  # fmt: skip
    num = min(2, max(1, args.batch_size // step.group.size // step.num_parts))
    with step.autocast():
        output = check_forward(model, args.input_size, num, device)
    if not isinstance(output, torch.Tensor) or output.shape != (num, args.num_classes):
        found = list(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
        raise CondnetError(f'{args.model} gives {found} for {num} images, expected scores of {args.num_classes} '
                           'classes')  # fmt: skip


def _breaks_channels_last(module: nn.Module) -> bool:
    """Whether oneDNN writes past the gradient of a layer: seen in PyTorch 2.14 with 3 to 5 channels, not with 8."""
    if not isinstance(module, nn.Conv2d) or module.groups > 1:
        return False
    return module.kernel_size == (1, 1) and module.stride != (1, 1) and 1 < module.in_channels < 8


_DEFAULT_EVAL_IMAGES = 1000  # withheld images for the check after an epoch

# What must be the same for a resumed training to be the one that was interrupted.
_SAME = ('model', 'model_kwargs', 'num_classes', 'input_size', 'data_name', 'data_sha256', 'epochs',
          'batch_size', 'seed', 'opt', 'lr', 'min_lr', 'sched', 'momentum',
         'weight_decay', 'model_ema', 'model_ema_decay', 'channels_last', 'amp', 'amp_dtype', 'sampling',
         'operation_weights', 'share_momentum', 'update_unsampled', *SCHEDULE_FLAGS)  # fmt: skip


_VALIDATION = ('eval_interval', 'eval_archs', 'eval_batches', 'eval_images')


def _without_tuples(value: Any) -> Any:
    """A setting as YAML has it, so that one from args.yaml is the one that was a flag."""
    if isinstance(value, dict):
        return {key: _without_tuples(item) for key, item in value.items()}
    return [_without_tuples(item) for item in value] if isinstance(value, list | tuple) else value


def resume(
    step: TrainingStep, checkpoint: dict[str, Any], args: argparse.Namespace, scheduler: Scheduler | None = None
) -> Progress:
    """Continue a checkpoint. The learning rate comes with the optimizer, and the scheduler with what it remembers.

    Returns:
        Where to go on.

    Raises:
        CondnetError: If the checkpoint is of another training, or the split does not fit it.
    """
    task, optimizer = step.task, step.optimizer
    progress, is_split = check_resumable(checkpoint, args)
    if is_split:
        task.split(optimizer)
        if args.torchcompile:
            compile_model(task.model)
    try:
        task.load_checkpoint_state(checkpoint['state_dict'], checkpoint['task_state'])
        if args.model_ema:
            task.load_checkpoint_state(checkpoint['state_dict_ema'], ema=True)
        optimizer.load_state_dict(checkpoint['optimizer'])
        if is_split:
            task.share_momentum(optimizer)
        step.scaler.load_state_dict(checkpoint.get('scaler', {}))
        if scheduler is not None:
            load_schedule_state(scheduler, checkpoint.get('scheduler', {}))
    except (KeyError, RuntimeError) as error:
        raise CondnetError(f'{args.resume} does not fit {args.model}: {str(error).splitlines()[0]}') from error
    set_random_state(checkpoint['random_state'], task.device)
    return progress


def check_resumable(checkpoint: dict[str, Any], args: argparse.Namespace) -> tuple[Progress, bool]:
    """Check that the flags go on with the training of a checkpoint.

    Returns:
        How far it is, and whether it is split.

    Raises:
        CondnetError: If they describe another training.
    """
    before, parser = vars(checkpoint['args']), make_parser()
    # What validation computes is no part of a training, unless plateau goes by it.
    for name in (*_SAME, *(_VALIDATION if args.sched == 'plateau' else ())):
        value = before.get(name, parser.get_default(name))  # the flag may be newer than the checkpoint
        if _without_tuples(value) != _without_tuples(getattr(args, name)):
            if name == 'data_sha256':
                raise CondnetError(f'{args.resume} was trained with {name} {value!r}, not {getattr(args, name)!r}: a '
                                   'resumed training keeps its images, and in the same encoding')  # fmt: skip
            raise CondnetError(
                f'{args.resume} was trained with {name} {value!r}, not {getattr(args, name)!r}; a resumed training '
                f'keeps it'
            )
    try:
        progress, is_split = Progress(**checkpoint['progress']), checkpoint['task_state']['split']
    except (KeyError, TypeError) as error:
        raise CondnetError(f'{args.resume} is of another version of condnet: rank it, but train anew') from error
    if is_split and args.update_unsampled and 'last_contexts' not in checkpoint['task_state']:
        raise CondnetError(f'{args.resume} was trained by a version of condnet whose --update-unsampled was not the '
                           "authors' method after the split: go on from its last unsplit checkpoint")  # fmt: skip
    num_before = before.get('num_processes', 1)
    if progress.batch and args.dataset not in (None, 'glyphs') and num_before != args.num_processes:
        raise CondnetError(f'{args.resume} is in mid-epoch, and with --dataset the order of the images depends on the '
                           f'number of processes: continue with {num_before}, not {args.num_processes}')  # fmt: skip
    if is_split and before.get('split_epoch') != args.split_epoch:
        raise CondnetError(f'{args.resume} was split at epoch {before.get("split_epoch")}, not {args.split_epoch}')
    if not is_split and 0 < args.split_epoch and (args.split_epoch, 0) < (progress.epoch, progress.batch):
        raise CondnetError(
            f'{args.resume} has trained {progress.epoch} epochs and {progress.batch} batches unsplit, it is too late '
            f'to split at {args.split_epoch}'
        )
    return progress, is_split


def random_state(device: torch.device) -> list[torch.Tensor]:
    """State of torch's random numbers, which models with dropout draw."""
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == 'cuda' else [])]


def set_random_state(states: list[torch.Tensor], device: torch.device) -> None:
    """Restore what `random_state` gave; that of a GPU only on a GPU."""
    torch.set_rng_state(states[0])
    if device.type == 'cuda' and len(states) > 1:
        torch.cuda.set_rng_state(states[1], device)


def open_data(args: argparse.Namespace) -> Images | None:
    """The training set in memory, or None with `--dataset`; settles number of classes and size of the images."""
    images = open_images(args)
    num_classes = 10 if images is None else len(images.classes)
    input_size = [3, 32, 32] if images is None else list(images.images.shape[1:])
    args.num_classes, args.input_size = args.num_classes or num_classes, args.input_size or input_size
    args.data_name, args.data_sha256, args.data_fingerprint = args.dataset, None, None
    source = args.data_dir or args.dataset
    if images is not None:
        args.data_name = dataset_name(images)
        # Another Pillow may draw the letters a little differently; that does not make glyphs another data set.
        args.data_sha256 = None if args.data_name == 'glyphs' else images.sha256()
        if args.num_classes < num_classes:
            raise CondnetError(f'--num-classes is {args.num_classes}, but {source} has {num_classes} classes')
        check_size(images, args.input_size)
        args.data_fingerprint = None if args.data_name == 'glyphs' else fingerprint_of(images)
    return images


def create_data(
    args: argparse.Namespace, images: Images | None, config: dict[str, Any], device: torch.device, group: Group
) -> tuple[InMemoryLoader | TimmLoader, EvaluationData | None]:
    """Batches to train on, this process's share, and the data of the check after an epoch, if there is to be one.

    Raises:
        CondnetError: If there are too few images, or a batch cannot be shared.
    """
    share, rest = divmod(args.batch_size, group.size)
    if rest or share < args.grad_accum_steps:
        raise CondnetError(f'--batch-size is {args.batch_size}, expected a multiple of the {group.size} processes, '
                           f'with at least {args.grad_accum_steps} images for each (--grad-accum-steps)')  # fmt: skip
    batches: InMemoryLoader | TimmLoader
    if images is None:
        batches = create_timm_loader(
            args.dataset,
            args.data_dir,
            args.train_split,
            input_size=tuple(args.input_size),
            batch_size=args.batch_size,
            mean=config['mean'],
            std=config['std'],
            seed=args.seed,
            workers=args.workers,
            device=device,
            download=args.download,
            rank=group.rank,
            world_size=group.size,
            train_split=args.train_split,
            num_classes=args.num_classes,
        )
    else:
        batches = InMemoryLoader(
            images.select(withheld_indices(images.targets)[0]),
            args.batch_size,
            config['mean'],
            config['std'],
            seed=args.seed,
            device=device,
            channels_last=args.channels_last,
            rank=group.rank,
            world_size=group.size,
            **augmentation_of(images),
        )
    if len(batches) == 0:
        raise CondnetError(
            f'{args.data_dir or args.dataset} has fewer training images than a batch of {args.batch_size}'
        )
    if not args.eval_interval:
        return batches, None
    calibration, validation = choose_evaluation_images(args, images)
    return batches, evaluation_data(calibration, validation, config, device, args.channels_last)


def choose_evaluation_images(args: argparse.Namespace, images: Images | None) -> tuple[Images, Images]:
    """Images to calibrate on, and withheld images to validate on, for the check after an epoch."""
    if images is not None:
        num_images = args.eval_images
        if num_images is None:
            num_classes, withheld = len(images.classes), images.targets[withheld_indices(images.targets)[1]]
            least = int(withheld.bincount(minlength=num_classes).min())
            num_images = min(least, _DEFAULT_EVAL_IMAGES // num_classes) * num_classes or None  # None: all
        return choose_images(images, args.eval_batches, num_images)
    nums = args.eval_batches * CALIBRATION_BATCH_SIZE, args.eval_images or _DEFAULT_EVAL_IMAGES
    calibration, validation = choose_timm_images(
        args.dataset, args.data_dir, (args.train_split, args.val_split), nums, tuple(args.input_size), args.download
    )
    classes = 1 + int(max(calibration.targets.max(), validation.targets.max()))
    if classes > args.num_classes:
        raise CondnetError(f'--num-classes is {args.num_classes}, but {args.dataset} has at least {classes} classes')
    return calibration, validation


def fixed_archs(model: nn.Module, num: int) -> list:
    """The sample of architectures that is validated while a super-network trains."""
    return model.space.sample_distinct(min(num, model.space.size), seed=0) if isinstance(model, Supernet) else []


def prepare_output(
    args: argparse.Namespace, resumed: Path | None, checkpoint: dict[str, Any] | None, held: contextlib.ExitStack
) -> Path:
    """Make the output directory. In one that is continued, the checkpoint that was read becomes the last one.

    Args:
        args: Flags.
        resumed: The file of the checkpoint that was read.
        checkpoint: What was read; None for a training from the start.
        held: Holds what keeps other trainings out.

    Raises:
        CondnetError: If another training is there, or is running there, or was a moment ago.
    """
    output = Path(args.output)
    continues = args.resume and any(_is_same(args.resume, path) for path in (output, output / LAST))
    if training_checkpoints(output) and not continues:
        raise CondnetError(f'{output} holds a training; continue it with --resume {output}, or choose another --output')
    output.mkdir(parents=True, exist_ok=True)
    busy = f'another training is running in {output}; wait for it, or choose another --output'
    held.enter_context(Lock(output / '.lock', busy))
    if continues and training_checkpoints(output):  # another process may have gone on before the lock was this one's
        newest = find_training_checkpoint(output, warns=False)[1]
        if checkpoint is None or newest['sha256'] != checkpoint['sha256']:
            raise CondnetError(f'another training has gone on in {output} meanwhile; run the same command again')
    if resumed is not None and _is_same(resumed, output / PREVIOUS):
        os.replace(output / PREVIOUS, output / LAST)  # else the next checkpoint would replace it by the damaged one
    flags = {key: value for key, value in vars(args).items() if key != 'data_fingerprint'}  # it is for no reader
    write_file(output / 'args.yaml', yaml.safe_dump(flags).encode())
    return output


def save_checkpoint(
    args: argparse.Namespace, step: TrainingStep, scheduler: Scheduler, output: Path, progress: Progress
) -> None:
    """Have the first process write everything that the training goes on from.

    Raises:
        OSError: If the file cannot be written, or another process is lost.
    """
    step.group.from_first(lambda: save_training_checkpoint(output, training_state(args, step, scheduler, progress)))


def training_state(
    args: argparse.Namespace, step: TrainingStep, scheduler: Scheduler, progress: Progress
) -> dict[str, Any]:
    """Everything that the training goes on from."""
    task = step.task
    state = {
        'epoch': progress.epoch - 1,  # the last whole one
        'args': args,
        'progress': vars(progress),
        'optimizer': step.optimizer.state_dict(),
        'scaler': step.scaler.state_dict(),
        'scheduler': schedule_state(scheduler),
        'random_state': random_state(task.device),
    }
    return state | task.get_checkpoint_state() | task.get_checkpoint_state(ema=True)


def write_records(args: argparse.Namespace, task: SupernetTask, progress: Progress, output: Path) -> None:
    """Write what a new checkpoint implies: summary, counts, and its copy if it is one to keep.

    Raises:
        OSError: If a file cannot be written.
    """
    if not progress.summary:
        return
    write_table(output / 'summary.csv', progress.summary)
    if isinstance(task.model, Supernet):
        write_table(output / 'counts.csv', counts_table(task.model.space, task.counts, task.counts_since_split))
    last, milestone = output / LAST, output / f'milestone-{progress.epoch}.pth.tar'
    is_due = progress.epoch in args.keep_epochs and progress.batch == 0
    if is_due and last.exists() and not milestone.exists():  # no last one: the training starts from another's
        write_file(milestone, last.read_bytes())


def write_table(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write a CSV file as a whole.

    Raises:
        OSError: If it cannot be written.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0], lineterminator='\n')
    writer.writeheader()
    writer.writerows(rows)
    write_file(path, text.getvalue().encode())


if __name__ == '__main__':
    sys.exit(main())
