"""Flags that several commands have."""

import argparse
import math
from collections.abc import Sequence
from typing import Any

from condnet.errors import CondnetError
from condnet.models.arguments import parse_model_argument
from condnet.plugins import import_modules


def add_import_flag(parser: argparse.ArgumentParser) -> None:
    """Add the flag `--import` of every command."""
    parser.add_argument('--import', metavar='MODULE', default='', help='import this module first (several: with commas '
                        'between them); it registers search spaces, models and benchmarks of your own')  # fmt: skip


def import_plugins(args: argparse.Namespace) -> None:
    """Import what the flag names, and take it off the flags: it is no setting, and is not recorded.

    Raises:
        CondnetError: If there is no such module.
    """
    names = vars(args).pop('import')
    import_modules(names.split(',') if names else ())


DATASET_HELP = "glyphs, or a data set by timm's name for it; default: small images in --data-dir, kept in memory"


class ModelKwargs(argparse.Action):
    """`key=value` arguments of a model.

    An architecture stays text, even where it looks like a number, and `false` is no text, which would be true.
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


def check_numbers(args: argparse.Namespace, least: float, *names: str, below: float = math.inf) -> None:
    """Check the values of flags; those that are not given pass.

    Args:
        args: The flags.
        least: What they must be at least.
        *names: Their names, as attributes.
        below: What they must be less than; no number is infinite, and no whole one has more than 64 bits.

    Raises:
        CondnetError: If one is something else.
    """
    for name in names:
        value = getattr(args, name)
        if value is None:
            continue
        end = min(below, 2**63) if isinstance(value, int) else below
        if not least <= value < end:
            more = f' and less than {end:g}' if below < math.inf or value >= end else ''
            raise CondnetError(f'--{name.replace("_", "-")} is {value}, expected at least {least:g}{more}')
