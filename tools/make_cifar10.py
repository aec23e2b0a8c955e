"""Make the pretrained super-networks of a space on CIFAR-10: one with the split, one without it, from one trunk.

    python -m tools.make_cifar10 nb201 --data-dir DATA --rank-flags '--amp-dtype bfloat16'

It trains both, ranks both, and writes both model folders with their cards. After an interruption, run it again.
"""

import argparse
import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from condnet.checkpoints.loading import sha256
from condnet.checkpoints.training import training_checkpoints
from condnet.cli.train import parse_args
from condnet.cli.validate import make_parser as validate_parser
from condnet.models.pretrained import CARD_NAME
from condnet.ranking.results import read_predictions
from condnet.utils.files import write_file

_ROOT = Path(__file__).parents[1]
_SPACES = {  # recipe, architectures to rank with the split and without it
    'nb201': ('nb201_cifar10', '1000', '1000'),
    'macro': ('macro', 'all', '1000'),
}
_NUM_WITHHELD = 5000  # what the rankings are on by default
_NUM_CHECKED = 4  # architectures that are ranked again, from the folder that is published


def call(*command: str | Path) -> None:
    """Run one of this project's commands; if it fails, it has said why, and this ends as well."""
    print('+', shlex.join(map(str, command)), flush=True)
    if status := subprocess.run([sys.executable, *map(str, command)], cwd=_ROOT).returncode:
        raise SystemExit(status)


def train(output: Path, trunk: Path, recipe: str, flags: list[str | Path]) -> None:
    """Train from a checkpoint of the trunk, or go on."""
    start = output if training_checkpoints(output) else trunk
    call('train.py', '-c', recipe, *flags, '--output', output, '--resume', start, '--recovery-interval', '100')


def rank(checkpoint: Path, folder: Path, results: Path, num_archs: str, flags: list[str | Path]) -> None:
    """Rank the half-precision weights of a training, and write its model folder with the best sub-network active."""
    results_json = results.with_suffix('.json')
    if results_json.exists():
        check_settings(results_json, num_archs, flags)
        if (folder / CARD_NAME).exists() and _read(results_json)['checkpoint_sha256'] == sha256(folder):
            return  # an earlier run has come so far
    half = checkpoint.with_name('half')
    call('-m', 'condnet.cli.convert', checkpoint, half)
    if not results_json.exists():  # it is written after the CSV file
        call('validate.py', '--checkpoint', half, '--num-archs', num_archs, '--results-file', results, *flags)
    # The card is of what users load: in full precision, whatever the ranking is made in.
    call('-m', 'condnet.cli.hub', 'prepare', half, folder, '--results', results, *flags, '--amp-dtype', 'float32')
    # The folder differs from what was ranked in nothing but BatchNorm statistics, which a ranking estimates anew. So
    # the results are its own; a few are computed again to see that.
    predictions = read_predictions(results)[:_NUM_CHECKED]
    again = checkpoint.with_name('again.csv')
    archs = [f'index:{prediction.index}' for prediction in predictions]
    call('validate.py', '--checkpoint', folder, '--results-file', again, *flags, '--archs', *archs)
    if read_predictions(again) != predictions:
        raise SystemExit(f'{folder} ranks otherwise than {half}: {again} differs from {results}')
    summary = _read(results_json)
    summary |= {'checkpoint': folder.name, 'checkpoint_sha256': sha256(folder)}
    write_file(results_json, (json.dumps(summary, indent=2) + '\n').encode())


def check_settings(results: Path, num_archs: str, flags: list[str | Path]) -> None:
    """Refuse results of an earlier run with other flags."""
    wanted = validate_parser().parse_args(['--checkpoint', '', '--num-archs', num_archs, *map(str, flags)])
    found = _read(results)
    for name, value, expected in (
        ('--num-archs', found['architectures'].partition(',')[0], num_archs),
        ('--calib-batches', found['calibration']['batches'], wanted.calib_batches),
        ('--calib-augment', found['calibration'].get('augmented', False), wanted.calib_augment),
        ('--calib-momentum', found['calibration']['momentum'], wanted.calib_momentum),
        ('--eval-images', found['eval_images'], wanted.eval_images or _NUM_WITHHELD),
        ('--amp-dtype', found['amp_dtype'], wanted.amp_dtype),
    ):
        if value != expected:
            raise SystemExit(f'{results} was made with {name} {value}, not {expected}; move it away to rank again')


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('space', choices=_SPACES)
    parser.add_argument('--data-dir', type=Path, required=True, help='directory with CIFAR-10 and the benchmark table')
    parser.add_argument('--output', type=Path, help='default: output/SPACE_cifar10')
    parser.add_argument('--train-flags', type=shlex.split, default=[], help='more flags of train.py, in one argument')
    parser.add_argument('--rank-flags', type=shlex.split, default=[], help='flags of the evaluation, in one argument')
    parser.add_argument('--num-archs', help='how many to rank; default: 1000, all of macro with the split')
    args = parser.parse_args()
    recipe, *numbers = _SPACES[args.space]
    try:
        training = parse_args(['-c', recipe, *args.train_flags])
    except ValueError as error:
        parser.error(str(error))
    if '--calib-momentum' in ' '.join(args.rank_flags):
        parser.error('--calib-momentum keeps the statistics of the training, which the published folder has not')
    split_epoch = training.split_epoch
    if split_epoch not in training.keep_epochs:
        parser.error(f'the trunk is kept after epochs {training.keep_epochs}, not {split_epoch}, where it splits')
    data = ['--data-dir', args.data_dir.resolve()]
    output = (args.output or Path('output') / f'{args.space}_cifar10').resolve()
    trunk = output / 'cond' / f'milestone-{split_epoch}.pth.tar'
    starts = {'cond': (output / 'cond', split_epoch), 'spos': (trunk, 0)}
    for kind, (start, epoch) in starts.items():
        train(output / kind, start, recipe, [*data, *args.train_flags, '--split-epoch', str(epoch)])
    for kind, num_archs in zip(starts, numbers, strict=True):
        folder = output / f'{args.space}_cond_supernet.{kind}_cifar10'
        results = output / f'{args.space}_{kind}_cifar10.csv'
        flags = [*data, *args.rank_flags]
        rank(output / kind / 'last.pth.tar', folder, results, args.num_archs or num_archs, flags)


if __name__ == '__main__':
    main()
