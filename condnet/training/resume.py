"""Going on with a training: what must be the same, and what is restored."""

from typing import Any

import torch

from condnet.checkpoints.training import SCHEDULE_FLAGS, TIMM_FLAGS
from condnet.errors import CondnetError, first_line
from condnet.training.build import Training
from condnet.training.config import Settled, TrainConfig, recorded_args
from condnet.training.optimization import load_schedule_state
from condnet.training.progress import Progress
from condnet.training.step import compile_model

# What must be the same for a resumed training to be the one that was interrupted.
_SAME = ('model', 'model_kwargs', 'pretrained', 'initial_checkpoint', 'num_classes', 'input_size', 'data_name',
         'data_sha256', 'epochs', 'batch_size', 'seed', 'opt', 'lr', 'min_lr', 'sched', 'momentum', 'weight_decay',
         'model_ema', 'model_ema_decay', 'channels_last', 'amp', 'amp_dtype', 'sampling', 'operation_weights',
         'share_momentum', 'update_unsampled', *SCHEDULE_FLAGS, *TIMM_FLAGS)  # fmt: skip
_VALIDATION = ('eval_interval', 'eval_archs', 'eval_batches', 'eval_images')


def resume(training: Training, checkpoint: dict[str, Any]) -> Progress:
    """Continue a checkpoint. The learning rate comes with the optimizer, and the scheduler with what it remembers.

    Returns:
        Where to go on.

    Raises:
        CondnetError: If the checkpoint is of another training, or the split does not fit it.
    """
    config, step, task = training.config, training.step, training.step.task
    progress, is_split = check_resumable(checkpoint, config, training.settled)
    if is_split and not task.model.is_split:
        task.split(step.optimizer)
        if config.torchcompile:
            compile_model(task.model)
    try:
        task.load_checkpoint_state(checkpoint['state_dict'], checkpoint['task_state'])
        if config.model_ema:
            task.load_checkpoint_state(checkpoint['state_dict_ema'], ema=True)
        step.optimizer.load_state_dict(checkpoint['optimizer'])
        if is_split:
            task.share_momentum(step.optimizer)
        step.scaler.load_state_dict(checkpoint.get('scaler', {}))
        load_schedule_state(training.scheduler, checkpoint.get('scheduler', {}))
    except (KeyError, RuntimeError) as error:
        raise CondnetError(f'{config.resume} does not fit {config.model}: {first_line(error)}') from error
    set_random_state(checkpoint['random_state'], task.device)
    return progress


def check_resumable(checkpoint: dict[str, Any], config: TrainConfig, settled: Settled) -> tuple[Progress, bool]:
    """Check that the settings go on with the training of a checkpoint.

    Returns:
        How far it is, and whether it is split.

    Raises:
        CondnetError: If they describe another training.
    """
    before, state = vars(checkpoint['args']), checkpoint['task_state']
    _check_same(before, config, settled)
    try:
        progress, is_split = Progress(**checkpoint['progress']), state['split']
    except (AttributeError, KeyError, TypeError) as error:
        raise CondnetError(f'{config.resume} is of another version of condnet: rank it, but train anew') from error
    if is_split and config.update_unsampled and 'last_contexts' not in state:
        raise CondnetError(f'{config.resume} was trained by a version of condnet whose `update_unsampled` was not the '
                           "authors' method after the split: go on from its last unsplit checkpoint")  # fmt: skip
    num_before, num_now = before.get('num_processes', 1), settled.num_processes
    if progress.batch and config.dataset not in (None, 'glyphs') and num_before != num_now:
        raise CondnetError(f'{config.resume} is in mid-epoch, and with `dataset` the order of the images depends on '
                           f'the number of processes: continue with {num_before}, not {num_now}')  # fmt: skip
    split_epoch = config.split_epoch
    if is_split and before.get('split_epoch') != split_epoch:
        raise CondnetError(f'{config.resume} was split at epoch {before.get("split_epoch")}, not {split_epoch}')
    if not is_split and 0 < split_epoch and (split_epoch, 0) < (progress.epoch, progress.batch):
        raise CondnetError(f'{config.resume} has trained {progress.epoch} epochs and {progress.batch} batches unsplit, '
                           f'it is too late to split at {split_epoch}')  # fmt: skip
    return progress, is_split


def _check_same(before: dict[str, Any], config: TrainConfig, settled: Settled) -> None:
    """Compare with the settings of a checkpoint."""
    now = vars(recorded_args(config, settled))
    # What validation computes is not a part of a training, unless plateau goes by it.
    for name in (*_SAME, *(_VALIDATION if config.sched == 'plateau' else ())):
        # The setting may be newer than the checkpoint.
        value = before.get(name, TIMM_FLAGS.get(name, getattr(TrainConfig, name, None)))
        if _without_tuples(value) == _without_tuples(now[name]):
            continue
        if name == 'data_sha256':
            raise CondnetError(f'{config.resume} was trained with {name} {value!r}, not {now[name]!r}: a '
                               'resumed training keeps its images, and in the same encoding')  # fmt: skip
        raise CondnetError(f'{config.resume} was trained with {name} {value!r}, not {now[name]!r}; a resumed training '
                           'keeps it')  # fmt: skip


def _without_tuples(value: Any) -> Any:
    """A setting as YAML has it, so that one from args.yaml is the one that was a flag."""
    if isinstance(value, dict):
        return {key: _without_tuples(item) for key, item in value.items()}
    return [_without_tuples(item) for item in value] if isinstance(value, list | tuple) else value


def random_state(device: torch.device) -> list[torch.Tensor]:
    """State of torch's random numbers, which models with dropout draw."""
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == 'cuda' else [])]


def set_random_state(states: list[torch.Tensor], device: torch.device) -> None:
    """Restore what `random_state` gave; that of a GPU only on a GPU."""
    torch.set_rng_state(states[0])
    if device.type == 'cuda' and len(states) > 1:
        torch.cuda.set_rng_state(states[1], device)
