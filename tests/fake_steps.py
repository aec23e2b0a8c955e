"""Stands in for `python -m` with the commands of a study: trains and ranks nothing, in milliseconds.

    python tests/fake_steps.py condnet.cli.train -c RECIPE ...

It keeps to what the commands promise: checkpoints and results are there as a whole or not at all, a training goes on
from its last checkpoint, and what comes out depends on settings and seed alone, except for seconds.
"""

import argparse
import csv
import hashlib
import json
import os
import random
import sys
import time
from pathlib import Path

import yaml

METRICS = ('kendall_tau', 'kendall_tau_50', 'spearman', 'top1', 'top5', 'top10', 'improvement1', 'improvement5',
           'improvement10')  # fmt: skip


def write(path: Path, text: str) -> None:
    temporary = path.with_name(f'{path.name}.tmp')
    temporary.write_text(text)
    os.replace(temporary, path)
    if f'{path.parent.name}/{path.name}' == os.environ.get('HOLD_AFTER'):
        time.sleep(600)  # whoever asked for it kills this process


def number(*key: object) -> float:
    return int(hashlib.sha256(repr(key).encode()).hexdigest()[:8], 16) / 2**32


def train(argv: list[str]) -> None:
    parser = argparse.ArgumentParser()
    for name in ('-c', '--output', '--resume'):
        parser.add_argument(name, type=Path)
    for name in ('--seed', '--split-epoch'):
        parser.add_argument(name, type=int)
    parser.add_argument('--keep-epochs', type=int, nargs='*')
    parser.add_argument('--fail-seed', type=int)
    parser.add_argument('--pause', type=float, default=0.0)
    args = parser.parse_args(argv)
    if args.seed == args.fail_seed:
        sys.exit('condnet-train: error: the loss is nan')
    args.output.mkdir(exist_ok=True, parents=True)
    last, rows = args.output / 'last.pth.tar', []
    file = args.resume / 'last.pth.tar' if args.resume.suffix != '.tar' else args.resume
    if file.exists():
        rows = json.loads(file.read_text())
    for epoch in range(len(rows), yaml.safe_load(args.c.read_text())['epochs']):
        time.sleep(args.pause)
        is_split = 0 < args.split_epoch <= epoch
        value = number(args.seed, is_split and args.split_epoch, epoch)
        rows.append({'epoch': epoch, 'train_seconds': random.random(), 'train_peak_memory_mb': 100 + is_split,
                     'eval_loss': value if epoch % 2 else '', 'eval_accuracy': 1 - value if epoch % 2 else '',
                     'eval_seconds': random.random() if epoch % 2 else ''})  # fmt: skip
        write(last, json.dumps(rows))
        with (args.output / 'summary.csv').open('w', newline='') as table:
            writer = csv.DictWriter(table, rows[0])
            writer.writeheader()
            writer.writerows(rows)
        if epoch + 1 in args.keep_epochs:
            write(args.output / f'milestone-{epoch + 1}.pth.tar', json.dumps(rows))


def rank(argv: list[str]) -> None:
    parser = argparse.ArgumentParser()
    for name in ('--checkpoint', '--results-file'):
        parser.add_argument(name, type=Path)
    parser.add_argument('--pause', type=float, default=0.0)
    args = parser.parse_known_args(argv)[0]
    time.sleep(args.pause)
    rows = [[row['epoch'], row['eval_loss']] for row in json.loads(args.checkpoint.read_text())]
    summary: dict = {by: {m: number(rows, by, m) for m in METRICS} for by in ('accuracy', 'loss', 'params', 'flops')}
    summary |= {'truth_mean': 0.2, 'truth_max': 1.0, 'num_archs': 9}
    args.results_file.parent.mkdir(exist_ok=True, parents=True)
    write(args.results_file.with_suffix('.json'), json.dumps(summary))


if __name__ == '__main__':
    {'condnet.cli.train': train, 'condnet.cli.validate': rank}[sys.argv[1]](sys.argv[2:])
