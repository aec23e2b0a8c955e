"""Checkpoints on disk: training state of timm's saver, and model folders as they go to the Hub."""

import argparse
import copy
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import save_for_hf
from torch import nn

from condnet import glyphs
from condnet.commands import run
from condnet.models.supernet import check_state_dict, state_dict_is_split

WEIGHTS_NAME = 'model.safetensors'


def read_training_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint that `train.py` wrote. Nothing in it is executed.

    Raises:
        ValueError: If the file is missing, damaged, or no such checkpoint.
    """
    if not Path(path).is_file():
        raise ValueError(f'no checkpoint file at {path}')
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            checkpoint = torch.load(path, map_location='cpu', weights_only=True)
    except Exception as error:  # torch raises whatever a damaged or hostile file leads it to
        raise ValueError(f'cannot read the checkpoint {path}: it is damaged, or holds more than tensors') from error
    found = set(checkpoint) if isinstance(checkpoint, dict) else set()
    missing = {'epoch', 'args', 'state_dict', 'task_state', 'optimizer'} - found
    if missing:
        raise ValueError(f'{path} is no training checkpoint of condnet: it lacks {", ".join(sorted(missing))}')
    if not isinstance(checkpoint['args'], argparse.Namespace) or not hasattr(checkpoint['args'], 'data_name'):
        raise ValueError(f'{path} is no training checkpoint of condnet: its args are of another program')
    return checkpoint


def load_model(path: str | Path, use_ema: bool = False) -> nn.Module:
    """Build the model of a checkpoint, with its weights, on the CPU.

    Args:
        path: A training checkpoint (`.pth.tar`), or a folder with `model.safetensors` and `config.json`.
        use_ema: Whether to take the averaged weights of a training checkpoint.

    Raises:
        ValueError: If it is missing, damaged, or does not fit the model it names.
    """
    if Path(path).is_dir():
        if use_ema:
            raise ValueError(f'{path} is a model folder; averaged weights are in training checkpoints')
        return _load_folder(Path(path))
    return _load_training_model(path, use_ema)


def _load_training_model(path: str | Path, use_ema: bool) -> nn.Module:
    checkpoint = read_training_checkpoint(path)
    args, state_dict = checkpoint['args'], checkpoint.get('state_dict_ema' if use_ema else 'state_dict')
    if state_dict is None:
        raise ValueError(f'{path} has no averaged weights; train with --model-ema')
    kwargs = {
        'num_classes': args.num_classes,
        'in_chans': args.input_size[0],
        'pretrained_cfg_overlay': preprocessing(args.data_name, args.input_size),
        **args.model_kwargs,
    }
    if state_dict_is_split(state_dict):
        kwargs['split'] = True
    model = _create_model(args.model, kwargs, path)
    check_state_dict(state_dict, model)
    model.load_state_dict(state_dict)
    return model


def preprocessing(data_name: str, input_size: Sequence[int]) -> dict[str, Any]:
    """What a model's `pretrained_cfg` says of the images that it takes; where nothing is known, CIFAR-10's statistics.

    Args:
        data_name: Data set that it is trained on.
        input_size: Channels, height and width of its images.
    """
    statistics = {'mean': glyphs.MEAN, 'std': glyphs.STD} if data_name == 'glyphs' else {}
    return {'input_size': tuple(input_size), **statistics}


def _load_folder(path: Path) -> nn.Module:
    for name in (WEIGHTS_NAME, 'config.json'):
        if not (path / name).is_file():
            raise ValueError(f'{path} is no model folder: it lacks {name}')
    try:
        architecture = json.loads((path / 'config.json').read_text())['architecture']
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f'{path}/config.json is damaged, or names no architecture') from error
    if not timm.is_model(architecture):
        raise ValueError(f'{path} holds the model {architecture!r}, which neither timm nor condnet knows')
    return _create_model(f'local-dir:{path}', {'pretrained': True}, path)


def _create_model(name: str, kwargs: dict[str, Any], path: str | Path) -> nn.Module:
    try:
        return timm.create_model(name, **kwargs)
    except ValueError:
        raise
    except Exception as error:  # safetensors and timm each have their own
        raise ValueError(f'cannot load {path}: {str(error).splitlines()[0]}') from error


def training_of(path: str | Path) -> dict[str, Any]:
    """How the weights of a checkpoint were trained, in the words of `train.py`'s flags; empty if it does not say."""
    if Path(path).is_dir():
        return json.loads((Path(path) / 'config.json').read_text()).get('training', {})
    checkpoint = read_training_checkpoint(path)
    args = vars(checkpoint['args'])
    kept = (
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
    )
    split_epoch = args['split_epoch'] if checkpoint['task_state']['split'] else None
    return {'trained_epochs': checkpoint['epoch'] + 1, 'split_epoch': split_epoch, **{key: args[key] for key in kept}}


def save_model(model: nn.Module, folder: str | Path, training: dict[str, Any] | None = None, half: bool = True) -> None:
    """Write a model as it goes to the Hub: `model.safetensors` and `config.json`.

    BatchNorm statistics are always stored in full precision. timm and condnet load everything into fp32.

    Args:
        model: The model.
        folder: Where to; it is created.
        training: How the weights were trained, see `training_of`.
        half: Whether parameters are stored in half precision.
    """
    stored = copy.deepcopy(model).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # torch's stub
    for parameter in stored.parameters() if half else ():
        parameter.data = parameter.data.half()
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        save_for_hf(stored, temporary, {'training': training or {}}, safe_serialization=True)
        for name in (WEIGHTS_NAME, 'config.json'):
            os.replace(Path(temporary) / name, folder / name)


def sha256(path: str | Path) -> str:
    """SHA-256 of a checkpoint; of a model folder, that of its weights."""
    file = Path(path) / WEIGHTS_NAME if Path(path).is_dir() else Path(path)
    digest = hashlib.sha256()
    with file.open('rb') as stream:
        for chunk in iter(lambda: stream.read(1 << 20), b''):
            digest.update(chunk)
    return digest.hexdigest()


def main(argv: list[str] | None = None) -> int:
    """Write the model of a training checkpoint as a folder, as it goes to the Hub (`python -m condnet.checkpoint`)."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument('checkpoint', help='training checkpoint')
    parser.add_argument('folder', help='folder to write')
    args = parser.parse_args(argv)
    return run(
        'condnet.checkpoint',
        lambda: save_model(load_model(args.checkpoint), args.folder, training_of(args.checkpoint)),
    )


if __name__ == '__main__':
    sys.exit(main())
