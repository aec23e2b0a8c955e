"""Flags that several commands have."""

import argparse
import dataclasses
import difflib
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NoReturn, TypeVar

from condnet.cli.common import with_flags
from condnet.errors import CondnetError
from condnet.models.arguments import parse_model_argument
from condnet.plugins import import_modules
from condnet.utils.settings import Kind, SettingError, kinds_of

Config = TypeVar('Config')


class Parser(argparse.ArgumentParser):
    """Flags of a command, which cannot be shortened; what is wrong with them is said in one line, without all flags."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{'allow_abbrev': False, **kwargs})

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse's; of what is unknown it says what may be meant."""
        known, unknown = self.parse_known_args(args, namespace)
        if unknown:
            self.error(f'unrecognized arguments: {" ".join(unknown)}{self._hint(unknown[0])}')
        return known

    def _hint(self, unknown: str) -> str:
        flags = [flag for flag in self._option_string_actions if flag.startswith('--')]
        if not unknown.startswith('-'):
            return '; a directory of images goes with --data-dir' if '--data-dir' in flags else ''
        near = difflib.get_close_matches(unknown.partition('=')[0], flags, 1)
        return f'; did you mean {near[0]}?' if near else ''

    def error(self, message: str) -> NoReturn:
        """End the command with exit status 2."""
        self.exit(2, f'{self.prog}: error: {" ".join(message.split())} ({self.prog} --help lists the flags)\n')


def add_import_flag(parser: argparse.ArgumentParser) -> None:
    """Add the flag `--import` of every command."""
    parser.add_argument('--import', metavar='MODULE', default='', help='import this module first (several: with commas '
                        'between them); it registers search spaces, models and benchmarks of your own')  # fmt: skip


def import_plugins(args: argparse.Namespace) -> None:
    """Import what the flag names, and take it off the flags: it is not a setting, and is not recorded.

    Raises:
        CondnetError: If there is no such module.
    """
    names = vars(args).pop('import')
    import_modules(names.split(',') if names else ())


def read_flags(
    parser: argparse.ArgumentParser, config: type[Config], argv: list[str] | None
) -> tuple[argparse.Namespace, Config]:
    """Flags, the settings that they make, and modules imported that they name.

    Args:
        parser: The flags of a command, with `--import`.
        config: The dataclass of its settings.
        argv: What was typed; None for the command line.

    Raises:
        CondnetError: If a value makes no sense, or there is no such module.
    """
    args = parser.parse_args(argv)
    import_plugins(args)
    return args, config_from(args, config)


class ModelKwargs(argparse.Action):
    """`key=value` arguments of a model.

    An architecture stays text, even where it looks like a number, and `false` is not a text, which would be true.
    """

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        texts = [str(value) for value in values or ()]
        for text in texts:
            if '=' not in text:
                raise argparse.ArgumentError(self, f'expected key=value, got {text!r}')
        pairs = (text.split('=', 1) for text in texts)
        setattr(namespace, self.dest, {key: parse_model_argument(key, value) for key, value in pairs})


class ShowDefaults(argparse.HelpFormatter):
    """Shows the default of a flag that has one and does not say it itself; that of a recipe, if one is named."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        is_nothing = action.default in (None, False, argparse.SUPPRESS) or action.default in ((), {}, [])
        if is_nothing or 'default:' in (action.help or ''):
            return action.help
        return f'{action.help or ""} (default: %(default)s)'.strip()


def add_flags(
    parser: argparse.ArgumentParser, config: type, omit: Collection[str] = (), others: Mapping[str, str] | None = None
) -> None:
    """Add a flag for each setting of a dataclass, see `condnet.utils.settings`, in groups with their headings.

    Args:
        parser: The flags of a command.
        config: The settings.
        omit: Names of those that get no flag.
        others: Further flags of settings, by the names of these, as timm's scripts have them.
    """
    parser.formatter_class = ShowDefaults
    groups: dict[str, argparse._ArgumentGroup] = {}
    kinds = kinds_of(config)
    for field in dataclasses.fields(config):
        if field.name in omit:
            continue
        heading = field.metadata.get('group', '')
        if heading and heading not in groups:
            groups[heading] = parser.add_argument_group(heading)
        add_to = groups.get(heading, parser)
        flags = [f'--{field.name.replace("_", "-")}', *(others or {}).get(field.name, '').split()]
        add_to.add_argument(*flags, **_flag(field, kinds[field.name]))


def _flag(field: 'dataclasses.Field[Any]', kind: Kind) -> dict[str, Any]:
    """How argparse is told of a setting."""
    made = field.default_factory
    default = made() if made is not dataclasses.MISSING else field.default
    flag: dict[str, Any] = {'default': default, 'help': field.metadata.get('help') or ''}
    if kind.type is dict:
        return flag | {'nargs': '*', 'action': ModelKwargs}
    if kind.type is bool:
        return flag | {'action': argparse.BooleanOptionalAction if default else 'store_true'}
    if kind.length:
        flag['nargs'] = kind.length if kind.length > 0 else '+' if default is None else '*'
    if choices := field.metadata.get('choices'):
        flag['choices'] = choices
    return flag | {'type': kind.type, 'metavar': field.metadata.get('metavar')}


def config_from(args: argparse.Namespace, config: type[Config], **settings: Any) -> Config:
    """The settings that flags make.

    Args:
        args: What was parsed; it may hold more.
        config: The dataclass.
        **settings: Those that are not flags.

    Raises:
        CondnetError: If a value makes no sense; it names the flags.
    """
    names = [field.name for field in dataclasses.fields(config) if hasattr(args, field.name)]  # type: ignore[arg-type]
    try:
        return config(**{name: getattr(args, name) for name in names} | settings)
    except SettingError as error:
        raise CondnetError(with_flags(f'`{error.name}` {error.problem}')) from error
