"""Checkpoints on disk: the state of a training, and model folders as they go to the Hub."""

import argparse
import copy
import io
import json
import logging
import os
import pickle
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import timm
import torch
from safetensors import SafetensorError, safe_open
from timm.models import save_for_hf
from torch import nn

from condnet import glyphs
from condnet.commands import run
from condnet.errors import CondnetError
from condnet.filetypes import CUT_ZIP, PICKLE, TORCH, describe_file
from condnet.models.pretrained import (
    CARD_NAME,
    CONFIG_NAME,
    WEIGHTS_NAME,
    check_folder,
    file_sha256,
    find_pretrained,
    is_pretrained_name,
    is_supernet_name,
    list_pretrained,
    read_config,
    stream_sha256,
)
from condnet.models.supernet import Supernet, check_state_dict, state_dict_is_split
from condnet.optimization import SCHEDULE_FLAGS
from condnet.plugins import add_import_flag, import_plugins

_logger = logging.getLogger('train')

# Settings that are recorded with a model where they differ from these.
USUAL = {
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


def write_file(path: Path, content: bytes | memoryview, keep_as: Path | None = None) -> None:
    """Write a file so that it is there as a whole or not at all, wherever a kill or a power failure interrupts this.

    Args:
        path: The file; what is there is replaced.
        content: What it is to hold.
        keep_as: Where what it held before goes, if there was anything.

    Raises:
        OSError: If it cannot be written, for example because the disk is full. Everything is as it was then.
    """
    temporary = path.with_name(f'{path.name}.tmp')
    try:
        with temporary.open('wb') as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # or a power failure could leave a renamed file without content
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OSError(error.errno, f'cannot write: {error.strerror}', str(path)) from error
    if keep_as is not None and path.exists():
        os.replace(path, keep_as)
    os.replace(temporary, path)
    if os.name == 'posix':  # Windows opens no folder
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # the renaming itself
        finally:
            os.close(folder)


def save_training_checkpoint(folder: Path, state: dict[str, Any]) -> None:
    """Write the last checkpoint of a training, and keep the one before it: at every moment one of them is good.

    Raises:
        OSError: If it cannot be written. The last checkpoint is as it was then.
    """
    buffer = io.BytesIO()  # torch hides the reason when it cannot write to a file
    torch.save(state, buffer)
    write_file(folder / LAST, buffer.getbuffer(), keep_as=folder / PREVIOUS)


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
    _check_content(path, checkpoint)
    vars(checkpoint['args']).update(
        model_kwargs=_arch_as_meant(checkpoint['args'].model, checkpoint['args'].model_kwargs)
    )
    return checkpoint | {'sha256': digest}


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


def _check_content(path: Path, checkpoint: Any) -> None:
    """Refuse what torch saved and `train.py` did not.

    Raises:
        CondnetError: If it is that.
    """
    content = checkpoint if isinstance(checkpoint, dict) else {}
    missing = {'epoch', 'args', 'state_dict', 'task_state', 'optimizer'} - set(content)
    if content and all(isinstance(value, torch.Tensor) for value in content.values()):
        parallel = ', of a model in DataParallel' if all(str(key).startswith('module.') for key in content) else ''
        raise CondnetError(
            f'{path} holds weights alone (a state_dict{parallel}), and does not say of which model; load them into the '
            'model that they are of, and write it with condnet.checkpoint.save_model(model, FOLDER)'
        )
    if missing:
        raise CondnetError(f'{path} is no training checkpoint of condnet: it lacks {", ".join(sorted(missing))}; '
                           f'expected {_EXPECTED}')  # fmt: skip
    args = checkpoint['args']
    if not isinstance(args, argparse.Namespace) or not {'data_name', 'model', 'model_kwargs'} <= set(vars(args)):
        raise CondnetError(f'{path} is no training checkpoint of condnet: its args are of another program')
    _check_types(path, checkpoint)


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
        raise CondnetError(f'{path} is no training checkpoint of condnet, or damaged: {wrong[0]} is not what it writes')


def _are_tensors(state_dict: dict[Any, Any]) -> bool:
    return all(isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in state_dict.items())


def _arch_as_meant(model: str, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments of a model that was saved while digits of macro were read as an index, as they are to be read now."""
    arch = kwargs.get('arch')
    if model == 'macro_net' and isinstance(arch, str) and arch.isdecimal() and len(arch) < 8:
        return {**kwargs, 'arch': f'index:{arch}'}
    return kwargs


def locate(checkpoint: str | Path) -> Path:
    """The file or folder of a checkpoint, which may be given by the name of a pretrained model, or by a file in it.

    Raises:
        CondnetError: If it is such a name, and its weights are not to be had.
    """
    path = Path(checkpoint)
    if path.is_file() and path.name in (WEIGHTS_NAME, CONFIG_NAME) and (path.parent / CONFIG_NAME).is_file():
        return path.parent
    if path.exists():
        return path
    if is_pretrained_name(str(checkpoint)):
        return find_pretrained(str(checkpoint))
    if is_supernet_name(str(checkpoint)):
        raise CondnetError(f'no pretrained super-network {checkpoint}; there are {", ".join(list_pretrained())}')
    return Path(checkpoint)


@dataclass(frozen=True)
class Loaded:
    """The model of a checkpoint, and what is known of it. All is read at once, as a training replaces its checkpoints.

    Args:
        model: The model, with its weights, on the CPU.
        training: How they were trained, see `training_of`.
        sha256: Of the checkpoint, see `sha256`.
        fingerprint: Of the training images, see `condnet.data.fingerprint`; None if it is not recorded.
    """

    model: nn.Module
    training: dict[str, Any]
    sha256: str
    fingerprint: Any = None


def load_model(path: str | Path, use_ema: bool = False) -> nn.Module:
    """Build the model of a checkpoint, with its weights, on the CPU; arguments and errors as of `load_checkpoint`."""
    return load_checkpoint(path, use_ema).model


def load_checkpoint(path: str | Path, use_ema: bool = False) -> Loaded:
    """Build the model of a checkpoint, and say what the checkpoint is.

    Args:
        path: A training checkpoint (`.pth.tar`), a folder with `model.safetensors` and `config.json` (or one of these
            files in it), or the name of a pretrained model.
        use_ema: Whether to take the averaged weights of a training checkpoint.

    Raises:
        CondnetError: If it is missing, damaged, or does not fit the model it names.
    """
    path = locate(path)
    if path.is_dir():
        if use_ema:
            raise CondnetError(f'{path} is a model folder; averaged weights are in training checkpoints')
        if not (path / CONFIG_NAME).is_file() and (files := training_checkpoints(path)):
            raise CondnetError(f'{path} is the folder of a training; name the checkpoint in it, {files[0]}')
        config = check_folder(path)
        arguments = config.get('model_args', {})
        meant = _arch_as_meant(config['architecture'], arguments)
        kwargs = {'pretrained': True} | ({} if meant is arguments else {'arch': meant['arch']})
        model = _create_model(f'local-dir:{path}', kwargs, path)
        _check_model(path, config, model)
        return Loaded(model, config.get('training', {}), sha256(path), config.get('data_fingerprint'))
    checkpoint = read_training_checkpoint(path)
    model, recorded = _load_training_model(path, checkpoint, use_ema), vars(checkpoint['args']).get('data_fingerprint')
    return Loaded(model, _describe(checkpoint), checkpoint['sha256'], recorded)


def _check_model(folder: Path, config: dict[str, Any], model: nn.Module) -> None:
    """Check that a model is of the shapes in its folder; timm adapts images, first layer and classifier.

    Raises:
        CondnetError: If they differ.
    """
    own, size = model.state_dict(), tuple(cast(dict[str, Any], model.pretrained_cfg)['input_size'])
    if size != tuple(given := config['pretrained_cfg'].get('input_size', size)):
        raise CondnetError(f'{folder / CONFIG_NAME} is damaged: input_size is {given}, the model takes {list(size)}')
    with safe_open(folder / WEIGHTS_NAME, 'pt') as weights:
        for key in weights.keys():  # noqa: SIM118  # it is no dictionary
            if key in own and tuple(own[key].shape) != (shape := tuple(weights.get_slice(key).get_shape())):
                raise CondnetError(f'{folder} is damaged: {key} has the shape {shape} in {WEIGHTS_NAME}, and '
                                   f'{tuple(own[key].shape)} by {CONFIG_NAME}')  # fmt: skip


def _load_training_model(path: Path, checkpoint: dict[str, Any], use_ema: bool) -> nn.Module:
    args, state_dict = checkpoint['args'], checkpoint.get('state_dict_ema' if use_ema else 'state_dict')
    if state_dict is None:
        raise CondnetError(f'{path} has no averaged weights; train with --model-ema')
    kwargs = {
        'num_classes': args.num_classes,
        'in_chans': args.input_size[0],
        'pretrained_cfg_overlay': preprocessing(args.data_name, args.input_size),
        **args.model_kwargs,
    }
    if state_dict_is_split(state_dict):
        kwargs['split'] = True
    model = _create_model(args.model, kwargs, path)
    check_state_dict(state_dict, model, may_adapt=False)
    model.load_state_dict(state_dict)
    if isinstance(model, Supernet):  # training has mixed the statistics, also where it began with pretrained weights
        model.set_active_subnet(None)
    return model


def preprocessing(data_name: str, input_size: Sequence[int]) -> dict[str, Any]:
    """What a model's `pretrained_cfg` says of the images that it takes; where nothing is known, CIFAR-10's statistics.

    Args:
        data_name: Data set that it is trained on.
        input_size: Channels, height and width of its images.
    """
    statistics = {'mean': glyphs.MEAN, 'std': glyphs.STD} if data_name == 'glyphs' else {}
    return {'input_size': tuple(input_size), **statistics}


def _create_model(name: str, kwargs: dict[str, Any], path: str | Path) -> nn.Module:
    try:
        return timm.create_model(name, **kwargs)
    except CondnetError:
        raise
    except Exception as error:  # safetensors and timm each have their own
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise CondnetError(f'cannot load {path}: {reason}') from error


def training_of(path: str | Path) -> dict[str, Any]:
    """How the weights of a checkpoint were trained, in the words of `train.py`'s flags; empty if it does not say."""
    path = locate(path)
    if path.is_dir():
        return read_config(path).get('training', {})
    return _describe(read_training_checkpoint(path))


def _describe(checkpoint: dict[str, Any]) -> dict[str, Any]:
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


def save_model(
    model: nn.Module,
    folder: str | Path,
    training: dict[str, Any] | None = None,
    half: bool = True,
    fingerprint: dict[str, Any] | None = None,
) -> None:
    """Write a model as it goes to the Hub: `model.safetensors` and `config.json`.

    BatchNorm statistics are always stored in full precision. timm and condnet load everything into fp32.

    Args:
        model: The model.
        folder: Where to; it is created.
        training: How the weights were trained, see `training_of`.
        half: Whether parameters are stored in half precision.
        fingerprint: Of the training images, see `condnet.data.fingerprint`.

    Raises:
        OSError: If it cannot be written. What was there is as it was then. (A kill between the replacement of the one
            file and of the other leaves a pair that is refused, as the hash in `config.json` is of other weights.)
    """
    stored = copy.deepcopy(model).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # torch's stub
    for parameter in stored.parameters() if half else ():
        parameter.data = parameter.data.half()
    stored.pretrained_cfg = {**stored.pretrained_cfg, 'tag': Path(folder).name.partition('.')[2]}  # type: ignore[assignment, dict-item]
    if isinstance(stored, Supernet):
        calibrated = stored.calibrated_subnet
        active = {} if calibrated is None else {'active_subnet': stored.space.format(calibrated)}
        model_args = {k: v for k, v in getattr(stored, '_model_args', {}).items() if k != 'active_subnet'}
        stored._model_args = {**model_args, **active}
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        try:
            more = {'training': training or {}} | ({'data_fingerprint': fingerprint} if fingerprint else {})
            save_for_hf(stored, temporary, more, safe_serialization=True)
        except SafetensorError as error:  # its own even where the disk is full
            raise OSError(f'cannot write the weights to {folder}: {error}') from error
        weights, config = Path(temporary) / WEIGHTS_NAME, Path(temporary) / CONFIG_NAME
        content = json.loads(config.read_text()) | {'weights_sha256': file_sha256(weights)}
        config.write_text(json.dumps(content, indent=2) + '\n')
        for file in (weights, config):
            file.chmod(0o644)  # safetensors keeps its files to their owner
            with file.open('r+b') as stream:  # Windows syncs nothing that is only read
                os.fsync(stream.fileno())  # or a power failure could leave a renamed file without content
        (folder / CARD_NAME).unlink(missing_ok=True)  # it describes other weights
        for file in (weights, config):
            os.replace(file, folder / file.name)


def sha256(path: str | Path) -> str:
    """SHA-256 of a checkpoint; of a model folder, that of its weights."""
    path = locate(path)
    return file_sha256(path / WEIGHTS_NAME if path.is_dir() else path)


def main(argv: list[str] | None = None) -> int:
    """Write the model of a training checkpoint as a folder, as it goes to the Hub (`python -m condnet.checkpoint`)."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument('checkpoint', help='training checkpoint')
    parser.add_argument('folder', help='folder to write')
    add_import_flag(parser)
    args = parser.parse_args(argv)

    def convert() -> None:
        import_plugins(args)
        loaded = load_checkpoint(args.checkpoint)
        save_model(loaded.model, args.folder, loaded.training, fingerprint=loaded.fingerprint)

    return run('condnet.checkpoint', convert)


if __name__ == '__main__':
    sys.exit(main())
