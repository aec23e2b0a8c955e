"""Training of super-networks and stand-alone networks: the `condnet-train` command, also reached as `train.py`."""

import argparse
import os
import sys
import time

from condnet.cli.common import run, say_written
from condnet.cli.flags import Parser, add_flags, add_import_flag, config_from, import_plugins
from condnet.cli.refused import TRAIN, refuse
from condnet.recipes import read_recipe
from condnet.training.config import TrainConfig
from condnet.training.run import train

_OUTPUT = 'output/train'
_OTHERS = {'batch_size': '-b', 'workers': '-j', 'download': '--dataset-download', 'decay_rate': '--dr',
           'keep_epochs': '--save-epochs'}  # fmt: skip


def make_parser() -> argparse.ArgumentParser:
    """Flags of the command. A recipe sets defaults, a flag overrides its recipe."""
    parser = Parser('condnet-train', description=__doc__)
    parser.add_argument('-c', '--config', metavar='RECIPE', help='name of a packaged recipe, or a YAML file')
    add_import_flag(parser)
    add_flags(parser, TrainConfig, ('recipe',), _OTHERS)
    parser.set_defaults(output=_OUTPUT)
    return parser


def parse_args(argv: list[str] | None = None) -> TrainConfig:
    """The settings that recipe and flags make.

    Raises:
        CondnetError: If the recipe or a value makes no sense, or a flag of timm's is not taken.
    """
    refuse(argv, TRAIN)
    parser = make_parser()
    known = parser.parse_known_args(argv)[0]
    recipe = known.config
    if recipe:
        settings = read_recipe(recipe, TrainConfig)
        if known.lr_base is not None:
            settings.pop('lr', None)  # which says the rate in another way
        parser.set_defaults(**settings)
    args = parser.parse_args(argv)
    import_plugins(args)
    return config_from(args, TrainConfig, recipe=recipe)


def main(argv: list[str] | None = None) -> int:
    """Train; returns the exit status."""

    def command() -> None:
        config, begun = parse_args(argv), time.time()
        output = train(config).output
        if output is not None and os.environ.get('RANK', '0') == '0':  # torchrun's first process writes
            written = [file for file in sorted(output.iterdir()) if file.stat().st_mtime > begun - 1]
            say_written(file for file in written if not file.name.startswith('.'))

    return run('condnet-train', command)


if __name__ == '__main__':
    sys.exit(main())
