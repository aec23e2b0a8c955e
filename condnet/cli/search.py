"""Architecture search with a trained super-network: the `condnet-search` command."""

import argparse
import sys
from pathlib import Path

from condnet.cli.common import run
from condnet.cli.flags import add_import_flag, check_numbers, import_plugins
from condnet.cli.validate import add_evaluation_flags, check_evaluation_flags
from condnet.errors import CondnetError
from condnet.searching.export import check_onnx_packages
from condnet.searching.problem import OBJECTIVES
from condnet.searching.run import search_architectures
from condnet.searching.study import SAMPLERS
from condnet.utils.files import check_folder_to_write


def make_parser() -> argparse.ArgumentParser:
    """Flags of the command."""
    parser = argparse.ArgumentParser('condnet-search', description=(__doc__ or '').splitlines()[0], allow_abbrev=False)
    parser.add_argument('checkpoint', help='training checkpoint, folder of a model, or name of a pretrained '
                        'one')  # fmt: skip
    parser.add_argument('--output', default='output/search', help='directory of the results')
    parser.set_defaults(model=None)  # any super-network
    group = parser.add_argument_group('search')
    group.add_argument('--sampler', choices=(*SAMPLERS, 'grid'), default='nsga2', help="Optuna's; grid: everything")
    group.add_argument('--num-evals', type=int, default=500, help='distinct architectures to evaluate, by all '
                       'processes that share the storage')  # fmt: skip
    group.add_argument('--objectives', default='accuracy', help=f'some of {",".join(OBJECTIVES)}; several give a '
                       'Pareto front')  # fmt: skip
    group.add_argument('--max-flops', type=float, help="most FLOPs (multiply-adds) of the benchmark's network")
    group.add_argument('--max-params', type=float, help="most parameters of the benchmark's network")
    group.add_argument('--max-latency', type=float, help="highest latency of the benchmark's network, in ms")
    group.add_argument('--latency-table', help='latencies as HW-NAS-Bench has them (default: measured on --device)')
    group.add_argument('--latency-device', help='whose latencies to take from the table, such as raspi4')
    group.add_argument('--seed', type=int, default=0, help='give each process that shares a storage its own')
    group.add_argument('--storage', help="database URL or journal file (default: the output's study.journal)")
    group.add_argument('--study-name', default='search', help='name of the study in the storage')
    group.add_argument('--onnx', action='store_true', help='write the winner as ONNX as well')
    add_evaluation_flags(parser)
    add_import_flag(parser)
    return parser


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the flags.

    Raises:
        CondnetError: If a value makes no sense.
    """
    args = make_parser().parse_args(argv)
    import_plugins(args)
    check_evaluation_flags(args)
    check_numbers(args, 1, 'num_evals')
    check_numbers(args, 0, 'seed')
    check_folder_to_write(Path(args.output))
    needs_latency = 'latency' in args.objectives.split(',') or args.max_latency is not None
    if (args.latency_table or args.latency_device) and not needs_latency:
        raise CondnetError('--latency-table is of no use without --max-latency or the objective latency')
    if args.latency_device and not args.latency_table:
        raise CondnetError(f'--latency-device is {args.latency_device!r}, expected a --latency-table with it')
    if args.onnx:
        check_onnx_packages()
    return args


def main(argv: list[str] | None = None) -> int:
    """Search; returns the exit status."""
    return run('condnet-search', lambda: search_architectures(parse_args(argv)))


if __name__ == '__main__':
    sys.exit(main())
