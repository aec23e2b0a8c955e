"""Settings as frozen dataclasses, whose fields say what they take: checks, flags and recipes are made from them.

@dataclass(frozen=True)
class EvalConfig:
    calib_batches: int = setting(20, 'BatchNorm calibration batches of 256', least=1)
    eval_images: int | None = setting(None, 'withheld images (default: all)', least=1)
    amp_dtype: str = setting('float32', 'data type of the forward passes', choices=('float32', 'bfloat16'))

    def __post_init__(self) -> None:
        check_settings(self)
"""

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import numpy as np

from condnet.errors import CondnetError, show

Config = TypeVar('Config')


class SettingError(CondnetError):
    """A setting has a value that it cannot have.

    Args:
        name: The setting, as the field is called.
        problem: What is wrong: `is 0, expected at least 1`.
    """

    def __init__(self, name: str, problem: str) -> None:
        super().__init__(f'{name} {problem}')
        self.name, self.problem = name, problem


def setting(
    default: Any,
    help: str = '',
    *,
    group: str = '',
    choices: Sequence[str] = (),
    least: float | None = None,
    below: float = math.inf,
    metavar: str | None = None,
) -> Any:
    """A field of a dataclass of settings. Its type is one of `Kind`'s.

    Args:
        default: Its default; a mapping is copied for each instance.
        help: What it is, as `--help` says it; it may end in how the default comes about.
        group: Under which heading `--help` shows it.
        choices: All the values that it may have.
        least: Numbers are at least this.
        below: Numbers are less than this.
        metavar: What stands for the value in `--help`.
    """
    metadata = dict(help=help, group=group, choices=tuple(choices), least=least, below=below, metavar=metavar)
    if isinstance(default, Mapping):
        return dataclasses.field(default_factory=lambda: dict(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Kind:
    """What the values of a setting are.

    Args:
        type: bool, int, float or str; dict for a mapping from names.
        is_optional: Whether None is one of them.
        length: 0 for one value, n for a tuple of n, -1 for a tuple of any length.
    """

    type: type
    is_optional: bool = False
    length: int = 0


def kinds_of(config: type) -> dict[str, Kind]:
    """The kinds of the settings of a dataclass, by name, in their order."""
    hints = typing.get_type_hints(config)
    return {field.name: _kind(hints[field.name]) for field in dataclasses.fields(config)}


def _kind(hint: Any) -> Kind:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        (inner,) = (argument for argument in arguments if argument is not type(None))
        return dataclasses.replace(_kind(inner), is_optional=True)
    if origin is tuple:
        return Kind(arguments[0], length=-1 if arguments[-1] is Ellipsis else len(arguments))
    return Kind(dict if origin is dict else hint)


def check_settings(config: Any) -> None:
    """Check the values of settings, one by one; to be called by `__post_init__`.

    Lists become tuples, NumPy's numbers Python's, whole numbers floats where floats are expected, and paths text.

    Raises:
        SettingError: If one has another type, is none of the choices, or out of its range.
    """
    kinds = kinds_of(type(config))
    for field in dataclasses.fields(config):
        kind, value = kinds[field.name], getattr(config, field.name)
        if value is None and kind.is_optional:
            continue
        if kind.length:
            if isinstance(value, str) or not isinstance(value, Sequence):
                raise SettingError(field.name, f'is {show(value)}, expected a list')
            if kind.length > 0 and len(value) != kind.length:
                raise SettingError(field.name, f'is {show(value)}, expected {kind.length} values')
            checked: Any = tuple(_checked(field, kind.type, item) for item in value)
        else:
            checked = _checked(field, kind.type, value)
        object.__setattr__(config, field.name, checked)


_EXPECTED = {bool: 'true or false', int: 'a whole number', float: 'a number', str: 'text', dict: 'a mapping from names'}


def _checked(field: 'dataclasses.Field[Any]', kind: Any, value: Any) -> Any:
    if isinstance(value, np.generic):  # also its float64, which is a float, but no checkpoint holds it
        value = value.item()
    if kind is str and hasattr(value, '__fspath__'):
        value = str(value)
    if kind is float and type(value) is int:
        value = float(value)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise SettingError(field.name, f'is {show(value)}, expected {_EXPECTED[kind]}')
    if value == '' and field.default is None:  # as a variable of the shell that is not set; a path to this folder
        raise SettingError(field.name, 'is empty, expected a value, or leave it out')
    choices, least = field.metadata.get('choices'), field.metadata.get('least')
    if choices and value not in choices:
        raise SettingError(field.name, f'is {show(value)}, expected one of {", ".join(choices)}')
    if least is not None:
        check_range(field.name, value, least, field.metadata['below'])
    return value


def check_range(name: str, value: float, least: float, below: float = math.inf) -> None:
    """Check that a number is at least this and less than that; none is infinite, no whole one has more than 64 bits.

    Raises:
        SettingError: If it is not.
    """
    end = min(below, 2**63) if isinstance(value, int) else below
    if not least <= value < end:
        more = f' and less than {end:g}' if below < math.inf or value >= end else ''
        raise SettingError(name, f'is {value}, expected at least {least:g}{more}')


def unknown_setting(name: str, known: Iterable[str]) -> CondnetError:
    """The error of a setting that there is not, with the one that may be meant, or all that there are."""
    names = list(known)
    near = difflib.get_close_matches(name, names, 1)
    hint = f'did you mean {near[0]!r}?' if near else f'expected some of {", ".join(names)}'
    return CondnetError(f'unknown setting {name!r}; {hint}')


def make_config(kind: Callable[..., Config], config: Any, settings: Mapping[str, Any]) -> Config:
    """Settings, of which some may be given together and others by name, which take precedence.

    Args:
        kind: The dataclass.
        config: An instance of it or of a base of it, or None for the defaults.
        settings: Further settings by name.

    Raises:
        CondnetError: If a setting is unknown, or `config` is something else.
    """
    known = cast(type, kind)
    names = [field.name for field in dataclasses.fields(known)]
    if unknown := [name for name in settings if name not in names]:
        raise unknown_setting(unknown[0], names)
    if config is None:
        return kind(**settings)
    if not dataclasses.is_dataclass(config) or not issubclass(known, type(config)):
        raise CondnetError(f'config is {show(config)}, expected {known.__name__}')
    given = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    return kind(**{**given, **settings})
