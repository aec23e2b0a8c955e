"""Architecture search with a trained super-network: the `condnet-search` command."""

import argparse
import sys

from condnet.cli.common import run, say_written
from condnet.cli.flags import Parser, add_flags, add_import_flag, read_flags
from condnet.searching.config import SearchConfig
from condnet.searching.run import search


def make_parser() -> argparse.ArgumentParser:
    """Flags of the command."""
    parser = Parser('condnet-search', description=(__doc__ or '').splitlines()[0])
    parser.add_argument('checkpoint', help='training checkpoint, folder of a model, or name of a pretrained '
                        'one')  # fmt: skip
    add_flags(parser, SearchConfig)
    parser.set_defaults(output='output/search')
    add_import_flag(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Search; returns the exit status."""

    def command() -> None:
        args, config = read_flags(make_parser(), SearchConfig, argv)
        result = search(args.checkpoint, config=config)
        print(result)
        say_written(result.files)

    return run('condnet-search', command)


if __name__ == '__main__':
    sys.exit(main())
