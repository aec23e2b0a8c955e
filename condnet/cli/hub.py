"""Model folders for the Hugging Face Hub: the `condnet-hub` command."""

import argparse
import sys
from pathlib import Path

from condnet.cli.common import run, say_written
from condnet.cli.flags import Parser, add_flags, add_import_flag, config_from, import_plugins
from condnet.hub.publish import prepare, publish
from condnet.models.pretrained import CARD_NAME, CONFIG_NAME, WEIGHTS_NAME
from condnet.ranking.config import EvalConfig


def make_parser() -> argparse.ArgumentParser:
    """Flags of the commands."""
    parser = Parser('condnet-hub', description=__doc__)
    commands = parser.add_subparsers(dest='command', required=True)
    sub = commands.add_parser('prepare', help='make a folder')
    sub.add_argument('checkpoint', help='training checkpoint, or model folder')
    sub.add_argument('folder', help='folder to write, named as the model with its tag')
    sub.add_argument('--results', required=True, help='CSV of its ranking by condnet-validate, the JSON beside it')
    sub.add_argument('--model', help='refuse a checkpoint of another model')
    add_flags(sub, EvalConfig)
    add_import_flag(sub)
    sub = commands.add_parser('publish', help='upload a folder; log in with `hf auth login` before')
    sub.add_argument('folder', help='folder that prepare wrote')
    sub.add_argument('repo', help='organization/name')
    sub.add_argument('--private', action='store_true', help='of a new repository')
    add_import_flag(sub)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Prepare or publish; returns the exit status."""
    args = make_parser().parse_args(argv)

    def command() -> None:
        import_plugins(args)
        if args.command == 'prepare':
            prepare(args.checkpoint, args.folder, args.results, config_from(args, EvalConfig), args.model)
            say_written(Path(args.folder) / name for name in (WEIGHTS_NAME, CONFIG_NAME, CARD_NAME))
        else:
            print(publish(args.folder, args.repo, args.private))

    return run('condnet-hub', command)


if __name__ == '__main__':
    sys.exit(main())
