"""The model of a checkpoint: of a training, of a folder, or by the name of a pretrained model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import timm
from safetensors import safe_open
from torch import nn

from condnet.checkpoints.training import (
    arch_as_meant,
    describe_training_checkpoint,
    read_training_checkpoint,
    training_checkpoints,
)
from condnet.data import CIFAR10_CLASSES, GLYPH_CLASSES, glyphs
from condnet.errors import CondnetError, first_line
from condnet.models.pretrained import (
    CONFIG_NAME,
    WEIGHTS_NAME,
    check_folder,
    file_sha256,
    find_pretrained,
    is_pretrained_name,
    is_supernet_name,
    list_pretrained,
    read_config,
)
from condnet.models.supernet import Supernet
from condnet.models.weights import check_state_dict, state_dict_is_split

_LABEL_NAMES = {'cifar10': CIFAR10_CLASSES, 'glyphs': GLYPH_CLASSES}


def locate(checkpoint: str | Path) -> Path:
    """The file or folder of a checkpoint, which may be given by the name of a pretrained model, or by a file in it.

    Raises:
        CondnetError: If it is such a name, and its weights are not available.
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
        meant = arch_as_meant(config['architecture'], arguments)
        kwargs = {'pretrained': True} | ({} if meant is arguments else {'arch': meant['arch']})
        model = _create_model(f'local-dir:{path}', kwargs, path)
        _check_model(path, config, model)
        training = config.get('training', {})
        source, names = cast(dict[str, Any], model.pretrained_cfg), _LABEL_NAMES.get(str(training.get('data_name')), ())
        if not source.get('label_names') and len(names) == source['num_classes']:  # from before they were
            source['label_names'] = names
        return Loaded(model, training, sha256(path), config.get('data_fingerprint'))
    checkpoint = read_training_checkpoint(path)
    model, recorded = _load_training_model(path, checkpoint, use_ema), vars(checkpoint['args']).get('data_fingerprint')
    return Loaded(model, describe_training_checkpoint(checkpoint), checkpoint['sha256'], recorded)


def _check_model(folder: Path, config: dict[str, Any], model: nn.Module) -> None:
    """Check that a model is of the shapes in its folder; timm adapts images, first layer and classifier.

    Raises:
        CondnetError: If they differ.
    """
    own, size = model.state_dict(), tuple(cast(dict[str, Any], model.pretrained_cfg)['input_size'])
    if size != tuple(given := config['pretrained_cfg'].get('input_size', size)):
        raise CondnetError(f'{folder / CONFIG_NAME} is damaged: input_size is {given}, the model takes {list(size)}')
    with safe_open(folder / WEIGHTS_NAME, 'pt') as weights:
        for key in weights.keys():  # noqa: SIM118  # it is not a dictionary
            if key in own and tuple(own[key].shape) != (shape := tuple(weights.get_slice(key).get_shape())):
                raise CondnetError(f'{folder} is damaged: {key} has the shape {shape} in {WEIGHTS_NAME}, and '
                                   f'{tuple(own[key].shape)} by {CONFIG_NAME}')  # fmt: skip


def _load_training_model(path: Path, checkpoint: dict[str, Any], use_ema: bool) -> nn.Module:
    args, state_dict = checkpoint['args'], checkpoint.get('state_dict_ema' if use_ema else 'state_dict')
    if state_dict is None:
        raise CondnetError(f'{path} has no averaged weights; train with `model_ema`')
    kwargs = {
        'num_classes': args.num_classes,
        'in_chans': args.input_size[0],
        'pretrained_cfg_overlay': preprocessing(args.data_name, args.input_size, vars(args)),
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


def preprocessing(
    data_name: str, input_size: Sequence[int], settled: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """What a model's `pretrained_cfg` says of the images that it takes, and of their classes, as far as it is known.

    Where nothing is known of their statistics, as in earlier versions, they are CIFAR-10's.

    Args:
        data_name: Data set that it is trained on.
        input_size: Channels, height and width of its images.
        settled: What else is recorded of it: `num_classes`, and `mean`, `std`, `label_names` of other data sets.
    """
    settled = settled or {}
    known: dict[str, Any] = {'mean': glyphs.MEAN, 'std': glyphs.STD} if data_name == 'glyphs' else {}
    known |= {name: tuple(settled[name]) for name in ('mean', 'std') if settled.get(name)}
    names = settled.get('label_names') or _LABEL_NAMES.get(data_name, ())
    if names and len(names) == settled.get('num_classes'):
        known['label_names'] = tuple(names)
    return {'input_size': tuple(input_size), **known}


def _create_model(name: str, kwargs: dict[str, Any], path: str | Path) -> nn.Module:
    try:
        return timm.create_model(name, **kwargs)
    except CondnetError:
        raise
    except Exception as error:  # safetensors and timm each have their own
        raise CondnetError(f'cannot load {path}: {first_line(error)}') from error


def training_of(path: str | Path) -> dict[str, Any]:
    """How the weights of a checkpoint were trained, in the words of `train.py`'s flags; empty if it does not say."""
    path = locate(path)
    if path.is_dir():
        training: dict[str, Any] = read_config(path).get('training', {})
        return training
    return describe_training_checkpoint(read_training_checkpoint(path))


def sha256(path: str | Path) -> str:
    """SHA-256 of a checkpoint; of a model folder, that of its weights."""
    path = locate(path)
    return file_sha256(path / WEIGHTS_NAME if path.is_dir() else path)
