"""Rank architectures with a trained super-network: the `condnet-validate` command, also reached as `validate.py`."""

import argparse
import sys
from pathlib import Path

from condnet.cli.common import run, say_written
from condnet.cli.flags import add_flags, add_import_flag, read_flags
from condnet.ranking.config import RankConfig
from condnet.ranking.run import check_results_file, rank_in_team


def make_parser() -> argparse.ArgumentParser:
    """Flags of the command."""
    parser = argparse.ArgumentParser('condnet-validate', description=__doc__, allow_abbrev=False)
    parser.add_argument('--checkpoint', required=True, help='training checkpoint, folder of a model, or name of a '
                        'pretrained one')  # fmt: skip
    add_flags(parser, RankConfig)
    parser.set_defaults(results_file='output/ranking.csv')
    add_import_flag(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Rank; returns the exit status."""

    def command() -> None:
        args, config = read_flags(make_parser(), RankConfig, argv)
        check_results_file(Path(args.results_file))
        ranking = rank_in_team(args.checkpoint, config)
        if ranking is not None:
            print(ranking)
            say_written(ranking.files)

    return run('condnet-validate', command)


if __name__ == '__main__':
    sys.exit(main())
