"""Pretrained super-networks: where their folders are found, and what is checked before one is trusted.

A folder holds `model.safetensors`, `config.json` and a card, and is named as the model with its tag. It is looked for
in the directory that the environment variable `CONDNET_CHECKPOINTS` names, in `checkpoints/` of a source tree, in the
package, in `checkpoints/` of the working directory, and at last on the Hugging Face Hub. `register_tags` says which
names there are.
"""

import functools
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import timm
from safetensors import SafetensorError, safe_open

from condnet.errors import CondnetError, show
from condnet.models.fetch import fetch, hub_error
from condnet.models.weights import state_dict_is_split
from condnet.utils.filetypes import SAFETENSORS, describe_file

CHECKPOINTS_VARIABLE = 'CONDNET_CHECKPOINTS'  # environment variable: a directory to look for folders in
WEIGHTS_NAME, CONFIG_NAME, CARD_NAME = 'model.safetensors', 'config.json', 'README.md'
HUB_ORGANIZATION = 'condnet'
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
    return [name for name, tag in known if tag.sha256 or any(local_folders(name))]


def where_pretrained() -> dict[str, str]:
    """Where each of `list_pretrained()` is available now: its folder, the page on the Hub, or `nowhere` and why.

    The Hub is asked for those that are not on this machine, for less than two seconds in all.
    """
    names = list_pretrained()
    with ThreadPoolExecutor(len(names) or 1) as threads:
        return dict(zip(names, threads.map(_where, names), strict=True))


def _where(name: str) -> str:
    if local := next(local_folders(name), None):
        return str(local)
    if error := hub_error(repo := _repo_of(name), CONFIG_NAME):
        return f'nowhere: not on this machine, and not on the Hub ({repo}: {type(error).__name__})'
    return f'https://huggingface.co/{repo}'


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
        CondnetError: If it is not available.
    """
    if name.startswith('hf-hub:'):
        return fetch(name.removeprefix('hf-hub:'), (CONFIG_NAME, WEIGHTS_NAME), name, cache_dir)
    local = next(local_folders(name), None)
    if local is not None:
        return local
    tag = find_tag(name)
    if tag is None or tag.sha256 is None:
        raise CondnetError(f'no pretrained weights of {name} exist yet; {_what_else(name)}')
    folder = fetch(_repo_of(name), (CONFIG_NAME, WEIGHTS_NAME), name, cache_dir, f'; {_what_else(name)}')
    if file_sha256(folder / WEIGHTS_NAME) != tag.sha256:
        raise CondnetError(f'{folder / WEIGHTS_NAME} is not the file that this version of condnet knows as {name}; if '
                           'it is damaged, delete it and it is fetched again, else the Hub has another')  # fmt: skip
    return folder


def local_folders(name: str) -> Iterator[Path]:
    """Where a model with its tag is on this machine.

    Raises:
        CondnetError: If the environment variable does not name a directory.
    """
    directory = os.environ.get(CHECKPOINTS_VARIABLE)
    named = [Path(directory)] if directory else []
    if directory and not named[0].is_dir():
        raise CondnetError(f'{CHECKPOINTS_VARIABLE} names {directory}, which is not a directory')
    # The working directory may be a checkout from which the package was installed elsewhere.
    for parent in (*named, PACKAGE.parent / 'checkpoints', PACKAGE / 'models' / 'weights', Path.cwd() / 'checkpoints'):
        if (parent / name / CONFIG_NAME).is_file():
            yield parent / name


def _repo_of(name: str) -> str:
    config = timm.get_pretrained_cfg(name)
    return (config and config.hf_hub_id) or f'{HUB_ORGANIZATION}/{name}'


def _what_else(name: str) -> str:
    return (
        f'give the path of its folder, checkpoints/{name} in a checkout of condnet (timm: local-dir:PATH), or set '
        f'{CHECKPOINTS_VARIABLE} to the directory that it is in; or {_how_to_train(name)}'
    )


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
            raise CondnetError(f'{folder} is not a model folder: it lacks {name}')
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
        'label_names': isinstance(config.get('label_names', []), list | dict),
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
