"""Recipes: one YAML file per experiment. Its keys are the long flags of `condnet-train`, with underscores.

The folder `studies` holds studies, one YAML file each, see `condnet.studies`.
"""

import argparse
import difflib
from pathlib import Path
from typing import Any

import yaml

from condnet.cli.flags import ModelKwargs
from condnet.errors import CondnetError
from condnet.models.arguments import ARCHITECTURES, parse_model_argument

_FOLDER = Path(__file__).parent
# What a training writes into its args.yaml beside the flags.
_RECORDED = {'data_name', 'data_sha256', 'data_fingerprint', 'num_processes', 'hardware'}
_PLAIN_TAGS = {f'tag:yaml.org,2002:{kind}' for kind in ('str', 'int', 'float', 'bool', 'null', 'timestamp')}
_BOOL, _NULL, _STR = (f'tag:yaml.org,2002:{kind}' for kind in ('bool', 'null', 'str'))


def find_recipe(name: str) -> Path:
    """Find a recipe by path, or by the name of a packaged one (with or without `.yaml`).

    Raises:
        CondnetError: If there is none.
    """
    return _find(name, _FOLDER, 'recipe')


def find_study(name: str) -> Path:
    """Find a study by path, or by the name of a packaged one (with or without `.yaml`).

    Raises:
        CondnetError: If there is none.
    """
    return _find(name, _FOLDER / 'studies', 'study')


def _find(name: str, folder: Path, kind: str) -> Path:
    for path in (Path(name), folder / name, folder / f'{name}.yaml'):
        if path.is_file():
            return path
    packaged = ', '.join(sorted(path.stem for path in folder.glob('*.yaml')))
    raise CondnetError(f'no {kind} {name!r}: neither a file nor one of the packaged ones ({packaged})')
    raise CondnetError(f'no recipe {name!r}: neither a file nor one of the packaged ones ({packaged})')


def read_recipe(name: str, parser: argparse.ArgumentParser) -> dict[str, Any]:
    """The settings of a recipe, or of the args.yaml of a training.

    A value means what the same text means to the flag: YAML itself would make text of 1e-3, and 8 of 010.

    Args:
        name: Its name or path, see `find_recipe`.
        parser: The flags that the settings stand for.

    Raises:
        CondnetError: If it is no recipe, or a setting is unknown, is there twice, or has a value that the flag does not
            take.
    """
    return _parse(f'recipe {name}', find_recipe(name).read_bytes(), parser)


def check_settings(source: str, settings: dict[str, Any], parser: argparse.ArgumentParser) -> dict[str, Any]:
    """Settings that were read from YAML, as the flags that they stand for have them.

    Args:
        source: Where they stand, for errors.
        settings: The settings by name.
        parser: The flags.

    Raises:
        CondnetError: As of `read_recipe`.
    """
    return _parse(source, yaml.safe_dump(settings, sort_keys=False).encode(), parser) if settings else {}


def _parse(source: str, content: bytes, parser: argparse.ArgumentParser) -> dict[str, Any]:
    try:
        root = yaml.compose(content, yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError) as error:
        raise CondnetError(f'{source} is not YAML: {" ".join(str(error).split())}') from error
    if root is None or not _is_mapping(root):
        raise CondnetError(f'{source} holds {"nothing" if root is None else _shown(root)}, expected settings')
    actions = {action.dest: action for action in parser._actions if action.dest not in ('help', 'config')}
    try:
        nodes = _items(root)
        if nodes.keys() & _RECORDED:
            nodes = {key: node for key, node in nodes.items() if key not in _RECORDED | {'config'}}
        settings = {}
        for key, node in nodes.items():
            if key not in actions:
                near = [f'; did you mean {name!r}?' for name in difflib.get_close_matches(key, actions, 1)]
                raise CondnetError(f'unknown setting {key!r}{"".join(near)}')
            if node.tag != _NULL:
                settings[key] = _setting(actions[key], node)
            elif actions[key].default is not None:
                raise CondnetError(f'{key} is {_shown(node)}, expected a value')
    except CondnetError as error:
        raise CondnetError(f'{source}: {error}') from error
    return settings


def _is_mapping(node: yaml.Node) -> bool:
    return isinstance(node, yaml.MappingNode) and node.tag == yaml.resolver.Resolver.DEFAULT_MAPPING_TAG


def _is_list(node: yaml.Node) -> bool:
    return isinstance(node, yaml.SequenceNode) and node.tag == yaml.resolver.Resolver.DEFAULT_SEQUENCE_TAG


def _items(node: yaml.Node) -> dict[str, yaml.Node]:
    items: dict[str, yaml.Node] = {}
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode) or key.value in items:
            raise CondnetError(f'{_shown(key)} is {"there twice" if isinstance(key, yaml.ScalarNode) else "no name"}')
        items[key.value] = value
    return items


def _setting(action: argparse.Action, node: yaml.Node) -> Any:
    """The value that a flag has from a recipe."""
    wrong = CondnetError(f'{action.dest} is {_shown(node)}, which the flag does not take')
    if isinstance(action, ModelKwargs):
        if not _is_mapping(node):
            raise wrong
        return {key: _model_argument(key, value) for key, value in _items(node).items()}
    if action.nargs == 0:  # a switch
        if node.tag != _BOOL:
            raise wrong
        return yaml.SafeLoader.bool_values[node.value.lower()]
    if action.nargs is None:
        return _parsed(action, node, wrong)
    if not _is_list(node) or (isinstance(action.nargs, int) and len(node.value) != action.nargs):
        raise wrong
    if action.nargs == '+' and not node.value:
        raise wrong
    return [_parsed(action, item, wrong) for item in node.value]


def _parsed(action: argparse.Action, node: yaml.Node, wrong: CondnetError) -> Any:
    if not isinstance(node, yaml.ScalarNode) or node.tag not in _PLAIN_TAGS - {_NULL}:
        raise wrong
    try:
        value = action.type(node.value) if callable(action.type) else node.value
    except (ValueError, TypeError) as error:
        raise wrong from error
    if action.choices is not None and value not in action.choices:
        raise CondnetError(f'{action.dest} is {_shown(node)}, expected one of {", ".join(action.choices)}')
    return value


def _model_argument(key: str, node: yaml.Node, depth: int = 0) -> Any:
    """The value of a model's argument. What is in quotes is text, as it is on the command line."""
    if depth > 10:  # an alias may stand for what it is in
        raise CondnetError(f'the model argument {key} is nested too deeply')
    if _is_list(node):
        items = [_model_argument(key, item, depth + 1) for item in node.value]
        return f'({",".join(map(str, items))})' if key in ARCHITECTURES else items
    if _is_mapping(node) and key not in ARCHITECTURES:
        return {name: _model_argument(name, item, depth + 1) for name, item in _items(node).items()}
    if not isinstance(node, yaml.ScalarNode) or node.tag not in _PLAIN_TAGS:
        raise CondnetError(f'the model argument {key} is {_shown(node)}, which it cannot be')
    if node.tag == _BOOL and node.value.lower() not in ('true', 'false'):
        raise CondnetError(f'the model argument {key} is {node.value}, expected true or false, or a text in quotes')
    if node.tag == _NULL:
        return None
    return node.value if node.style in ('"', "'") else parse_model_argument(key, node.value)


def _shown(node: yaml.Node) -> str:
    """A value as a message has it."""
    if isinstance(node, yaml.ScalarNode):
        return repr(node.value) if node.tag == _STR else node.value or 'empty'
    return 'a list' if isinstance(node, yaml.SequenceNode) else 'a mapping'
