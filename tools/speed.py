"""Speed, measured in one run on real images: `benchmark.py ranking`, and `training` (in `tools.speed_training`).

`ranking` times the ranking engine against the plain loop, which is written as other tools write it: set the
architecture, reset BatchNorm, 20 training-mode batches, then validation in batches of 256; fp32, NCHW, eager, with its
images in memory already.
"""

import argparse
import copy
import json
import logging
import math
import statistics
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import timm
import torch
from scipy.stats import kendalltau

import condnet
from condnet.checkpoints.loading import load_model, sha256
from condnet.cli.common import run
from condnet.data import Images, load_images
from condnet.errors import CondnetError
from condnet.models import Supernet
from condnet.ranking.calibration import CALIBRATION_BATCH_SIZE, calibrate
from condnet.ranking.evaluate import EvaluationData, choose_images, evaluation_data
from condnet.ranking.tree import group_by_route, predict, walk
from condnet.spaces.base import Arch
from condnet.utils.device import find_device, hardware_name
from condnet.utils.files import check_folder_to_write, write_file
from condnet.utils.memory import forget_peak, peak_memory_mb
from condnet.utils.settings import check_range
from tools.speed_training import format_training, measure_training

_logger = logging.getLogger(__name__)


_CHECKPOINTS = ('macro_cond_supernet.cond_cifar10', 'nb201_cond_supernet.cond1_cifar10')
_NUM_RANDOM = 256  # architectures of a space that is no chain


def make_parser() -> argparse.ArgumentParser:
    """Flags of the commands."""
    parser = argparse.ArgumentParser('benchmark.py', description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(dest='command', required=True)
    ranking = commands.add_parser('ranking', help='the ranking engine against the plain loop', allow_abbrev=False)
    ranking.add_argument('--checkpoints', nargs='+', default=_CHECKPOINTS, help='super-networks, one of each space')
    ranking.add_argument('--calib-batches', type=int, default=20, help='BatchNorm calibration batches of 256')
    ranking.add_argument('--eval-images', type=int, default=1000, help='withheld images')
    ranking.add_argument('--plain-archs', type=int, default=16, help='architectures that the plain loop is timed and '
                         'compared on')  # fmt: skip
    ranking.add_argument('--amp-dtypes', nargs='+', choices=('float32', 'bfloat16'), default=['float32', 'bfloat16'])
    ranking.add_argument('--tau-archs', type=int, default=200, help='random architectures whose ranks in bfloat16 are '
                         'compared with those in float32')  # fmt: skip
    ranking.add_argument('--tau-images', type=int, default=5000, help='withheld images for that comparison')
    ranking.add_argument('--device', default='cpu', help='device to evaluate on')
    training = commands.add_parser('training', help='the step of a super-network, on the CPU', allow_abbrev=False)
    training.add_argument('--steps', type=int, default=40, help='pairs of steps of each comparison')
    training.add_argument('--batch-size', type=int, default=256)
    for command in (ranking, training):
        command.add_argument('--data-dir', required=True, help='directory with CIFAR-10')
        command.add_argument('--results-file', default='output/speed.json', help='figures as JSON')
    return parser


def main(argv: list[str] | None = None) -> int:
    """Measure; returns the exit status."""
    return run('benchmark.py', lambda: benchmark(make_parser().parse_args(argv)))


def benchmark(args: argparse.Namespace) -> dict[str, Any]:
    """Measure what `make_parser` describes, print a table, write the figures and return them.

    Raises:
        CondnetError: If data or checkpoints are not available, or a number makes no sense.
    """
    for name, value in vars(args).items():
        if isinstance(value, int):
            check_range(name, value, 1)
    check_folder_to_write(Path(args.results_file).parent)
    images = load_images(args.data_dir)
    figures = measure_ranking(images, args) if args.command == 'ranking' else measure_training(images, args)
    print(format_ranking(figures) if args.command == 'ranking' else format_training(figures))
    figures['settings'] = {
        **{key: value for key, value in vars(args).items() if key not in ('data_dir', 'results_file')},
        'hardware': hardware_name(find_device(getattr(args, 'device', 'cpu'))),
        'versions': {'condnet': condnet.__version__, 'torch': torch.__version__, 'timm': timm.__version__},
    }
    file = Path(args.results_file)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_file(file, (json.dumps(figures, indent=2) + '\n').encode())
    return figures


def measure_ranking(images: Images, args: argparse.Namespace) -> dict[str, Any]:
    """Engine and plain loop, for every checkpoint."""
    device = find_device(args.device)
    figures: dict[str, Any] = {}
    models: dict[str, Supernet] = {}
    for path in args.checkpoints:  # all of them, before any is measured for half an hour
        model = load_model(path).to(device)
        if not isinstance(model, Supernet):
            raise CondnetError(f'{path} holds a {type(model).__name__}, expected a super-network')
        models[path] = model
    for path, supernet in models.items():
        figures[supernet.space.name] = {'checkpoint_sha256': sha256(path), **measure_space(supernet, images, args)}
    return figures


def measure_space(model: Supernet, images: Images, args: argparse.Namespace) -> dict[str, Any]:
    """Figures of one super-network, by data type."""
    archs, device = choose_archs(model), find_device(args.device)
    plain = prepare(model, images, args, channels_last=False)
    same_layout = prepare(model, images, args, channels_last=True)
    positions = [i * len(archs) // args.plain_archs for i in range(min(args.plain_archs, len(archs)))]
    sample = list(dict.fromkeys(archs[i] for i in positions))
    run_plain(*plain, sample[0])  # what the first one pays for
    run_plain(*same_layout, sample[0])
    first, second = sample[::2], sample[1::2]  # before and after the engine, as a machine's speed drifts
    forget_peak(device)
    runs = [(arch, run_plain(*plain, arch), run_plain(*same_layout, arch)) for arch in first]
    peak = peak_memory_mb(device)
    engine = {dtype: run_engine(*same_layout, archs, getattr(torch, dtype)) for dtype in args.amp_dtypes}
    runs += [(arch, run_plain(*plain, arch), run_plain(*same_layout, arch)) for arch in second]
    # Means, as architectures differ in their costs: a median would leave the heavy ones out.
    seconds = statistics.mean(run.seconds for _, run, _ in runs)
    figures: dict[str, Any] = {
        'plain': {
            'architectures': len(runs),
            'seconds_per_architecture': seconds,
            'seconds_per_architecture_channels_last': statistics.mean(run.seconds for _, _, run in runs),
            'peak_memory_mb': peak,
        }
    }
    for dtype, measured in engine.items():
        each = measured.seconds / len(archs)
        figures[dtype] = {
            'speedup': seconds / each,
            'speedup_over_channels_last': figures['plain']['seconds_per_architecture_channels_last'] / each,
            'architectures': len(archs),
            'archs_per_second': 1 / each,
            'peak_memory_mb': measured.peak_memory_mb,
        }
    if 'float32' in engine:
        pairs = [(engine['float32'].logits[arch], run.logits[arch]) for arch, _, run in runs]
        figures['float32']['identical'] = all(torch.equal(a, b) for a, b in pairs)
        figures['float32']['compared'] = len(pairs)
    if 'bfloat16' in engine:
        figures['bfloat16'] |= compare_ranks(same_layout[0], images, args)
    return figures


def choose_archs(model: Supernet) -> list[Arch]:
    """Of macro the complete subtree of 243 below one choice of the first three decisions; else random ones."""
    if model.space.name == 'macro':
        return [arch for arch in model.space if arch[:3] == (1, 1, 1)]
    return model.space.sample_distinct(_NUM_RANDOM, 0)


def prepare(
    model: Supernet, images: Images, args: argparse.Namespace, channels_last: bool, num_images: int | None = None
) -> tuple[Supernet, EvaluationData]:
    """A copy of the super-network, and images, in a memory layout."""
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    calibration, validation = choose_images(images, args.calib_batches, num_images or args.eval_images)
    device = find_device(args.device)
    data = evaluation_data(calibration, validation, model.pretrained_cfg, device, channels_last)
    return copy.deepcopy(model).to(memory_format=memory_format), data


@dataclass(frozen=True)
class Measured:
    """Logits (M, num_classes) by architecture, and what they took."""

    logits: dict[Arch, torch.Tensor]
    seconds: float
    peak_memory_mb: float = math.nan


@torch.no_grad()
def run_plain(model: Supernet, data: EvaluationData, arch: Arch) -> Measured:
    """One architecture in the plain loop."""
    started = time.perf_counter()
    model.set_active_subnet(arch)
    calibrate(model, data.calibration)
    model.eval()
    logits = torch.cat([model(images) for images in data.images.split(CALIBRATION_BATCH_SIZE)]).cpu()
    return Measured({arch: logits}, time.perf_counter() - started)


def run_engine(model: Supernet, data: EvaluationData, archs: list[Arch], dtype: torch.dtype) -> Measured:
    """All architectures in the engine."""
    data = replace(data, amp_dtype=None if dtype == torch.float32 else dtype)
    forget_peak(data.images.device)
    logits: dict[Arch, torch.Tensor] = {}
    started = time.perf_counter()
    for same, outputs in walk(model, group_by_route(model, archs), data):
        logits |= dict.fromkeys(same, torch.cat(outputs).cpu())
    seconds = time.perf_counter() - started
    _logger.info(f'{model.space.name}, {dtype}: {len(archs) / seconds:.2f} architectures per second')
    return Measured(logits, seconds, peak_memory_mb(data.images.device))


def compare_ranks(model: Supernet, images: Images, args: argparse.Namespace) -> dict[str, Any]:
    """Kendall tau between predictions in bfloat16 and in float32, of random architectures."""
    archs = model.space.sample_distinct(args.tau_archs, 1)
    _, data = prepare(model, images, args, channels_last=True, num_images=args.tau_images)
    losses, accuracies = [], []
    for dtype in (None, torch.bfloat16):
        rows = sorted(predict(model, archs, replace(data, amp_dtype=dtype)), key=lambda row: row.index)
        losses.append([row.loss for row in rows])
        accuracies.append([row.accuracy for row in rows])
    return {
        'kendall_tau': float(kendalltau(*accuracies).statistic),
        'kendall_tau_loss': float(kendalltau(*losses).statistic),
        'tau_architectures': len(archs),
    }


def format_ranking(figures: dict[str, Any]) -> str:
    """A small table for the terminal."""
    lines = [f'{"space":<8}{"engine":<10}{"archs":>6}{"archs/s":>9}{"plain s":>9}{"speedup":>9}{"NHWC":>7}'
             f'{"MB":>7}{"plain MB":>10}  agreement']  # fmt: skip
    for space, rows in figures.items():
        for dtype in ('float32', 'bfloat16'):
            if dtype not in rows:
                continue
            row, plain = rows[dtype], rows['plain']
            if dtype == 'float32':
                agreement = f'{"identical" if row["identical"] else "DIFFERENT"} logits, {row["compared"]} compared'
            else:
                agreement = f'tau {row["kendall_tau"]:.3f}, by loss {row["kendall_tau_loss"]:.3f}'
            lines.append(
                f'{space:<8}{dtype:<10}{row["architectures"]:>6}{row["archs_per_second"]:>9.2f}'
                f'{plain["seconds_per_architecture"]:>9.2f}{row["speedup"]:>9.2f}'
                f'{row["speedup_over_channels_last"]:>7.2f}{row["peak_memory_mb"]:>7.0f}{plain["peak_memory_mb"]:>10.0f}'
                f'  {agreement}'
            )
    return '\n'.join(lines)
