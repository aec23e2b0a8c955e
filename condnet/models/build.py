"""Models as timm builds them, with what tags and the keyword arguments that all of timm's models take decide."""

import inspect
from pathlib import Path
from typing import Any, TypeVar, cast

from timm.models import build_model_with_cfg
from torch import nn

from condnet.errors import CondnetError
from condnet.models.options import NAMES, TimmOptions
from condnet.models.pretrained import TAGS, WEIGHTS_NAME, Tag, check_folder, find_pretrained, local_folders
from condnet.models.statistics import warn_user
from condnet.models.supernet import Supernet, checkpoint_filter_fn

FEATURE_CFG = {'out_indices': (0, 1, 2), 'flatten_sequential': True}  # of timm's extractors of features: three stages
Model = TypeVar('Model', bound=nn.Module)
_SOURCES = ('url', 'file', 'state_dict', 'hf_hub_id')  # where timm can be told to take weights from


def build_network(model_cls: type[Model], variant: str, pretrained: bool, **kwargs: Any) -> Model:
    """timm's `build_model_with_cfg`, with those of `TimmOptions` that the constructor does not know.

    Args:
        model_cls: The super-network or stand-alone network.
        variant: Name of the model.
        pretrained: Whether to load weights.
        **kwargs: Constructor arguments, `TimmOptions`, and those of `build_model_with_cfg`.

    Raises:
        CondnetError: If the weights do not fit, or an option makes no sense.
    """
    known = inspect.signature(model_cls).parameters.keys()
    options = TimmOptions(**{key: kwargs.pop(key) for key in NAMES - known if key in kwargs})
    kwargs['feature_cfg'] = {**FEATURE_CFG, **(kwargs.get('feature_cfg') or {})}

    def make(**arguments: Any) -> Model:
        model = model_cls(**arguments)
        options.set_in(model)
        if isinstance(model, Supernet):
            model.timm_options = options
        return model

    return build_model_with_cfg(make, variant, pretrained, pretrained_filter_fn=checkpoint_filter_fn, **kwargs)


def build_supernet(model_cls: type[Model], variant: str, pretrained: bool, **kwargs: Any) -> Model:
    """`build_network`, and what a tag decides: constructor arguments, and which sub-network is active.

    Args:
        model_cls: The super-network.
        variant: Name of the model; `register_tags` may have made pretrained weights known.
        pretrained: Whether to load weights.
        **kwargs: As of `build_network`.

    Raises:
        CondnetError: If the weights are not available or damaged, or the arguments contradict the tag.
    """
    kwargs, found = _with_weights(variant, pretrained, kwargs)
    model = build_network(model_cls, variant, pretrained, **kwargs)
    if isinstance(model, model_cls):  # and no extractor of features
        recorded = (inspect.signature(model_cls).parameters.keys() | NAMES) - _NOT_RECORDED
        arguments = {key: value for key, value in kwargs.items() if key in recorded}
        model._model_args = {**arguments, **getattr(model, '_model_args', {})}  # type: ignore[assignment]
        if found is not None:
            cast(Supernet, model).set_calibrated_subnet(found.get('active_subnet'))
    return model


def _with_weights(variant: str, pretrained: bool, kwargs: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    """Arguments of a model with those of its tag and the file of its weights.

    Returns:
        The arguments, and those of the model in the folder that the weights come from; None if they come from none.
    """
    config = kwargs.get('pretrained_cfg') or ''
    kwargs = {**kwargs, 'pretrained_cfg_overlay': dict(kwargs.get('pretrained_cfg_overlay') or {})}
    if isinstance(config, str) and (config or pretrained):
        return _with_tag(variant, config, pretrained, kwargs)
    if not (pretrained and isinstance(config, dict) and config.get('source') in ('local-dir', 'hf-hub')):
        return kwargs, None
    if config['source'] == 'local-dir':
        folder = Path(config['file'])
    else:
        folder = find_pretrained(f'hf-hub:{config["hf_hub_id"]}', kwargs.get('cache_dir'))
    found = check_folder(folder, variant).get('model_args', {})
    _check_split(f'{variant} in {folder}', found, kwargs)
    return kwargs, found


def _with_tag(variant: str, tag: str, pretrained: bool, kwargs: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    """As `_with_weights`, of a tag; '' for the default, or for what is on this machine."""
    tags = TAGS.get(variant, {})
    if not tags:
        raise CondnetError(f'{variant} has no pretrained weights; a folder of your own is loaded as local-dir:FOLDER')
    is_given = any(kwargs['pretrained_cfg_overlay'].get(source) for source in _SOURCES)  # where weights come from
    if is_given and not tag:  # the caller's weights are of no tag: the model is as its arguments say
        return kwargs, None
    tag = tag or _tag_at_hand(variant, kwargs.get('cache_dir'))
    if tag not in tags:
        raise CondnetError(f'{variant} has no tag {tag!r}, expected one of {", ".join(tags)}; a folder of your own '
                           'is loaded as local-dir:FOLDER')  # fmt: skip
    tag_args, overlay = tags[tag].args, kwargs['pretrained_cfg_overlay']
    _check_split(f'{variant}.{tag}', tag_args, kwargs)
    kwargs = {**tag_args, **kwargs, 'pretrained_cfg': tag}
    if not pretrained or is_given:
        return kwargs, None
    _check_space(f'{variant}.{tag}', tags, kwargs)
    folder = find_pretrained(f'{variant}.{tag}', kwargs.get('cache_dir'))
    config = check_folder(folder, variant, tag_args.get('split', False))
    found = config.get('model_args', {})
    if 'label_names' in config:
        overlay.setdefault('label_names', config['label_names'])
    kwargs.setdefault('active_subnet', found.get('active_subnet'))
    overlay['file'] = str(folder / WEIGHTS_NAME)
    return kwargs, found


def _tag_at_hand(variant: str, cache_dir: Any) -> str:
    """The default tag, or with a warning another one, if that is not available and the other is on this machine.

    Raises:
        CondnetError: If there is none.
    """
    tags = TAGS[variant]
    default = next(iter(tags))
    try:
        find_pretrained(f'{variant}.{default}', cache_dir)
    except CondnetError:
        others = [tag for tag in tags if any(local_folders(f'{variant}.{tag}'))]
        if not others:
            raise
        warn_user(f'the weights {variant}.{default} are not available now; these are {variant}.{others[0]}, which are '
                  'on this machine')  # fmt: skip
        return others[0]
    return default


def _check_split(name: str, weights: dict[str, Any], kwargs: dict[str, Any]) -> None:
    """Refuse what nothing can do: to give weights of several contexts to a model of one."""
    if weights.get('split') and not kwargs.get('split', True):
        raise CondnetError(f'{name} is split; split=False needs the weights of an unsplit super-network')


def _check_space(name: str, tags: dict[str, Tag], kwargs: dict[str, Any]) -> None:
    """Refuse the weights of a part of the space for a model of another part."""
    variant, _, tag = name.partition('.')
    own, asked = (args.get('space', 'full') for args in (tags[tag].args, kwargs))
    if own != asked:
        fitting = [known for known, its in tags.items() if its.sha256 and its.args.get('space', 'full') == asked]
        hint = f'; those of {variant}.{" or ".join(fitting)} are' if fitting else ''
        raise CondnetError(f'the weights of {name} are of space={own!r}, not of space={asked!r}{hint}')


# Arguments that `config.json` says elsewhere; it must repeat all others, also those of a tag.
_NOT_RECORDED = {'split', 'num_classes', 'in_chans', 'global_pool', 'active_subnet', 'device', 'dtype'}
