"""Pretrained super-networks: where their folders are found, and what is checked before one is trusted.

A folder holds `model.safetensors`, `config.json` and a card, and is named as the model with its tag. It is looked for
in the directory that the environment variable `CONDNET_CHECKPOINTS` names, in `checkpoints/` of a source tree, in the
package, and at last on the Hugging Face Hub. `register_tags` says which names there are.
"""

import functools
import hashlib
import inspect
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

import timm
from huggingface_hub import hf_hub_download
from safetensors import SafetensorError, safe_open
from timm.models import build_model_with_cfg
from torch import nn

from condnet.errors import CondnetError, show
from condnet.models.supernet import Supernet, checkpoint_filter_fn
from condnet.models.weights import state_dict_is_split
from condnet.utils.filetypes import SAFETENSORS, describe_file

CHECKPOINTS_VARIABLE = 'CONDNET_CHECKPOINTS'  # environment variable: a directory to look for folders in
WEIGHTS_NAME, CONFIG_NAME, CARD_NAME = 'model.safetensors', 'config.json', 'README.md'
HUB_ORGANIZATION = 'condnet'
FEATURE_CFG = {'out_indices': (0, 1, 2), 'flatten_sequential': True}  # of timm's extractors of features: three stages
Model = TypeVar('Model', bound=nn.Module)
_SOURCES = ('url', 'file', 'state_dict', 'hf_hub_id')  # where timm can be told to take weights from
PACKAGE = Path(__file__).parents[1]


@dataclass(frozen=True)
class Tag:
    """What the tag of a pretrained super-network stands for.

    Args:
        args: Arguments of the constructor.
        sha256: Of the published weights; None as long as there are none.
    """

    args: dict[str, Any] = field(default_factory=dict)
    sha256: str | None = None


TAGS: dict[str, dict[str, Tag]] = {}  # by name of the model


def register_tags(model: str, tags: Mapping[str, Tag]) -> None:
    """Make the pretrained weights of a super-network known, which are loaded by the name `model.tag`.

    Each tag also needs an entry in the `default_cfgs` of timm's `register_model`. Its `hf_hub_id` says where the
    weights are, if they are in no folder.

    Args:
        model: Name of the timm model, whose entry point calls `build_supernet`.
        tags: What they stand for; the first is the default.
    """
    TAGS[model] = dict(tags)


def find_tag(name: str) -> Tag | None:
    """What is known of a model with its tag; None if there is none of that name."""
    model, _, tag = name.partition('.')
    return TAGS.get(model, {}).get(tag)


def list_pretrained() -> list[str]:
    """Names of the pretrained super-networks that there are, for `timm.create_model(name, pretrained=True)`."""
    known = [(name, tag) for name in timm.list_pretrained() if (tag := find_tag(name))]
    return [name for name, tag in known if tag.sha256 or any(_local_folders(name))]


def is_supernet_name(name: str) -> bool:
    """Whether it is the name of a super-network that may have pretrained weights, whatever its tag."""
    return name.partition('.')[0] in TAGS


def is_pretrained_name(name: str) -> bool:
    """Whether it is the name of a super-network with a tag, or one on the Hub."""
    return name.startswith('hf-hub:') or find_tag(name) is not None


def find_pretrained(name: str, cache_dir: str | Path | None = None) -> Path:
    """The folder of a pretrained super-network, which is fetched from the Hub if it is nowhere on this machine.

    Args:
        name: Model with tag, as in `list_pretrained`, or `hf-hub:organization/name`.
        cache_dir: Where the Hub's files are kept; None for its own cache.

    Raises:
        CondnetError: If it is not to be had.
    """
    if name.startswith('hf-hub:'):
        return _fetch(name.removeprefix('hf-hub:'), name, cache_dir)
    local = next(_local_folders(name), None)
    if local is not None:
        return local
    tag = find_tag(name)
    if tag is None or tag.sha256 is None:
        raise CondnetError(f'no pretrained weights of {name} exist yet; {_how_to_train(name)}')
    config = timm.get_pretrained_cfg(name)
    folder = _fetch((config and config.hf_hub_id) or f'{HUB_ORGANIZATION}/{name}', name, cache_dir)
    if file_sha256(folder / WEIGHTS_NAME) != tag.sha256:
        raise CondnetError(f'{folder / WEIGHTS_NAME} is not the file that this version of condnet knows as {name}; if '
                           'it is damaged, delete it and it is fetched again, else the Hub has another')  # fmt: skip
    return folder


def _local_folders(name: str) -> Iterator[Path]:
    directory = os.environ.get(CHECKPOINTS_VARIABLE)
    parents = [Path(directory)] if directory else []
    if directory and not parents[0].is_dir():
        raise CondnetError(f'{CHECKPOINTS_VARIABLE} names {directory}, which is no directory')
    for parent in (*parents, PACKAGE.parent / 'checkpoints', PACKAGE / 'models' / 'weights'):
        if (parent / name / CONFIG_NAME).is_file():
            yield parent / name


def _fetch(repo: str, name: str, cache_dir: str | Path | None) -> Path:
    repo_id, _, revision = repo.partition('@')
    try:
        config, _ = [
            hf_hub_download(repo_id, file, revision=revision or None, cache_dir=cache_dir)
            for file in (CONFIG_NAME, WEIGHTS_NAME)
        ]
    except Exception as error:  # the Hub's client lets through what its HTTP library raises
        reason = ' '.join([type(error).__name__, *str(error).strip().splitlines()[:1]])
        hint = '' if name.startswith('hf-hub:') else f'; if it is not published yet, {_how_to_train(name)}'
        raise CondnetError(f'cannot get {name} from the Hub ({repo}: {reason}){hint}') from error
    return Path(config).parent


def _how_to_train(name: str) -> str:
    model, _, tag = name.partition('.')
    recipes = {'nb201_cond_supernet': 'nb201_cifar10', 'macro_cond_supernet': 'macro'}
    recipe = 'nb201_glyphs' if tag.endswith('glyphs') else f'{recipes.get(model, "RECIPE")} --data-dir DATA'
    return f'train your own with condnet-train -c {recipe}{" --split-epoch 0" if tag.startswith("spos") else ""}'


def read_config(folder: Path) -> dict[str, Any]:
    """What `config.json` of a model folder says.

    Raises:
        CondnetError: If it is missing or damaged, or names a model that is not known.
    """
    for name in (WEIGHTS_NAME, CONFIG_NAME):
        if not (folder / name).is_file():
            raise CondnetError(f'{folder} is no model folder: it lacks {name}')
    file = folder / CONFIG_NAME
    if kind := describe_file(file):
        raise CondnetError(f'{file} is {kind}')
    try:
        text = file.read_bytes().decode()
        if text.startswith('\ufeff'):  # timm, which reads it again, would not take it
            raise CondnetError(f'{file} begins with a byte order mark; save it as UTF-8 without one')
        config: dict[str, Any] = json.loads(text)
        if isinstance(config, dict) and 'architecture' not in config:
            raise CondnetError(f'{file} is of another program: it names no architecture of timm')
        architecture = config['architecture']
        _check_values(file, config)
    except CondnetError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise CondnetError(f'{file} is damaged, or lacks what timm writes: {type(error).__name__}') from error
    if not timm.is_model(architecture):
        raise CondnetError(f'{folder} holds the model {architecture!r}, which neither timm nor condnet knows')
    return config


def _check_values(file: Path, config: dict[str, Any]) -> None:
    """Refuse values of wrong types, and numbers of classes that differ: timm would make a new classifier.

    Raises:
        CondnetError: If there is one.
        AttributeError, KeyError, TypeError: If what should hold the values does not.
    """
    source, args = config['pretrained_cfg'], config.get('model_args', {})
    size, classes = source.get('input_size', [3, 1, 1]), source['num_classes']
    checks = {
        'architecture': isinstance(config['architecture'], str),
        'training': isinstance(config.get('training', {}), dict),
        'model_args': isinstance(args, dict),
        'num_classes': type(classes) is int and classes >= 0,
        'input_size': _are_numbers(size, int) and len(size) == 3 and min(size) > 0,
        'mean': _are_numbers(source.get('mean', []), int, float),
        'std': _are_numbers(source.get('std', []), int, float),
    }
    for name, is_right in checks.items():
        if not is_right:
            raise CondnetError(f'{file} is damaged: {name} is {show(source.get(name, config.get(name)))}')
    for others in (config, args):
        if others.get('num_classes', classes) != classes:
            raise CondnetError(f'{file} is damaged: num_classes is {show(others["num_classes"])} and {show(classes)}')


def _are_numbers(values: Any, *kinds: type) -> bool:
    return isinstance(values, list) and all(type(value) in kinds and -1e9 < value < 1e9 for value in values)


def check_folder(folder: Path, architecture: str | None = None, is_split: bool | None = None) -> dict[str, Any]:
    """Refuse a model folder whose weights are not what its `config.json` says, or not what is expected.

    Args:
        folder: The folder.
        architecture: Name of the model that it should hold; None for any.
        is_split: Whether it should hold a split super-network; None for either.

    Returns:
        Its `config.json`.

    Raises:
        CondnetError: If the weights are damaged or others, or of another model.
    """
    config = read_config(folder)
    if architecture not in (None, config['architecture']):
        raise CondnetError(f'{folder} holds the model {config["architecture"]!r}, expected {architecture!r}')
    file = folder / WEIGHTS_NAME
    try:
        with safe_open(file, 'pt') as weights:
            keys = dict.fromkeys(weights.keys())
    except (SafetensorError, OSError) as error:
        kind = describe_file(file) if file.stat().st_size else 'empty'
        reason = (
            f'damaged: {" ".join(str(error).split())}'
            if kind in (None, SAFETENSORS)
            else f'{kind}; expected weights in safetensors'
        )
        raise CondnetError(f'{file} is {reason}') from error
    if 'weights_sha256' in config and file_sha256(file) != config['weights_sha256']:
        raise CondnetError(f'{file} is damaged, or of another model: its SHA-256 is not the one in {CONFIG_NAME}')
    expected = bool(config.get('model_args', {}).get('split', False)) if is_split is None else is_split
    if state_dict_is_split(keys) != expected:
        names = {True: 'split', False: 'unsplit'}
        raise CondnetError(f'{folder} holds {names[not expected]} weights, expected {names[expected]} ones')
    return config


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, which is read again only after it was written to."""
    status = path.stat()
    return _file_sha256(path, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


@functools.lru_cache(maxsize=64)
def _file_sha256(path: Path, *_: int) -> str:
    with path.open('rb') as stream:
        return stream_sha256(stream)


def stream_sha256(stream: BinaryIO) -> str:
    """SHA-256 of what an open file holds from where it stands."""
    digest = hashlib.sha256()
    for chunk in iter(lambda: stream.read(1 << 20), b''):
        digest.update(chunk)
    return digest.hexdigest()


def build_supernet(model_cls: type[Model], variant: str, pretrained: bool, **kwargs: Any) -> Model:
    """timm's `build_model_with_cfg`, and what a tag decides: constructor arguments, and which sub-network is active.

    Args:
        model_cls: The super-network.
        variant: Name of the model; `register_tags` may have made pretrained weights known.
        pretrained: Whether to load weights.
        **kwargs: Constructor arguments, and those of `build_model_with_cfg`.

    Raises:
        CondnetError: If the weights are not to be had or damaged, or the arguments contradict the tag.
    """
    kwargs, found = _with_weights(variant, pretrained, kwargs)
    kwargs.setdefault('feature_cfg', dict(FEATURE_CFG))
    model = build_model_with_cfg(
        model_cls,
        variant,
        pretrained,
        pretrained_filter_fn=checkpoint_filter_fn,
        **kwargs,
    )
    if isinstance(model, model_cls):  # and no extractor of features
        recorded = inspect.signature(model_cls).parameters.keys() - _NOT_RECORDED
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
    """As `_with_weights`, of a tag; '' for the first one."""
    tags = TAGS.get(variant, {})
    if not tags:
        raise CondnetError(f'{variant} has no pretrained weights; a folder of your own is loaded as local-dir:FOLDER')
    tag = tag or next(iter(tags))
    if tag not in tags:
        raise CondnetError(f'{variant} has no tag {tag!r}, expected one of {", ".join(tags)}; a folder of your own '
                           'is loaded as local-dir:FOLDER')  # fmt: skip
    tag_args, overlay = tags[tag].args, kwargs['pretrained_cfg_overlay']
    _check_split(f'{variant}.{tag}', tag_args, kwargs)
    kwargs = {**tag_args, **kwargs, 'pretrained_cfg': tag}
    if not pretrained or any(overlay.get(source) for source in _SOURCES):
        return kwargs, None
    folder = find_pretrained(f'{variant}.{tag}', kwargs.get('cache_dir'))
    found = check_folder(folder, variant, tag_args.get('split', False)).get('model_args', {})
    kwargs.setdefault('active_subnet', found.get('active_subnet'))
    overlay['file'] = str(folder / WEIGHTS_NAME)
    return kwargs, found


def _check_split(name: str, weights: dict[str, Any], kwargs: dict[str, Any]) -> None:
    """Refuse what nothing can do: to give weights of several contexts to a model of one."""
    if weights.get('split') and not kwargs.get('split', True):
        raise CondnetError(f'{name} is split; split=False needs the weights of an unsplit super-network')


# Arguments that `config.json` says elsewhere; it must repeat all others, also those of a tag.
_NOT_RECORDED = {'split', 'num_classes', 'in_chans', 'global_pool', 'active_subnet', 'device', 'dtype'}
