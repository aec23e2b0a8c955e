"""Weights that a training begins with: fine-tuning."""

import logging
from typing import Any, cast

import timm
from timm.models import load_pretrained
from torch import nn

from condnet.checkpoints.loading import load_checkpoint, training_of
from condnet.errors import CondnetError, first_line
from condnet.models import Supernet
from condnet.models.counts import Choice
from condnet.models.network import Network
from condnet.models.pretrained import find_tag, is_supernet_name, list_pretrained
from condnet.models.supernet import checkpoint_filter_fn
from condnet.training.config import TrainConfig

_logger = logging.getLogger(__name__)


def load_initial_weights(model: nn.Module, config: TrainConfig) -> list[Choice]:
    """Give a model the weights that the settings name; it is split if they are of a split super-network.

    As in timm, a first convolution for other channels is adapted, and a classifier for other classes stays new.

    Returns:
        The weight sets that had not been trained since the split, as far as it is recorded.

    Raises:
        CondnetError: If they are not available, or of another model.
    """
    name = config.model if config.pretrained else config.initial_checkpoint
    if name is None:
        return []
    source, training = _published(config) if config.pretrained else _of_checkpoint(name)
    found, own = cast(Any, source.pretrained_cfg), cast(Any, model.pretrained_cfg)
    classes, num_classes = cast(int, source.num_classes), cast(int, model.num_classes)
    cfg = {**own, 'state_dict': source.state_dict(), 'num_classes': classes, 'input_size': found['input_size']}
    is_ours = isinstance(model, Supernet | Network)
    builder = logging.getLogger('timm.models._builder')
    before = builder.level
    builder.setLevel(logging.WARNING)  # it would say again what is said below
    try:
        load_pretrained(model, cfg, num_classes, own['input_size'][0], checkpoint_filter_fn if is_ours else None)
    except Exception as error:  # timm and torch each have their own
        reason = ' '.join(str(error).split()) or type(error).__name__
        raise CondnetError(
            f'the weights of {name} do not fit into {config.model}: {reason}{_needed(source)}'
        ) from error
    finally:
        builder.setLevel(before)
    new = '' if classes == num_classes else f', with a new classifier for {num_classes} instead of {classes} classes'
    split = ', which are split' if isinstance(model, Supernet) and model.is_split else ''
    _logger.info(f'begins with the weights of {name}{split}{new}')
    return [cast(Choice, tuple(choice)) for choice in training.get('untrained', [])]


def _needed(source: nn.Module) -> str:
    """The arguments of the model that weights are of."""
    elsewhere = ('num_classes', 'in_chans', 'global_pool')  # they come from the data, or may differ
    args = {key: value for key, value in (getattr(source, '_model_args', None) or {}).items() if key not in elsewhere}
    shown = ' '.join(f'{key}={value}'.replace(' ', '') for key, value in args.items())
    return f'; they are of `model_kwargs` {shown}' if shown else ''


def _of_checkpoint(name: str) -> tuple[nn.Module, dict[str, Any]]:
    """The model of a checkpoint, and how it was trained."""
    loaded = load_checkpoint(name)
    return loaded.model, loaded.training


def _published(config: TrainConfig) -> tuple[nn.Module, dict[str, Any]]:
    """The model of the settings with its published weights, as they were published, and how they were trained."""
    if is_supernet_name(config.model) and find_tag(config.model) is None:
        known = [name for name in list_pretrained() if name.partition('.')[0] == config.model.partition('.')[0]]
        raise CondnetError(f'`pretrained` needs the tag of the weights: `model` {" or ".join(known)}')
    try:
        model = timm.create_model(config.model, pretrained=True, **config.model_kwargs)
    except CondnetError:
        raise
    except Exception as error:  # whatever the Hub, or a constructor, stumbles over
        raise CondnetError(f'cannot get the weights of {config.model}: {first_line(error)}') from error
    return model, training_of(config.model) if is_supernet_name(config.model) else {}
