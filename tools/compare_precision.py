"""Do mixed precision, layout and compiled candidates reach the loss of plain fp32? A short run of each, on letters.

    python -m tools.compare_precision --device cpu

Plain is fp32, NCHW, eager. It prints the losses of the last epoch over the seeds, in Markdown.
"""

import argparse
import csv
import statistics
import sys
import tempfile
from pathlib import Path

import torch

from condnet.cli.train import main as train

_VARIANTS = {
    'plain fp32': ['--no-channels-last'],
    'channels-last': [],
    'bfloat16': ['--amp'],
    'float16': ['--amp', '--amp-dtype', 'float16'],
    'compiled': ['--torchcompile'],
}


def losses_of(flags: list[str], args: argparse.Namespace, seed: int) -> tuple[float, float]:
    """Training and validation loss of the last epoch."""
    with tempfile.TemporaryDirectory() as output:
        command = ['-c', 'nb201_glyphs', '--epochs', str(args.epochs), '--split-epoch', str(args.epochs // 2)]
        command += ['--keep-epochs', '--eval-interval', str(args.epochs), '--seed', str(seed), '--output', output]
        if train([*command, '--device', args.device, *flags]):
            raise ValueError(f'the training with {flags} failed')
        with (Path(output) / 'summary.csv').open() as file:
            last = list(csv.DictReader(file))[-1]
    return float(last['train_loss']), float(last['eval_loss'])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--epochs', type=int, default=10)
    parser.add_argument('--seeds', type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print('| variant | training loss, by seed | mean | validation loss, by seed | mean |\n|---|---|---|---|---|')
    means = []
    for name, flags in _VARIANTS.items():
        results = [losses_of(flags, args, seed) for seed in range(args.seeds)]
        training, validation = zip(*results, strict=True)
        means.append((statistics.mean(training), statistics.mean(validation)))
        cells = [' '.join(f'{value:.3f}' for value in values) for values in (training, validation)]
        print(f'| {name} | {cells[0]} | {means[-1][0]:.3f} | {cells[1]} | {means[-1][1]:.3f} |', flush=True)
    return int(any(mean[0] > means[0][0] + 0.05 for mean in means))


if __name__ == '__main__':
    sys.exit(main())
