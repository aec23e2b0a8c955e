"""Training of super-networks and stand-alone networks: the `condnet-train` command, also reached as `train.py`."""

import argparse
import csv
import json
import logging
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import timm
import torch
import yaml
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.scheduler.scheduler import Scheduler
from timm.utils import CheckpointSaver, update_summary
from torch import nn

from condnet import glyphs
from condnet.checkpoint import preprocessing, read_training_checkpoint
from condnet.commands import DATASET_HELP, ModelKwargs, find_device, open_images, run
from condnet.data import (
    Images,
    InMemoryLoader,
    TimmLoader,
    check_size,
    create_timm_loader,
    dataset_name,
    timm_images,
    withheld_indices,
)
from condnet.engine import evaluate_fixed_archs, train_one_epoch
from condnet.models import Supernet
from condnet.ranking import CALIBRATION_BATCH_SIZE, EvaluationData, choose_images, evaluation_data
from condnet.recipes import find_recipe
from condnet.task import SupernetTask

_logger = logging.getLogger('train')


def make_parser() -> argparse.ArgumentParser:
    """Flags of the command. A recipe sets defaults, a flag overrides its recipe."""
    parser = argparse.ArgumentParser('condnet-train', description=__doc__, allow_abbrev=False)
    parser.add_argument('-c', '--config', metavar='RECIPE', help='name of a packaged recipe, or a YAML file')
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
    group.add_argument('--model-kwargs', nargs='*', default={}, action=ModelKwargs, help='space=no_zero, arch=..., ...')
    group.add_argument('--channels-last', action=argparse.BooleanOptionalAction, default=True, help='memory layout')
    group.add_argument('--device', default='cpu', help='device to train on')
    group = parser.add_argument_group('schedule')
    group.add_argument('--epochs', type=int, default=250, help='epochs of the schedule')
    group.add_argument('--split-epoch', type=int, default=0, help='split after so many epochs; 0 for never')
    group.add_argument('--stop-epoch', type=int, default=0, help='stop after so many epochs of the schedule; 0: never')
    group.add_argument('--resume', metavar='CHECKPOINT', help='continue from this checkpoint; with --split-epoch also '
                       'an unsplit one with a split')  # fmt: skip
    group.add_argument('--keep-epochs', type=int, nargs='*', default=[], help='keep the checkpoints after these epochs')
    group.add_argument('--batch-size', type=int, default=256)
    group.add_argument('--seed', type=int, default=0, help='seed of weights, architectures, data order, augmentation')
    group = parser.add_argument_group('optimizer')
    group.add_argument('--opt', default='momentum', help="timm optimizer (timm's 'sgd' is Nesterov, 'momentum' is not)")
    group.add_argument('--lr', type=float, default=0.025)
    group.add_argument('--min-lr', type=float, default=1e-5)
    group.add_argument('--sched', default='cosine', help='timm scheduler, stepped once per epoch')
    group.add_argument('--momentum', type=float, default=0.9)
    group.add_argument('--weight-decay', type=float, default=3e-4, help='not on BatchNorm and biases')
    group.add_argument('--model-ema', action='store_true', help='also average the weights')
    group.add_argument('--model-ema-decay', type=float, default=0.9998)
    group = parser.add_argument_group('validation during training, of a fixed sample of architectures')
    group.add_argument('--eval-interval', type=int, default=1, help='every so many epochs; 0 for never')
    group.add_argument('--eval-archs', type=int, default=4, help='architectures (drawn with seed 0)')
    group.add_argument('--eval-batches', type=int, default=4, help='calibration batches of 256')
    group.add_argument('--eval-images', type=int, default=1000, help='withheld images')
    group.add_argument('--log-interval', type=int, default=50, help='batches between lines of the log')
    return parser


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read recipe and flags.

    Raises:
        ValueError: If the recipe or a value makes no sense.
    """
    parser = make_parser()
    config = parser.parse_known_args(argv)[0].config
    if config:
        parser.set_defaults(**read_recipe(config, parser))
    args = parser.parse_args(argv)
    _check_args(args)
    return args


def read_recipe(name: str, parser: argparse.ArgumentParser) -> dict[str, Any]:
    """The settings of a recipe, checked against the flags that they stand for.

    Raises:
        ValueError: If it is no recipe, or a setting is unknown or of the wrong type.
    """
    try:
        recipe = yaml.safe_load(find_recipe(name).read_text())
    except yaml.YAMLError as error:
        raise ValueError(f'recipe {name} is not YAML: {" ".join(str(error).split())}') from error
    if not isinstance(recipe, dict):
        raise ValueError(f'recipe {name} holds {recipe!r}, expected settings')
    actions = {action.dest: action for action in parser._actions}
    for key, value in recipe.items():
        if key not in actions:
            raise ValueError(f'recipe {name}: unknown setting {key!r}')
        expected = _setting_type(actions[key])
        values = value if actions[key].nargs and isinstance(value, list) else [value]
        is_list = isinstance(value, list) == (actions[key].nargs in ('*', 3) and expected is not dict)
        if not is_list or not all(type(v) is expected or (expected is float and type(v) is int) for v in values):
            raise ValueError(f'recipe {name}: {key} is {value!r}, which the flag does not take')
    return recipe


def _setting_type(action: argparse.Action) -> type:
    if isinstance(action, ModelKwargs):
        return dict
    if action.nargs == 0:  # a switch
        return bool
    return {int: int, float: float}.get(action.type, str)  # type: ignore[call-overload]  # any callable may be a type


def _check_args(args: argparse.Namespace) -> None:
    for name in ('epochs', 'batch_size', 'eval_archs', 'eval_batches', 'eval_images', 'log_interval'):
        if getattr(args, name) < 1:
            raise ValueError(f'--{name.replace("_", "-")} is {getattr(args, name)}, expected at least 1')
    if args.seed < 0:
        raise ValueError(f'--seed is {args.seed}, expected 0 or more')
    for name, last in (('split_epoch', args.epochs - 1), ('stop_epoch', args.epochs)):
        if not 0 <= getattr(args, name) <= last:
            raise ValueError(f'--{name.replace("_", "-")} is {getattr(args, name)}, expected 1..{last} for --epochs '
                             f'{args.epochs}, or 0 for never')  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """Train; returns the exit status."""
    return run('condnet-train', lambda: train(parse_args(argv)))


def train(args: argparse.Namespace) -> None:
    """Run a training, as `parse_args` describes it.

    Raises:
        ValueError: If settings, data and checkpoint do not fit together. Nothing is written then.
    """
    device = find_device(args.device)
    checkpoint = read_training_checkpoint(args.resume) if args.resume else None
    source = open_data(args)
    task, optimizer, scheduler = create_training(args, device)
    start_epoch = resume(task, optimizer, scheduler, checkpoint, args) if checkpoint else 0
    batches, data = create_data(args, source, task.model.pretrained_cfg, device)
    archs = fixed_archs(task.model, args.eval_archs)
    output = prepare_output(args, start_epoch)
    saver = CheckpointSaver(task.model, optimizer, args, checkpoint_dir=str(output), max_history=1, task=task)
    for epoch in range(start_epoch, min(args.epochs, args.stop_epoch or args.epochs)):
        if 0 < epoch == args.split_epoch and not task.get_task_state()['split']:
            task.split(optimizer)
            _logger.info(f'split: {task.model.num_weight_sets} weight sets')
        lr = optimizer.param_groups[0]['lr']
        batches.set_epoch(epoch)
        metrics = train_one_epoch(task, optimizer, batches, epoch, len(batches), args.log_interval)
        scheduler.step(epoch + 1)
        due = args.eval_interval and ((epoch + 1) % args.eval_interval == 0 or epoch == args.epochs - 1)
        eval_metrics = evaluate_fixed_archs(task, archs, data) if data and due else dict.fromkeys(_EVAL_METRICS, '')
        # The checkpoint comes last: whatever an interruption cuts off here is done again by the resumed run.
        update_summary(epoch, metrics, eval_metrics, output / 'summary.csv', lr=lr)
        saver.save_checkpoint(epoch)
        keep_milestone(output, epoch + 1, args)
        _logger.info(f'epoch {epoch} done: {json.dumps(metrics | eval_metrics)}')


_EVAL_METRICS = ('loss', 'accuracy', 'seconds')


def create_training(
    args: argparse.Namespace, device: torch.device
) -> tuple[SupernetTask, torch.optim.Optimizer, Scheduler]:
    """Model in its task, optimizer and scheduler, all as before the first step."""
    torch.manual_seed(args.seed)
    kwargs = dict(args.model_kwargs)
    if kwargs.pop('split', False):
        raise ValueError('a training starts unsplit; use --split-epoch instead of the model argument split')
    try:
        model = timm.create_model(
            args.model,
            num_classes=args.num_classes,
            in_chans=args.input_size[0],
            pretrained_cfg_overlay=preprocessing(args.data_name, args.input_size),
            **kwargs,
        )
    except (RuntimeError, TypeError) as error:  # unknown model, unknown argument
        raise ValueError(f'cannot build the model {args.model!r}: {error}') from error
    if args.split_epoch and not isinstance(model, Supernet):
        raise ValueError(f'--split-epoch needs a super-network, {args.model} is none')
    model.to(device).to(memory_format=torch.channels_last if args.channels_last else torch.contiguous_format)
    task = SupernetTask(model, args.seed, device)
    optimizer = create_optimizer_v2(model, args.opt, lr=args.lr, weight_decay=args.weight_decay, momentum=args.momentum)
    scheduler, _ = create_scheduler_v2(optimizer, args.sched, num_epochs=args.epochs, min_lr=args.min_lr)
    if args.model_ema:
        task.setup_ema(decay=args.model_ema_decay)
    return task, optimizer, scheduler


# What must be the same for a resumed training to be the one that was interrupted.
_SAME = ('model', 'model_kwargs', 'num_classes', 'input_size', 'data_name', 'data_sha256', 'epochs',
          'batch_size', 'seed', 'opt', 'lr', 'min_lr', 'sched', 'momentum',
         'weight_decay', 'model_ema', 'model_ema_decay', 'channels_last')  # fmt: skip


def resume(
    task: SupernetTask,
    optimizer: torch.optim.Optimizer,
    scheduler: Scheduler,
    checkpoint: dict[str, Any],
    args: argparse.Namespace,
) -> int:
    """Continue a checkpoint.

    Returns:
        The epoch to go on with.

    Raises:
        ValueError: If the checkpoint is of another training, or the split does not fit it.
    """
    before = vars(checkpoint['args'])
    for name in _SAME:
        if before.get(name) != getattr(args, name):
            raise ValueError(
                f'{args.resume} was trained with {name} {before.get(name)!r}, not {getattr(args, name)!r}; a resumed '
                f'training keeps it'
            )
    start_epoch, is_split = checkpoint['epoch'] + 1, checkpoint['task_state']['split']
    if is_split and before.get('split_epoch') != args.split_epoch:
        raise ValueError(f'{args.resume} was split at epoch {before.get("split_epoch")}, not {args.split_epoch}')
    if not is_split and 0 < args.split_epoch < start_epoch:
        raise ValueError(
            f'{args.resume} has trained {start_epoch} epochs unsplit, it is too late to split at {args.split_epoch}'
        )
    if is_split:
        task.split(optimizer)
    try:
        task.load_checkpoint_state(checkpoint['state_dict'], checkpoint['task_state'])
        if args.model_ema:
            task.load_checkpoint_state(checkpoint['state_dict_ema'], ema=True)
        optimizer.load_state_dict(checkpoint['optimizer'])
    except (KeyError, RuntimeError) as error:
        raise ValueError(f'{args.resume} does not fit {args.model}: {str(error).splitlines()[0]}') from error
    scheduler.step(start_epoch)
    return start_epoch


def open_data(args: argparse.Namespace) -> Images | None:
    """The training set in memory, or None with `--dataset`; settles number of classes and size of the images."""
    images = open_images(args)
    num_classes = 10 if images is None else len(images.classes)
    input_size = [3, 32, 32] if images is None else list(images.images.shape[1:])
    args.num_classes, args.input_size = args.num_classes or num_classes, args.input_size or input_size
    args.data_name, args.data_sha256 = args.dataset, None
    source = args.data_dir or args.dataset
    if images is not None:
        args.data_name = dataset_name(images)
        # Another Pillow may draw the letters a little differently; that does not make glyphs another data set.
        args.data_sha256 = None if args.data_name == 'glyphs' else images.sha256()
        if args.num_classes < num_classes:
            raise ValueError(f'--num-classes is {args.num_classes}, but {source} has {num_classes} classes')
        check_size(images, args.input_size)
    return images


def create_data(
    args: argparse.Namespace, images: Images | None, config: dict[str, Any], device: torch.device
) -> tuple[InMemoryLoader | TimmLoader, EvaluationData | None]:
    """Batches to train on, and the data of the check after an epoch, if there is to be one."""
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
            **(glyphs.AUGMENTATION if args.data_name == 'glyphs' else {}),
        )
    if len(batches) == 0:
        raise ValueError(f'{args.data_dir or args.dataset} has fewer training images than a batch of {args.batch_size}')
    if not args.eval_interval:
        return batches, None
    calibration, validation = choose_evaluation_images(args, images)
    return batches, evaluation_data(calibration, validation, config, device, args.channels_last)


def choose_evaluation_images(args: argparse.Namespace, images: Images | None) -> tuple[Images, Images]:
    """Images to calibrate on, and withheld images to validate on, for the check after an epoch."""
    if images is not None:
        return choose_images(images, args.eval_batches, args.eval_images)
    size, num = tuple(args.input_size), args.eval_batches * CALIBRATION_BATCH_SIZE
    calibration = timm_images(args.dataset, args.data_dir, args.train_split, num, size)
    validation = timm_images(args.dataset, args.data_dir, args.val_split, args.eval_images, size, args.download)
    classes = 1 + int(max(calibration.targets.max(), validation.targets.max()))
    if classes > args.num_classes:
        raise ValueError(f'--num-classes is {args.num_classes}, but {args.dataset} has at least {classes} classes')
    return calibration, validation


def fixed_archs(model: nn.Module, num: int) -> list:
    """The sample of architectures that is validated while a super-network trains."""
    return model.space.sample_distinct(min(num, len(model.space)), seed=0) if isinstance(model, Supernet) else []


def prepare_output(args: argparse.Namespace, start_epoch: int) -> Path:
    """Make the output directory; of an earlier run there keep what the resumed one does not write again.

    Raises:
        ValueError: If another training is there.
    """
    output, last = Path(args.output), Path(args.output) / 'last.pth.tar'
    if last.exists() and not (args.resume and Path(args.resume).resolve() == last.resolve()):
        raise ValueError(f'{output} holds a training; continue it with --resume {last}, or choose another --output')
    output.mkdir(parents=True, exist_ok=True)
    if args.resume and last.exists():
        keep_milestone(output, start_epoch, args)  # in case that the run was interrupted just before
    summary = output / 'summary.csv'
    if summary.exists():
        with summary.open(newline='') as file:
            rows = list(csv.reader(file))
        kept = [row for row in rows[1:] if row and int(row[0]) < start_epoch]
        temporary = summary.with_suffix('.tmp')
        with temporary.open('w', newline='') as file:
            csv.writer(file, lineterminator='\n').writerows([*rows[:1], *kept] if kept else [])
        os.replace(temporary, summary)
    (output / 'args.yaml').write_text(yaml.safe_dump(vars(args)))
    return output


def keep_milestone(output: Path, epoch: int, args: argparse.Namespace) -> None:
    """Keep the last checkpoint for good, if it is one of `--keep-epochs` and not kept yet."""
    milestone = output / f'milestone-{epoch}.pth.tar'
    if epoch in args.keep_epochs and not milestone.exists():
        temporary = milestone.with_suffix('.tmp')
        shutil.copy(output / 'last.pth.tar', temporary)
        os.replace(temporary, milestone)


if __name__ == '__main__':
    sys.exit(main())
