"""The weights of super-networks by name: `BLOCK.candidates.OPERATION.CONTEXT.REST` are those of choice blocks."""

import re
from collections.abc import Iterable, Mapping
from typing import Any, cast

import torch
from torch import nn

from condnet.errors import CondnetError

_WEIGHT_SET = re.compile(r'^(?P<block>.+)\.candidates\.(?P<operation>\d+)\.(?P<context>\d+)\.(?P<rest>.+)$')


def state_dict_is_split(state_dict: dict[str, Any]) -> bool:
    """Whether a super-network's state has more than one context."""
    return any((match := _WEIGHT_SET.match(key)) and int(match['context']) > 0 for key in state_dict)


def expand_contexts(state_dict: Mapping[str, torch.Tensor], names: Iterable[str]) -> dict[str, torch.Tensor]:
    """Copy the one context of an unsplit checkpoint into every context of a split model.

    Args:
        state_dict: The checkpoint.
        names: Those of all the model's weights.
    """
    expanded = dict(state_dict)
    for key in names:
        if match := _WEIGHT_SET.match(key):
            shared = f'{match["block"]}.candidates.{match["operation"]}.0.{match["rest"]}'
            if shared in state_dict:
                expanded[key] = state_dict[shared]
    return expanded


def active_state_dict(
    state_dict: Mapping[str, torch.Tensor], active: Mapping[str, tuple[int, int] | None]
) -> dict[str, torch.Tensor]:
    """State of the active weight sets, under the names that they have in a stand-alone network.

    Args:
        state_dict: State of a super-network.
        active: Operation and context that are active, by name of the choice block.
    """
    state = {}
    for key, value in state_dict.items():
        match = _WEIGHT_SET.match(key)
        if match is None:
            state[key] = value
        elif active[match['block']] == (int(match['operation']), int(match['context'])):
            state[f'{match["block"]}.{match["rest"]}'] = value
    return state


def check_state_dict(state_dict: dict[str, torch.Tensor], model: nn.Module, may_adapt: bool = True) -> None:
    """Refuse a state that is not this model's, in one line.

    Args:
        state_dict: The state.
        model: The model that it is to be loaded into.
        may_adapt: Whether classifier and first convolution may differ, which timm adapts to another number of classes
            or image channels.

    Raises:
        CondnetError: If names or shapes differ.
    """
    config = cast(dict[str, Any], model.pretrained_cfg)
    own = model.state_dict()
    adapted: tuple[str, ...] = (f'{config["classifier"]}.', f'{config["first_conv"]}.')
    head = f'{config["classifier"]}.weight'  # not adapted if only its width differs, as by another pooling
    if head in own and head in state_dict and own[head].shape[0] == state_dict[head].shape[0]:
        adapted = adapted[1:]
    differing = [
        key
        for key in sorted(own.keys() | state_dict.keys())
        if not (may_adapt and key.startswith(adapted))
        and (key not in own or key not in state_dict or own[key].shape != state_dict[key].shape)
    ]
    if differing:
        key = differing[0]
        have = tuple(state_dict[key].shape) if key in state_dict else 'nothing'
        want = tuple(own[key].shape) if key in own else 'nothing'
        raise CondnetError(
            f'the checkpoint does not fit {type(model).__name__} ({getattr(model, "space", "")}): '
            f'{len(differing)} tensors differ, first {key!r}: the checkpoint has {have}, the model {want}'
        )
