"""Recipes: one YAML file per experiment. Its keys are the long flags of `condnet-train`, with underscores.

The folder `studies` holds studies, one YAML file each, see `condnet.studies`.
"""

import dataclasses
from pathlib import Path
from typing import Any

import yaml

from condnet.errors import CondnetError, show
from condnet.models.arguments import ARCHITECTURES, parse_model_argument
from condnet.utils.settings import Kind, kinds_of, unknown_setting

_FOLDER = Path(__file__).parent
IMPORT = 'import'  # no setting: modules to import first, see `condnet.plugins`
# What a training writes into its args.yaml beside the flags.
_RECORDED = {
    'data_name', 'data_sha256', 'data_fingerprint', 'num_processes', 'hardware', 'mean', 'std', 'label_names'
}  # fmt: skip
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


def read_recipe(name: str, config: type) -> dict[str, Any]:
    """The settings of a recipe, or of the args.yaml of a training.

    A value means what the same text means to the flag: YAML itself would make text of 1e-3, and 8 of 010.

    Args:
        name: Its name or path, see `find_recipe`.
        config: The dataclass that the settings are for: the fields that `condnet.utils.settings.setting` makes.

    Returns:
        What it sets; `import` may be there as well, the modules that it needs.

    Raises:
        CondnetError: If it is no recipe, or a setting is unknown, is there twice, or has a value of another kind.
    """
    return _parse(f'recipe {name}', find_recipe(name).read_bytes(), config)


def parse_settings(source: str, settings: dict[str, Any], config: type) -> dict[str, Any]:
    """Settings that were read from YAML, as a recipe has them.

    Args:
        source: Where they stand, for errors.
        settings: The settings by name.
        config: The dataclass that they are for.

    Raises:
        CondnetError: As of `read_recipe`.
    """
    return _parse(source, yaml.safe_dump(settings, sort_keys=False).encode(), config) if settings else {}


def _parse(source: str, content: bytes, config: type) -> dict[str, Any]:
    try:
        root = yaml.compose(content, yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError) as error:
        raise CondnetError(f'{source} is not YAML: {" ".join(str(error).split())}') from error
    if root is None or not _is_mapping(root):
        raise CondnetError(f'{source} holds {"nothing" if root is None else _shown(root)}, expected settings')
    try:
        nodes = _items(root)
        if nodes.keys() & _RECORDED:
            nodes = {key: node for key, node in nodes.items() if key not in _RECORDED | {'config'}}
        return _settings(nodes, config)
    except CondnetError as error:
        raise CondnetError(f'{source}: {error}') from error


def _settings(nodes: dict[str, yaml.Node], config: type) -> dict[str, Any]:
    choices = {field.name: field.metadata['choices'] for field in dataclasses.fields(config) if field.metadata}
    choices[IMPORT] = ()
    kinds = {IMPORT: Kind(str)} | {name: kind for name, kind in kinds_of(config).items() if name in choices}
    settings = {}
    for key, node in nodes.items():
        if key not in kinds:
            raise unknown_setting(key, kinds)
        if node.tag != _NULL:
            settings[key] = value = _setting(key, kinds[key], node)
            if choices[key] and value not in choices[key]:
                raise CondnetError(f'{key} is {_shown(node)}, expected one of {", ".join(choices[key])}')
        elif not kinds[key].is_optional:
            raise CondnetError(f'{key} is {_shown(node)}, expected a value')
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


def _setting(name: str, kind: Kind, node: yaml.Node) -> Any:
    """The value that a setting has from a recipe."""
    wrong = CondnetError(f'{name} is {_shown(node)}, which the setting does not take')
    if kind.type is dict:
        if not _is_mapping(node):
            raise wrong
        return {key: _model_argument(key, value) for key, value in _items(node).items()}
    if not kind.length:
        return _parsed(kind.type, node, wrong)
    if not _is_list(node) or (kind.length > 0 and len(node.value) != kind.length):
        raise wrong
    if kind.is_optional and not node.value:  # none at all is no value where there may be no list
        raise wrong
    return [_parsed(kind.type, item, wrong) for item in node.value]


def _parsed(kind: type, node: yaml.Node, wrong: CondnetError) -> Any:
    if not isinstance(node, yaml.ScalarNode) or node.tag not in _PLAIN_TAGS - {_NULL}:
        raise wrong
    if kind is bool:
        if node.tag != _BOOL:
            raise wrong
        return yaml.SafeLoader.bool_values[node.value.lower()]
    try:
        return kind(node.value)
    except (ValueError, TypeError) as error:
        raise wrong from error


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
        return show(node.value) if node.tag == _STR else node.value or 'empty'
    return 'a list' if isinstance(node, yaml.SequenceNode) else 'a mapping'
