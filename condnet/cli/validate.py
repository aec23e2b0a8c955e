"""Rank architectures with a trained super-network: the `condnet-validate` command, also reached as `validate.py`."""

import argparse
import re
import sys
from pathlib import Path

from condnet.cli.common import run
from condnet.cli.flags import DATASET_HELP, add_import_flag, check_numbers, import_plugins
from condnet.errors import CondnetError
from condnet.ranking.evaluate import DEFAULT_MEMORY
from condnet.ranking.run import _AMP_DTYPES, DEFAULT_NUM_ARCHS, validate
from condnet.spaces.notation import ARCH_HELP
from condnet.utils.files import check_folder_to_write


def make_parser() -> argparse.ArgumentParser:
    """Flags of the command."""
    parser = argparse.ArgumentParser('condnet-validate', description=__doc__, allow_abbrev=False)
    parser.add_argument('--checkpoint', required=True, help='training checkpoint, folder of a model, or name of a '
                        'pretrained one')  # fmt: skip
    parser.add_argument('--model', help='refuse a checkpoint of another model')
    parser.add_argument('--results-file', default='output/ranking.csv', help='predictions; .json and .png beside it')
    group = parser.add_argument_group('architectures')
    group.add_argument('--num-archs', help="how many random ones of the benchmark's, or 'all' (default: "
                       f'{DEFAULT_NUM_ARCHS}, or all of fewer)')  # fmt: skip
    group.add_argument('--archs', nargs='*', help=f'these instead. {ARCH_HELP}')
    group.add_argument('--seed', type=int, default=0, help='seed of the random ones')
    add_evaluation_flags(parser)
    add_import_flag(parser)
    return parser


def add_evaluation_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of every command that evaluates architectures: weights, data, and how."""
    group = parser.add_argument_group('weights and data')
    group.add_argument('--use-ema', action='store_true', help='take the averaged weights of a training checkpoint')
    group.add_argument('--data-dir', help='directory with the data set that it was trained on; glyphs needs none')
    group.add_argument('--download', action='store_true', help='download what is missing: CIFAR-10, benchmark table')
    group.add_argument('--dataset', help=DATASET_HELP)
    group.add_argument('--train-split', default='train', help='with --dataset: the part it was trained on')
    group.add_argument('--val-split', default='validation', help='with --dataset: the part to validate on')
    group.add_argument('--benchmark', help='ground truth: file or directory (default: --data-dir, $CONDNET_DATA)')
    group = parser.add_argument_group('evaluation')
    group.add_argument('--calib-batches', type=int, default=20, help='BatchNorm calibration batches of 256')
    group.add_argument('--calib-momentum', type=float, help='do not reset the statistics, and move them by so much in '
                       'each batch (0.1: the variant of the authors)')  # fmt: skip
    group.add_argument('--calib-augment', action=argparse.BooleanOptionalAction, default=True, help='calibrate on '
                       'images augmented as in training, from a fixed seed')  # fmt: skip
    group.add_argument('--eval-images', type=int, help='withheld images (default: all, 5,000 of CIFAR-10)')
    group.add_argument('--batch-size', type=int, default=256, help='validation images per forward pass')
    group.add_argument('--amp-dtype', choices=_AMP_DTYPES, default='float32', help='data type of the forward passes')
    group.add_argument('--channels-last', action=argparse.BooleanOptionalAction, default=True, help='memory layout')
    group.add_argument('--device', default='cpu', help='device to evaluate on')
    group.add_argument('--memory', type=float, default=DEFAULT_MEMORY / 1e9, help='GB that a process may keep of what '
                       'several architectures start from; not part of the result (default: %(default)g)')  # fmt: skip


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the flags.

    Raises:
        CondnetError: If a value makes no sense.
    """
    args = make_parser().parse_args(argv)
    import_plugins(args)
    check_evaluation_flags(args)
    check_numbers(args, 0, 'seed')
    if args.num_archs not in (None, 'all') and not re.fullmatch('[0-9]{1,18}', args.num_archs):
        raise CondnetError(f"--num-archs is {args.num_archs!r}, expected a number or 'all'")
    path = Path(args.results_file)
    if path.suffix != '.csv' or path.is_dir():
        raise CondnetError(f'--results-file is {args.results_file!r}, expected the name of a file that ends in .csv')
    check_folder_to_write(path.parent)
    return args


def check_evaluation_flags(args: argparse.Namespace) -> None:
    """Check the values of `add_evaluation_flags`.

    Raises:
        CondnetError: If one makes no sense.
    """
    check_numbers(args, 1, 'calib_batches', 'batch_size', 'eval_images')
    check_numbers(args, 0, 'memory')
    if args.calib_momentum is not None and not 0 < args.calib_momentum <= 1:
        raise CondnetError(f'--calib-momentum is {args.calib_momentum}, expected a number in (0, 1]')


def main(argv: list[str] | None = None) -> int:
    """Rank; returns the exit status."""
    return run('condnet-validate', lambda: validate(parse_args(argv)))


if __name__ == '__main__':
    sys.exit(main())
