"""Checkpoints of trainings that may be continued: the files, and what is read from them."""

import argparse
import copy
import io
import logging
import pickle
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import torch

from condnet.errors import CondnetError
from condnet.models.pretrained import CONFIG_NAME, WEIGHTS_NAME, stream_sha256
from condnet.utils.files import write_file
from condnet.utils.filetypes import CUT_ZIP, PICKLE, TORCH, describe_file

_logger = logging.getLogger(__name__)


SCHEDULE_FLAGS = ('decay_epochs', 'decay_milestones', 'decay_rate', 'patience_epochs')  # None unless given
TIMM_FLAGS: dict[str, Any] = {  # timm's settings that do nothing unless they are set, and their defaults
    'clip_grad': None,
    'clip_mode': 'norm',
    'opt_betas': None,
    'opt_eps': None,
    'warmup_epochs': 0,
    'warmup_lr': 1e-5,
    'cooldown_epochs': 0,
    'drop': 0.0,
    'smoothing': 0.0,
    'mixup': 0.0,
    'cutmix': 0.0,
    'mixup_prob': 1.0,
    'mixup_switch_prob': 0.5,
    'mixup_mode': 'batch',
    'mixup_off_epoch': 0,
    'no_aug': False,
    'scale': None,
    'ratio': None,
    'hflip': None,
    'vflip': 0.0,
    'color_jitter': 0.4,
    'aa': None,
    'reprob': 0.0,
    'remode': 'pixel',
    'recount': 1,
    'train_interpolation': 'bilinear',
    'worker_seeding': 'all',
    'sched_on_updates': False,
    'lr_noise': None,
    'lr_noise_pct': 0.67,
    'lr_noise_std': 1.0,
    'lr_cycle_mul': 1.0,
    'lr_cycle_decay': 0.5,
    'lr_cycle_limit': 1,
    'lr_k_decay': 1.0,
    'warmup_prefix': False,
    'layer_decay': None,
    'opt_kwargs': {},
    'fast_norm': False,
    'bce_loss': False,
    'cutmix_minmax': None,
    'drop_path': 0.0,
    'lr_decay_fn': None,
    'train_crop_mode': None,
    'color_jitter_prob': None,
    'grayscale_prob': 0.0,
    'gaussian_blur_prob': 0.0,
    'bce_sum': False,
    'bce_target_thresh': None,
    'bce_pos_weight': None,
    'model_ema_warmup': False,
}
# Settings that are recorded with a model where they differ from these.
USUAL = {
    'pretrained': False,
    'initial_checkpoint': None,
    'sampling': 'uniform',
    'operation_weights': None,
    'share_momentum': False,
    'update_unsampled': False,
    'amp': False,
    'amp_dtype': 'bfloat16',
    'grad_accum_steps': 1,
    'num_processes': 1,
    'sync_bn': False,
    **dict.fromkeys(SCHEDULE_FLAGS),
    **TIMM_FLAGS,
}
_DESCRIBED = (  # settings that are always recorded with a model
    'data_name',
    'data_sha256',
    'epochs',
    'seed',
    'batch_size',
    'opt',
    'lr',
    'min_lr',
    'sched',
    'momentum',
    'weight_decay',
    'split_epoch',
)
_EXPECTED = f'a training checkpoint of condnet, or a folder with {WEIGHTS_NAME} and {CONFIG_NAME}'
_NUM_NAMED = 3  # objects that an error message names
LAST, PREVIOUS = 'last.pth.tar', 'previous.pth.tar'  # the checkpoints of a training that may be continued


def save_training_checkpoint(folder: Path, state: dict[str, Any]) -> None:
    """Write the last checkpoint of a training, and keep the one before it: at every moment one of them is good.

    Raises:
        OSError: If it cannot be written. The last checkpoint is as it was then.
    """
    buffer = io.BytesIO()  # torch hides the reason when it cannot write to a file
    torch.save(state, buffer)
    write_file(folder / LAST, buffer.getbuffer(), keep_as=folder / PREVIOUS)


def snapshot(state: Any) -> Any:
    """A copy of what a checkpoint is to hold, with all tensors on the CPU, so that the training can go on meanwhile.

    What shares memory in it does so in the copy, too.
    """
    return _copied(state, {})


def _copied(value: Any, copies: dict[Any, Any]) -> Any:
    if isinstance(value, torch.Tensor):  # several tensors may be of one memory
        key: Any = (value.data_ptr(), value.device, value.dtype, value.shape, value.stride()) if value.numel() else None
    else:
        key = id(value)
    if key in copies:
        return copies[key]
    if isinstance(value, torch.Tensor):
        copied: Any = value.detach().to('cpu', copy=True)
    elif isinstance(value, dict):
        copied = copy.copy(value)  # of the same type: a state_dict has attributes
        copied.update({name: _copied(item, copies) for name, item in value.items()})
    elif isinstance(value, list | tuple):
        copied = type(value)(_copied(item, copies) for item in value)
    else:
        return value
    if key is not None:
        copies[key] = copied
    return copied


def training_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints that a training can be continued from, newest first."""
    return [path for path in (folder / LAST, folder / PREVIOUS) if path.is_file()]


def find_training_checkpoint(path: Path, warns: bool = True) -> tuple[Path, dict[str, Any]]:
    """Read the checkpoint at a path; in a folder, the newest one that is not damaged.

    Args:
        path: File or folder.
        warns: Whether to say that a newer one is damaged.

    Returns:
        The file, and what it holds.

    Raises:
        CondnetError: If there is none.
    """
    if not path.is_dir():
        return path, read_training_checkpoint(path)
    errors = []
    for file in training_checkpoints(path):
        try:
            checkpoint = read_training_checkpoint(file)
        except ValueError as error:
            errors.append(str(error))
            continue
        if errors and warns:
            _logger.warning(f'{errors[0]}; going on from the one before it, {file}')
        return file, checkpoint
    raise CondnetError(f'no checkpoint to go on from in {path}: {"; ".join(errors) or f"there is no {LAST}"}')


def read_training_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint that `train.py` wrote. Nothing in it is executed.

    Returns:
        What was saved, and the `sha256` of the file.

    Raises:
        CondnetError: If the file is missing, damaged, or no such checkpoint.
    """
    path = Path(path)
    if not path.is_file():
        raise CondnetError(f'no checkpoint file at {path}')
    kind = describe_file(path)
    if kind not in (None, TORCH, CUT_ZIP):
        why = ', which may hold more than tensors and is not loaded' if kind == PICKLE else ''
        raise CondnetError(f'{path} is {kind}{why}; expected {_EXPECTED}')
    try:
        with path.open('rb') as file:  # once: a training that is running replaces it
            digest = stream_sha256(file)
            with zipfile.ZipFile(file) as archive:
                if damaged := archive.testzip():  # torch itself ignores the checksums
                    raise zipfile.BadZipFile(f'wrong checksum of {damaged}')
            checkpoint = _load_tensors(file, path)
    except (PermissionError, CondnetError):
        raise
    except Exception as error:  # zipfile and torch raise whatever a damaged or hostile file leads them to
        reason = 'or no file of torch.save' if path.stat().st_size else 'as it is empty'
        raise CondnetError(f'cannot read the checkpoint {path}: it is damaged, {reason}') from error
    content = _checked_content(path, checkpoint)
    vars(content['args']).update(model_kwargs=arch_as_meant(content['args'].model, content['args'].model_kwargs))
    return content | {'sha256': digest}


def _load_tensors(file: BinaryIO, path: Path) -> Any:
    file.seek(0)
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(file, map_location='cpu', weights_only=True)
    except pickle.UnpicklingError as error:
        file.seek(0)
        names = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(file))
        if not names:
            raise
        more = ', ...' if len(names) > _NUM_NAMED else ''
        raise CondnetError(
            f'{path} holds more than tensors ({", ".join(names[:_NUM_NAMED])}{more}), such as a whole model; that is '
            f'not loaded, as it could run code; expected {_EXPECTED}'
        ) from error


def _checked_content(path: Path, checkpoint: Any) -> dict[str, Any]:
    """What `train.py` has saved; what torch saved and `train.py` did not is refused.

    Raises:
        CondnetError: If it is that.
    """
    content: dict[str, Any] = checkpoint if isinstance(checkpoint, dict) else {}
    missing = {'epoch', 'args', 'state_dict', 'task_state', 'optimizer'} - set(content)
    if content and all(isinstance(value, torch.Tensor) for value in content.values()):
        parallel = ', of a model in DataParallel' if all(str(key).startswith('module.') for key in content) else ''
        raise CondnetError(
            f'{path} holds weights alone (a state_dict{parallel}), and does not say of which model; load them into the '
            'model that they are of, and write it with condnet.save_model(model, FOLDER)'
        )
    if missing:
        raise CondnetError(f'{path} is not a training checkpoint of condnet: it lacks {", ".join(sorted(missing))}; '
                           f'expected {_EXPECTED}')  # fmt: skip
    args = content['args']
    if not isinstance(args, argparse.Namespace) or not {'data_name', 'model', 'model_kwargs'} <= set(vars(args)):
        raise CondnetError(f'{path} is not a training checkpoint of condnet: its args are of another program')
    _check_types(path, content)
    return content


def _check_types(path: Path, checkpoint: dict[str, Any]) -> None:
    """Refuse a checkpoint of ours that another program has changed.

    Raises:
        CondnetError: If something in it is of another type than training writes, or missing.
    """
    args, state = vars(checkpoint['args']), checkpoint['task_state']
    size, weights = args.get('input_size'), [checkpoint['state_dict'], checkpoint.get('state_dict_ema') or {}]
    checks = {
        'epoch': type(checkpoint['epoch']) is int,
        'task_state': isinstance(state, dict) and type(state.get('step')) is int and 'split' in state,
        'state_dict': all(isinstance(part, dict) and _are_tensors(part) for part in weights),
        'model': isinstance(args['model'], str),
        'model_kwargs': isinstance(args['model_kwargs'], dict)
        and all(isinstance(k, str) for k in args['model_kwargs']),
        'num_classes': type(args.get('num_classes')) is int,
        'input_size': isinstance(size, list | tuple) and len(size) == 3 and all(type(n) is int and n > 0 for n in size),
        **{name: name in args for name in _DESCRIBED},
    }
    if wrong := [name for name, is_right in checks.items() if not is_right]:
        raise CondnetError(f'{path} is not a training checkpoint of condnet, or damaged: {wrong[0]} is not what '
                           'it writes')  # fmt: skip


def _are_tensors(state_dict: dict[Any, Any]) -> bool:
    return all(isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in state_dict.items())


def arch_as_meant(model: str, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments of a model that was saved while digits of macro were read as an index, as they are to be read now."""
    arch = kwargs.get('arch')
    if model == 'macro_net' and isinstance(arch, str) and arch.isdecimal() and len(arch) < 8:
        return {**kwargs, 'arch': f'index:{arch}'}
    return kwargs


def describe_training_checkpoint(checkpoint: dict[str, Any]) -> dict[str, Any]:
    args = vars(checkpoint['args'])
    state = checkpoint['task_state']
    return {
        'trained_epochs': checkpoint['epoch'] + 1,  # whole ones
        'trained_steps': state['step'],
        'split_epoch': args['split_epoch'] if state['split'] else None,
        **{key: args[key] for key in _DESCRIBED if key != 'split_epoch'},
        **({'hardware': args['hardware']} if 'hardware' in args else {}),
        **{key: args[key] for key, value in USUAL.items() if args.get(key, value) != value},
        **({'untrained': [list(choice) for choice in state['untrained']]} if state.get('untrained') else {}),
    }
