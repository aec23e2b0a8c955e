"""Entry points of torch.hub, which needs this file in the repository's root.

`torch.hub.load('<repository>', 'macro_cond_supernet', split=True)`; with `source='local'` the repository is a folder.
"""

import typing  # torch.hub would list `Any` as an entry point

import timm
from torch import nn

import condnet  # registers the models

dependencies = ['torch', 'timm']  # what the models need; training and ranking need more


def nb201_cond_supernet(pretrained: bool = False, tag: str = '', **kwargs: typing.Any) -> nn.Module:
    """Super-network of NAS-Bench-201 with conditional weights.

    Args:
        pretrained: Whether to load trained weights.
        tag: Which ones, see `condnet.list_pretrained()`; '' for the default.
        **kwargs: Arguments of `condnet.NB201Supernet`: `split=True`, `space='no_zero'`, `linear_skip=False`,
            `num_classes`, `in_chans`, ...
    """
    return timm.create_model(f'nb201_cond_supernet.{tag}' if tag else 'nb201_cond_supernet', pretrained, **kwargs)


def macro_cond_supernet(pretrained: bool = False, tag: str = '', **kwargs: typing.Any) -> nn.Module:
    """Super-network of NAS-Bench-Macro with conditional weights.

    Args:
        pretrained: Whether to load trained weights.
        tag: Which ones, see `condnet.list_pretrained()`; '' for the default.
        **kwargs: Arguments of `condnet.MacroSupernet`: `split=True`, `num_classes`, `in_chans`, ...
    """
    return timm.create_model(f'macro_cond_supernet.{tag}' if tag else 'macro_cond_supernet', pretrained, **kwargs)


def nb201_net(pretrained: bool = False, **kwargs: typing.Any) -> nn.Module:
    """Stand-alone network of NAS-Bench-201; `arch` is a tuple, an official string or an official index.

    Args:
        pretrained: Whether to load trained weights.
        **kwargs: Arguments of `condnet.NB201Net`: `arch`, `cells_per_stage`, `num_classes`, `in_chans`, ...
    """
    return _create_net('nb201_net', 'nb201_full --model nb201_net --split-epoch 0', pretrained, **kwargs)


def macro_net(pretrained: bool = False, **kwargs: typing.Any) -> nn.Module:
    """Stand-alone network of NAS-Bench-Macro; `arch` is a tuple, an official string or an official index.

    Digits are an official string (eight of them); as text, an index is written `index:1210`.

    Args:
        pretrained: Whether to load trained weights.
        **kwargs: Arguments of `condnet.MacroNet`: `arch`, `num_classes`, `in_chans`, ...
    """
    return _create_net('macro_net', 'macro --model macro_net --split-epoch 0', pretrained, **kwargs)


def _create_net(name: str, recipe: str, pretrained: bool, **kwargs: typing.Any) -> nn.Module:
    if pretrained and not timm.is_model_pretrained(name) and 'pretrained_cfg_overlay' not in kwargs:
        raise condnet.CondnetError(
            f'no pretrained weights of {name} exist yet; train your own with condnet-train -c {recipe}'
        )
    return timm.create_model(name, pretrained=pretrained, **kwargs)
