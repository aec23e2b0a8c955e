"""Make the pretrained super-networks of a space on CIFAR-10: one with the split, one without it, from one trunk.

    python checkpoints/make_cifar10.py nb201 --data-dir DATA --rank-flags '--amp-dtype bfloat16'

It trains both, ranks both, and writes both model folders with their cards. After an interruption, run it again.
"""

import argparse
import json
import shlex
import subprocess
import sys
from pathlib import Path

from condnet.checkpoint import sha256, training_checkpoints, write_file
from condnet.models.pretrained import CARD_NAME
from condnet.results import read_predictions
from condnet.train import parse_args

_ROOT = Path(__file__).parents[1]
_SPACES = {  # recipe, architectures to rank with the split and without it
    'nb201': ('nb201_cifar10', '1000', '1000'),
    'macro': ('macro', 'all', '1000'),
}
_NUM_CHECKED = 4  # architectures that are ranked again, from the folder that is published


def call(*command: str | Path) -> None:
    """Run one of this project's commands."""
    print('+', shlex.join(map(str, command)), flush=True)
    subprocess.run([sys.executable, *map(str, command)], cwd=_ROOT, check=True)


def train(output: Path, trunk: Path, recipe: str, flags: list[str | Path]) -> None:
    """Train from a checkpoint of the trunk, or go on."""
    start = output if training_checkpoints(output) else trunk
    call('train.py', '-c', recipe, *flags, '--output', output, '--resume', start, '--recovery-interval', '100')


def rank(checkpoint: Path, folder: Path, results: Path, num_archs: str, flags: list[str | Path]) -> None:
    """Rank the half-precision weights of a training, and write its model folder with the best sub-network active."""
    if (results_json := results.with_suffix('.json')).exists() and (folder / CARD_NAME).exists():
        if json.loads(results_json.read_text())['checkpoint_sha256'] == sha256(folder):
            return  # an earlier run has come so far
    half = checkpoint.with_name('half')
    call('-m', 'condnet.checkpoint', checkpoint, half)
    if not results_json.exists():  # it is written after the CSV file
        call('validate.py', '--checkpoint', half, '--num-archs', num_archs, '--results-file', results, *flags)
    # The card is of what users load: in full precision, whatever the ranking is made in.
    call('-m', 'condnet.hub', 'prepare', half, folder, '--results', results, *flags, '--amp-dtype', 'float32')
    # The folder differs from what was ranked in nothing but BatchNorm statistics, which a ranking estimates anew. So
    # the results are its own; a few are computed again to see that.
    predictions = read_predictions(results)[:_NUM_CHECKED]
    again = checkpoint.with_name('again.csv')
    archs = [str(prediction.index) for prediction in predictions]
    call('validate.py', '--checkpoint', folder, '--results-file', again, *flags, '--archs', *archs)
    if read_predictions(again) != predictions:
        raise SystemExit(f'{folder} ranks otherwise than {half}: {again} differs from {results}')
    summary = json.loads(results_json.read_text())
    summary |= {'checkpoint': folder.name, 'checkpoint_sha256': sha256(folder)}
    write_file(results_json, (json.dumps(summary, indent=2) + '\n').encode())


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
    training = parse_args(['-c', recipe, *args.train_flags])
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
