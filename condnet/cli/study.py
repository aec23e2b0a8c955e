"""Studies: trunks, splits from their milestones, and rankings of all: the `condnet-study` command."""

import argparse
import shlex
import sys

from condnet.cli.common import run, with_flags
from condnet.cli.flags import Parser, add_flags, config_from
from condnet.studies.run import StudyConfig, describe_study, report_study, run_study


def make_parser() -> argparse.ArgumentParser:
    """Flags of the command."""
    parser = Parser('condnet-study', description=__doc__)
    parser.add_argument('study', help='name of a packaged study, or a YAML file')
    add_flags(parser, StudyConfig, omit=('study', 'train_flags', 'rank_flags'))
    parser.add_argument('--train-flags', type=shlex.split, default=[], help='more flags of all trainings, in one '
                        'argument: --train-flags=--amp')  # fmt: skip
    parser.add_argument('--rank-flags', type=shlex.split, default=[], help='more flags of all rankings, likewise')
    parser.add_argument('--dry-run', action='store_true', help='print steps, hours and disk, and do nothing')
    parser.add_argument('--report', action='store_true', help='write the report of what is finished, and do nothing')
    return parser


def study(args: argparse.Namespace) -> None:
    """Do what the flags say."""
    config = config_from(args, StudyConfig)
    if args.dry_run:
        print(with_flags(describe_study(config)))
    elif args.report:
        print(report_study(config))
    else:
        run_study(config, tell=print)


def main(argv: list[str] | None = None) -> int:
    """Run a study; returns the exit status."""
    return run('condnet-study', lambda: study(make_parser().parse_args(argv)))


if __name__ == '__main__':
    sys.exit(main())
