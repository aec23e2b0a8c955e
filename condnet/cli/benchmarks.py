"""Tables from the published files of benchmarks: the `condnet-benchmarks` command."""

import sys
from pathlib import Path

from condnet.benchmarks.hwnas import convert_hw_nas, is_hw_nas
from condnet.benchmarks.nats import convert_nats
from condnet.cli.common import run
from condnet.cli.flags import Parser
from condnet.spaces.registry import get_space


def _convert(source: Path, output: Path) -> int:
    """Convert whichever benchmark it is; returns the number of architectures."""
    if source.is_file() and 'nats' not in source.name.lower() and is_hw_nas(source):
        return convert_hw_nas(source, output)
    return convert_nats(source, output)


def main(argv: list[str] | None = None) -> int:
    """Convert NATS-Bench or HW-NAS-Bench to a table; returns the exit status."""
    parser = Parser('condnet-benchmarks', description='Convert NATS-Bench (the '
                                     'ground truth of nb201) or HW-NAS-Bench (latencies) to CSV.')  # fmt: skip
    parser.add_argument('source', help='the unpacked folder NATS-tss-v1_0-3ffb9-simple, or HW-NAS-Bench-v1_0.pickle '
                        '(or the same as JSON)')  # fmt: skip
    parser.add_argument('output', help='the table to write, such as nas-bench-201.csv or hw-nas-bench.csv')
    args = parser.parse_args(argv)

    def command() -> None:
        count = _convert(Path(args.source), Path(args.output))
        print(f'wrote {count} of {get_space("nb201").size} architectures to {args.output}')

    return run('condnet-benchmarks', command)


if __name__ == '__main__':
    sys.exit(main())
