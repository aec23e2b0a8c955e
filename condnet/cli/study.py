"""Studies: trunks, splits from their milestones, and rankings of all: the `condnet-study` command."""

import argparse
import shlex
import sys
from pathlib import Path

from condnet.cli.common import run
from condnet.studies.run import run_study


def make_parser() -> argparse.ArgumentParser:
    """Flags of the command."""
    parser = argparse.ArgumentParser('condnet-study', description=__doc__, allow_abbrev=False)
    parser.add_argument('study', help='name of a packaged study, or a YAML file')
    parser.add_argument('--output', type=Path, help='its folder; the same one to go on (default: output/STUDY)')
    parser.add_argument('--data-dir', help='directory with the data set; glyphs needs none')
    parser.add_argument('--device', help='device of all trainings and rankings')
    parser.add_argument('--jobs', type=int, default=1, help='steps side by side; on a GPU under MPS where it is there')
    parser.add_argument('--train-flags', type=shlex.split, default=[], help='more flags of all trainings, in one '
                        'argument: --train-flags=--amp')  # fmt: skip
    parser.add_argument('--rank-flags', type=shlex.split, default=[], help='more flags of all rankings, likewise')
    parser.add_argument('--dry-run', action='store_true', help='print steps, hours and disk, and do nothing')
    parser.add_argument('--report', action='store_true', help='write the report of what is finished, and do nothing')
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run a study; returns the exit status."""
    return run('condnet-study', lambda: run_study(make_parser().parse_args(argv)))


if __name__ == '__main__':
    sys.exit(main())
