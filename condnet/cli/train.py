"""Training of super-networks and stand-alone networks: the `condnet-train` command, also reached as `train.py`."""

import argparse
import sys

from condnet.cli.common import run
from condnet.cli.flags import DATASET_HELP, ModelKwargs, add_import_flag, check_numbers, import_plugins
from condnet.errors import CondnetError
from condnet.recipes import read_recipe
from condnet.training.optimization import SCHEDULES
from condnet.training.run import train
from condnet.training.task import SAMPLINGS


def make_parser() -> argparse.ArgumentParser:
    """Flags of the command. A recipe sets defaults, a flag overrides its recipe."""
    parser = argparse.ArgumentParser('condnet-train', description=__doc__, allow_abbrev=False)
    parser.add_argument('-c', '--config', metavar='RECIPE', help='name of a packaged recipe, or a YAML file')
    add_import_flag(parser)
    parser.add_argument('--data-dir', help='directory with CIFAR-10, or with another data set; glyphs needs none')
    parser.add_argument('--download', action='store_true', help='download CIFAR-10 into --data-dir if it is not there')
    parser.add_argument('--dataset', help=DATASET_HELP)
    parser.add_argument('--train-split', default='train', help='with --dataset: the part to train on')
    parser.add_argument('--val-split', default='validation', help='with --dataset: the part to validate on')
    parser.add_argument('--num-classes', type=int, help='default: those of the data; with --dataset 10')
    parser.add_argument('--input-size', type=int, nargs=3, help='default: that of the data; with --dataset 3 32 32')
    parser.add_argument('--workers', type=int, default=1, help='with --dataset: processes that load it')
    parser.add_argument('--output', default='output/train', help='directory of checkpoints and summary.csv')
    group = parser.add_argument_group('model')
    group.add_argument('--model', default='nb201_cond_supernet', help='name of a timm model')
    group.add_argument('--model-kwargs', nargs='*', default={}, action=ModelKwargs, help='space=no_zero, arch=... '
                       '(as --archs of condnet-validate), ...')  # fmt: skip
    group.add_argument('--channels-last', action=argparse.BooleanOptionalAction, default=True, help='memory layout')
    group.add_argument('--device', default='cpu', help='device to train on; cuda: under torchrun a GPU per process')
    group.add_argument('--amp', action='store_true', help='mixed precision')
    group.add_argument('--amp-dtype', choices=('bfloat16', 'float16'), default='bfloat16', help='its data type; with '
                       'float16 the loss is scaled')  # fmt: skip
    group.add_argument('--torchcompile', action='store_true', help='compile the candidate operations (or a whole '
                       'stand-alone network)')  # fmt: skip
    group.add_argument('--sync-bn', action='store_true', help='several GPUs normalise a batch together')
    group = parser.add_argument_group('method')
    group.add_argument('--sampling', choices=SAMPLINGS, default='uniform', help='one architecture per step, or (fair) '
                       'as many as there are operations, so that each is trained once before an update')  # fmt: skip
    group.add_argument('--operation-weights', type=float, nargs='+', help='draw operations in these proportions, by '
                       'their official numbers, instead of equally often')  # fmt: skip
    group.add_argument('--share-momentum', action='store_true', help="the authors' variant: the copies of a weight "
                       'have one momentum')  # fmt: skip
    group.add_argument('--update-unsampled', action='store_true', help="the authors' variant: weights that are not "
                       'sampled decay and follow their momentum')  # fmt: skip
    group = parser.add_argument_group('schedule')
    group.add_argument('--epochs', type=int, default=250, help='epochs of the schedule')
    group.add_argument('--split-epoch', type=int, default=0, help='split after so many epochs; 0 for never')
    group.add_argument('--stop-epoch', type=int, default=0, help='stop after so many epochs of the schedule; 0: never')
    group.add_argument('--resume', metavar='PATH', help='continue from this checkpoint, or from the newest one in this '
                       'folder; --output itself is started if it has none; with --split-epoch also an unsplit one '
                       'with a split')  # fmt: skip
    group.add_argument('--recovery-interval', type=int, default=0, help='also write a checkpoint every so many batches '
                       'of an epoch; 0 for only after it')  # fmt: skip
    group.add_argument('--keep-epochs', type=int, nargs='*', default=[], help='keep the checkpoints after these epochs')
    group.add_argument('--batch-size', type=int, default=256, help='images per update, over all processes')
    group.add_argument('--grad-accum-steps', type=int, default=1, help='parts into which a process divides its share '
                       'of a batch to save memory; BatchNorm normalises each for itself')  # fmt: skip
    group.add_argument('--seed', type=int, default=0, help='seed of weights, architectures, data order, augmentation')
    group = parser.add_argument_group('optimizer')
    group.add_argument('--opt', default='momentum', help="timm optimizer (timm's 'sgd' is Nesterov, 'momentum' is not)")
    group.add_argument('--lr', type=float, default=0.025)
    group.add_argument('--min-lr', type=float, default=1e-5)
    group.add_argument('--sched', default='cosine', help=f'{", ".join(SCHEDULES)}: as in timm, stepped once per epoch; '
                       'plateau after every validation, by its loss, or with --eval-interval 0 by the training '
                       'loss')  # fmt: skip
    group.add_argument('--decay-epochs', type=float, help='step: epochs between two changes (default: 90); wsd: the '
                       'last epochs, or a share of all (default: 0.2)')  # fmt: skip
    group.add_argument('--decay-milestones', type=int, nargs='+', help='multistep: the first epochs with '
                       'another rate, counted from 1 (default: 90 180 270)')  # fmt: skip
    group.add_argument('--decay-rate', type=float, help='step, multistep, plateau: factor; poly: power (default: 0.1)')
    group.add_argument('--patience-epochs', type=int, help='plateau: validations without a lower loss (default: 10)')
    group.add_argument('--momentum', type=float, default=0.9)
    group.add_argument('--weight-decay', type=float, default=3e-4, help='not on BatchNorm and biases')
    group.add_argument('--model-ema', action='store_true', help='also average the weights')
    group.add_argument('--model-ema-decay', type=float, default=0.9998)
    group = parser.add_argument_group('validation during training, of a fixed sample of architectures')
    group.add_argument('--eval-interval', type=int, default=1, help='every so many epochs; 0 for never')
    group.add_argument('--eval-archs', type=int, default=4, help='architectures (drawn with seed 0)')
    group.add_argument('--eval-batches', type=int, default=4, help='calibration batches of 256')
    group.add_argument(
        '--eval-images', type=int, help='withheld images (default: up to 1,000, equally many of a class)'
    )
    group.add_argument('--log-interval', type=int, default=50, help='batches between lines of the log')
    return parser


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read recipe and flags.

    Raises:
        CondnetError: If the recipe or a value makes no sense.
    """
    parser = make_parser()
    config = parser.parse_known_args(argv)[0].config
    if config:
        parser.set_defaults(**read_recipe(config, parser))
    args = parser.parse_args(argv)
    import_plugins(args)
    _check_args(args)
    return args


def _check_args(args: argparse.Namespace) -> None:
    counts = ('epochs', 'batch_size', 'eval_archs', 'eval_batches', 'eval_images', 'log_interval', 'grad_accum_steps')
    check_numbers(args, 1, *counts, 'num_classes')
    check_numbers(args, 0, 'seed', 'recovery_interval', 'eval_interval', 'workers', 'lr', 'min_lr', 'weight_decay')
    check_numbers(args, 0, 'momentum', 'model_ema_decay', below=1)
    for name, values in (('input-size', args.input_size), ('keep-epochs', args.keep_epochs)):
        if not all(0 < value < 2**31 for value in values or ()):
            raise CondnetError(f'--{name} is {" ".join(map(str, values))}, expected numbers of at least 1')
    for name, last in (('split_epoch', args.epochs - 1), ('stop_epoch', args.epochs)):
        if not 0 <= getattr(args, name) <= last:
            raise CondnetError(f'--{name.replace("_", "-")} is {getattr(args, name)}, expected 1..{last} for --epochs '
                               f'{args.epochs}, or 0 for never')  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """Train; returns the exit status."""
    return run('condnet-train', lambda: train(parse_args(argv)))


if __name__ == '__main__':
    sys.exit(main())
