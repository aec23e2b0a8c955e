"""Packages that bring search spaces, models and benchmarks of their own: found by entry points, or by `--import`."""

import importlib
import sys
import warnings
from collections.abc import Iterable
from importlib.metadata import entry_points

from condnet.errors import CondnetError

ENTRY_POINTS = 'condnet.spaces'  # group: each names a module that registers when it is imported


def load_entry_points() -> None:
    """Import what installed packages name as entry points of the group `condnet.spaces`, or warn of it."""
    for entry_point in entry_points(group=ENTRY_POINTS):
        try:
            entry_point.load()
        except Exception as error:  # whatever another package raises must not keep condnet from working
            reason = next(iter(str(error).splitlines()), '')
            warnings.warn(
                f'the entry point {entry_point.name} = {entry_point.value} of {ENTRY_POINTS} cannot be loaded: '
                f'{type(error).__name__}: {reason}',
                stacklevel=2,
            )


def import_modules(names: Iterable[str]) -> None:
    """Import modules by name, also from the working directory, so that they register what they bring.

    Raises:
        CondnetError: If there is no such module.
    """
    for name in names:
        if not all(part.isidentifier() for part in name.split('.')):
            raise CondnetError(f"`import` names {name!r}, expected a module, as after Python's import")
        if '' not in sys.path and '.' not in sys.path:
            sys.path.append('.')  # last, so that nothing there hides an installed package
        importlib.invalidate_caches()
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not f'{name}.'.startswith(f'{error.name}.'):
                raise  # a module that it imports itself
            raise CondnetError(f'`import` {name}: there is no module {error.name}, neither installed nor in the '
                               'working directory') from error  # fmt: skip
