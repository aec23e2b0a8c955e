"""A ground truth of our own, small enough for a laptop: nb201 architectures, each trained alone on `glyphs`.

`python -m tools.minibench --output FILE.csv` makes the packaged table (`condnet/benchmarks/data/nb201_glyphs.csv`). It
goes on where it was interrupted. In the end it says how well the table agrees with itself: one training of each
architecture with another, which is its noise ceiling (the mean of all can be predicted better than that), and with the
table of CIFAR-10, where that is found.
"""

import argparse
import csv
import functools
import io
import itertools
import logging
import multiprocessing
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from scipy import stats
from timm.optim import create_optimizer_v2
from torch import nn

from condnet.benchmarks.tables import load_benchmark
from condnet.cli.common import run
from condnet.data import GLYPH_AUGMENTATION, Batch, Images, InMemoryLoader
from condnet.data.glyphs import MEAN, STD, render_glyphs
from condnet.errors import CondnetError
from condnet.ranking.evaluate import EvaluationData, accuracy_and_loss, evaluation_data
from condnet.ranking.metrics import ranking_metrics
from condnet.spaces.nb201 import NB201_NETWORKS
from condnet.spaces.registry import get_space
from condnet.utils.csvfile import read_text, to_float, to_int, write_csv
from condnet.utils.files import check_folder_to_write
from condnet.utils.memory import keep_freed_memory
from condnet.utils.settings import check_range

_logger = logging.getLogger(__name__)


STEPS, BATCH_SIZE = 400, 32
_SPACE = get_space('nb201')
Row = dict[str, str]  # as it stands in the table


def train_network(index: int, seed: int, images: Images, steps: int = STEPS) -> nn.Module:
    """Train the stand-alone network of an architecture.

    Args:
        index: Its official index.
        seed: Seed of weights, data order and augmentation.
        images: What to train on.
        steps: Batches; the learning rate falls to zero over them, as a cosine.
    """
    torch.manual_seed(seed)
    model = timm.create_model('nb201_net', arch=index, **NB201_NETWORKS['glyphs']).train()
    model.to(memory_format=torch.channels_last)
    batches = InMemoryLoader(images, BATCH_SIZE, MEAN, STD, seed=seed, channels_last=True, **GLYPH_AUGMENTATION)
    optimizer = create_optimizer_v2(model, 'momentum', lr=0.1, weight_decay=3e-4, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for input, target in itertools.islice(_endless(batches), steps):
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(model(input), target).backward()
        optimizer.step()
        schedule.step()
    return model


def _endless(batches: InMemoryLoader) -> Iterator[Batch]:
    """Batches of one epoch after the other."""
    for epoch in itertools.count():
        batches.set_epoch(epoch)
        yield from batches


@functools.cache
def _data() -> tuple[Images, EvaluationData]:
    """Training set, and test set as networks are tested on it; rendered once in each process."""
    train, test = render_glyphs(), render_glyphs(train=False)
    return train, evaluation_data(train, test, {'mean': MEAN, 'std': STD}, channels_last=True)


def measure(index: int, num_seeds: int, steps: int = STEPS) -> Row:
    """A row of the table: train an architecture with seeds 0, 1, ..., and test each network on all test images."""
    train, test = _data()
    results = [accuracy_and_loss(train_network(index, seed, train, steps), test) for seed in range(num_seeds)]
    cost = _SPACE.cost(index, 'glyphs')
    return {
        'index': str(index),
        'arch_str': _SPACE.format(index),
        **{f'accuracy_{seed}': f'{accuracy:.4f}' for seed, (accuracy, _) in enumerate(results)},
        **{f'loss_{seed}': f'{loss:.6f}' for seed, (_, loss) in enumerate(results)},
        'params': str(cost.params),
        'flops': str(cost.flops),
    }


def make_table(path: Path, indices: list[int], num_seeds: int, workers: int, steps: int = STEPS) -> list[Row]:
    """Measure the architectures that a table lacks. It is written anew, sorted and whole, after each of them.

    Args:
        path: The table.
        indices: Official indices of the architectures that it shall hold.
        num_seeds: Trainings of each.
        workers: Processes, of one thread each; the table does not depend on their number.
        steps: Of a training.

    Raises:
        CondnetError: If there is another file.
    """
    rows = {int(row['index']): row for row in read_rows(path, num_seeds)} if path.exists() else {}
    missing = [index for index in indices if index not in rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    for row in _measure_all(missing, functools.partial(measure, num_seeds=num_seeds, steps=steps), workers):
        rows[int(row['index'])] = row
        write_csv(path, next(iter(rows.values())), [rows[index] for index in sorted(rows)])
        _logger.info(f'{len(rows)} architectures, last {" ".join(row.values())}')
    return [rows[index] for index in sorted(indices)]


def _measure_all(indices: list[int], job: Any, workers: int) -> Iterator[Row]:
    """Rows in the order in which they are finished."""
    if workers == 1:
        _start_worker()
        yield from map(job, indices)
        return
    with multiprocessing.get_context('spawn').Pool(workers, _start_worker) as pool:
        yield from pool.imap_unordered(job, indices)


def _start_worker() -> None:
    torch.set_num_threads(1)  # results depend on the number of threads, slightly
    keep_freed_memory()


def _columns(num_seeds: int) -> list[str]:
    results = [f'{name}_{seed}' for name in ('accuracy', 'loss') for seed in range(num_seeds)]
    return ['index', 'arch_str', *results, 'params', 'flops']


def read_rows(path: Path, num_seeds: int) -> list[Row]:
    """Rows of a table.

    Raises:
        CondnetError: If it is no such table, or one with another number of seeds.
    """
    columns = _columns(num_seeds)
    text, _ = read_text(path, 'a table (CSV)')
    reader = csv.DictReader(io.StringIO(text))
    if list(reader.fieldnames or ()) != columns:
        raise CondnetError(f'{path} has columns {reader.fieldnames}, expected {", ".join(columns)}')
    rows = list(reader)
    for row in rows:
        try:
            if _SPACE.format(to_int(row['index'])) != row['arch_str']:
                raise CondnetError(f'index {row["index"]} is not that of {row["arch_str"]}')
            for name in columns[2:]:
                to_float(row[name])
        except (TypeError, ValueError) as error:
            raise CondnetError(f'{path} is damaged: {error}') from error
    return rows


def describe(rows: list[Row], num_seeds: int) -> dict[str, float | None]:
    """How far a table can be trusted.

    Returns:
        `ceiling_accuracy`, `ceiling_loss`: noise ceilings; `params`, `flops`: Kendall's tau-b of the mean accuracy with
        them (None where all are equal), and with CIFAR-10's true accuracy as `cifar10`, if that table is found.
    """
    values = {name: np.array([float(row[name]) for row in rows]) for name in _columns(num_seeds)[2:]}
    accuracy, loss = (
        np.stack([values[f'{name}_{seed}'] for seed in range(num_seeds)], axis=1) for name in ('accuracy', 'loss')
    )
    others = {name: values[name] for name in ('params', 'flops')}
    try:
        others['cifar10'] = load_benchmark('nb201').select(int(row['index']) for row in rows).accuracy
    except ValueError as error:
        _logger.info(f'no comparison with CIFAR-10: {error}')
    taus = {name: ranking_metrics(other, accuracy.mean(axis=1))['kendall_tau'] for name, other in others.items()}
    return {'ceiling_accuracy': noise_ceiling(accuracy), 'ceiling_loss': noise_ceiling(loss), **taus}


def noise_ceiling(results: ArrayLike) -> float:
    """How well a benchmark agrees with itself: mean Kendall tau-b between the rankings of any two seeds.

    No prediction can be expected to agree much better with a single training of each architecture.

    Args:
        results: (N, S) of N architectures, each trained with S seeds.

    Raises:
        CondnetError: If there are fewer than two architectures or seeds, a number is not finite, or all results of a
            seed are equal.
    """
    seeds = np.asarray(results, dtype=np.float64).T
    if seeds.ndim != 2 or min(seeds.shape) < 2:
        raise CondnetError(f'results have shape {seeds.T.shape}; expected at least 2 architectures and 2 seeds')
    if not np.isfinite(seeds).all() or any(values.min() == values.max() for values in seeds):
        raise CondnetError('results of a seed are all equal, or not finite; expected numbers that can be ranked')
    return float(np.mean([stats.kendalltau(a, b).statistic for a, b in itertools.combinations(seeds, 2)]))


def make_parser() -> argparse.ArgumentParser:
    """Flags of the command."""
    parser = argparse.ArgumentParser('python -m tools.minibench', description=(__doc__ or '').splitlines()[0])
    parser.add_argument('--output', required=True, help='the table, a CSV file; what it holds already is kept')
    parser.add_argument('--num-archs', type=int, default=128, help='architectures, drawn with seed 0')
    parser.add_argument('--seeds', type=int, default=3, help='trainings of each architecture')
    parser.add_argument('--workers', type=int, default=os.cpu_count() or 1, help='processes of one thread each')
    return parser


def main(argv: list[str] | None = None) -> int:
    """Make the table; returns the exit status."""
    return run('minibench', lambda: _make_and_describe(make_parser().parse_args(argv)))


def _make_and_describe(args: argparse.Namespace) -> None:
    for name, least in (('num_archs', 2), ('seeds', 2), ('workers', 1)):
        check_range(name, getattr(args, name), least)
    check_folder_to_write(Path(args.output).parent)
    indices = [_SPACE.index(arch) for arch in _SPACE.sample_distinct(args.num_archs, seed=0)]
    rows = make_table(Path(args.output), indices, args.seeds, args.workers)
    for name, value in describe(rows, args.seeds).items():
        print(f'{name:<18}{"-" if value is None else format(value, ".3f")}')


if __name__ == '__main__':
    sys.exit(main())
