"""Rank architectures with a trained super-network, or validate a stand-alone network.

The `condnet-validate` command, also reached as `validate.py`.
"""

import argparse
import sys
from pathlib import Path

from condnet.cli.common import run, say_written
from condnet.cli.flags import Parser, add_flags, add_import_flag, read_flags
from condnet.cli.refused import VALIDATE, refuse
from condnet.models import Supernet
from condnet.ranking.config import RankConfig
from condnet.ranking.run import check_results_file, rank_in_team
from condnet.ranking.standalone import validate_subject
from condnet.ranking.subject import open_network
from condnet.utils.settings import SettingError

_RESULTS_FILE = 'output/ranking.csv'
_OTHERS = {'batch_size': '-b', 'model': '-m', 'download': '--dataset-download', 'val_split': '--split'}


def make_parser() -> argparse.ArgumentParser:
    """Flags of the command."""
    parser = Parser('condnet-validate', description=__doc__)
    parser.add_argument('--checkpoint', required=True, help='training checkpoint, folder of a model, or name of a '
                        'pretrained one')  # fmt: skip
    add_flags(parser, RankConfig, others=_OTHERS)
    parser.set_defaults(results_file=_RESULTS_FILE)
    add_import_flag(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Rank or validate; returns the exit status."""

    def command() -> None:
        refuse(argv, VALIDATE)
        args, config = read_flags(make_parser(), RankConfig, argv)
        check_results_file(Path(args.results_file))
        subject = open_network(args.checkpoint, config, config.model)
        if not isinstance(subject.model, Supernet):
            if args.results_file != _RESULTS_FILE:
                raise SettingError('results_file', 'is for rankings, and a stand-alone network has none')
            print(validate_subject(subject, config))
            return
        ranking = rank_in_team(subject, config)
        if ranking is not None:
            print(ranking)
            say_written(ranking.files)

    return run('condnet-validate', command)


if __name__ == '__main__':
    sys.exit(main())
