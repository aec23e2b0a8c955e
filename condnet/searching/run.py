"""A search from checkpoint to results."""

import argparse
import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import timm
import torch

import condnet
from condnet.benchmarks.registry import find_benchmark
from condnet.benchmarks.tables import BenchmarkTable
from condnet.checkpoints.loading import sha256
from condnet.data import Images
from condnet.errors import CondnetError
from condnet.models import Supernet
from condnet.ranking.run import find_table, load_evaluation_images, load_supernet, prepare_data
from condnet.ranking.tree import predict
from condnet.searching.latency import MeasuredLatency, read_latency_table
from condnet.searching.problem import LIMITS, Problem
from condnet.searching.report import (
    describe_candidate,
    export_winner,
    format_summary,
    plot_candidates,
    true_result,
    write_architectures,
)
from condnet.searching.storage import open_storage, storage_errors
from condnet.searching.study import evaluated_candidates, open_study, pareto_front, search
from condnet.spaces.base import Arch
from condnet.utils.device import find_device, hardware_name
from condnet.utils.files import write_file
from condnet.utils.locks import Lock

_logger = logging.getLogger(__name__)


def search_architectures(args: argparse.Namespace) -> dict[str, Any]:
    """Search as `parse_args` describes it, write the results and return their summary.

    Raises:
        CondnetError: If the checkpoint, data, tables and storage do not fit together.
        OSError: If a disk is full. What was evaluated is in the storage then.
    """
    model = load_supernet(args)
    calibration, validation, dataset = load_evaluation_images(model, args)
    problem = make_problem(model, dataset, args)
    feasible = problem.feasible()
    table = find_truth(model, dataset, args)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    identity = search_identity(model, problem, dataset, (calibration, validation), args)
    data = prepare_data(model, calibration, validation, args)
    output = Path(args.output)
    with storage_errors():
        storage = open_storage(args.storage or str(output / 'study.journal'))
        study = open_study(problem, storage, args.study_name, identity)
        search(study, problem, lambda archs: predict(model, archs, data), args.num_evals, args.sampler, args.seed)
        candidates, front = evaluated_candidates(study, problem), pareto_front(study, problem)
    if not candidates:
        raise CondnetError('no proposal was within the limits; expected less tight ones')
    truth = None if table is None else true_result(table, problem, candidates[0], feasible, len(candidates))
    output.mkdir(parents=True, exist_ok=True)
    with alone_in(output):
        write_architectures(output / 'architectures.csv', problem, candidates, front)
        write_file(output / 'front.png', plot_candidates(problem, candidates, front))
        summary = {
            'winner': describe_candidate(problem, candidates[0]),
            'network': export_winner(model, candidates[0], data, output, args),
            'truth': truth,
            'num_evals': len(candidates),
            'num_proposals': len(study.get_trials(deepcopy=False)),
            'num_feasible': None if feasible is None else len(feasible),
            'front': [describe_candidate(problem, candidate) for candidate in candidates if candidate.arch in front],
            **identity,
            'sampler': args.sampler,
            'seed': args.seed,
            'training': args.training,
            'data_match': args.data_match,
            'hardware': hardware_name(find_device(args.device)),
            'versions': {'torch': torch.__version__, 'timm': timm.__version__, 'optuna': optuna.__version__},
        }
        write_file(output / 'search.json', (json.dumps(summary, indent=2) + '\n').encode())
    print(format_summary(summary))
    return summary


@contextmanager
def alone_in(output: Path) -> Iterator[None]:
    """Wait until no other process of the same search is writing its results there."""
    with Lock(output / '.lock'):
        yield


def make_problem(model: Supernet, dataset: str, args: argparse.Namespace) -> Problem:
    """What the flags ask for. Costs are those of the benchmark's networks on the data set, or else on CIFAR-10.

    Raises:
        CondnetError: If they contradict each other.
    """
    limits = {name: getattr(args, f'max_{name}') for name in LIMITS if getattr(args, f'max_{name}') is not None}
    objectives = tuple(args.objectives.split(','))
    latency: Callable[[Arch], float] | None = None
    if args.latency_table:
        if dataset != 'cifar10' and find_benchmark(model.space.name, dataset):
            raise CondnetError(f'--latency-table is of the networks for CIFAR-10, those for {dataset} are others; '
                               'leave it out to measure them')  # fmt: skip
        latency = read_latency_table(args.latency_table, model.space, args.latency_device).__getitem__
    elif 'latency' in (*objectives, *limits):
        if args.sampler == 'grid' and 'latency' in limits:
            raise CondnetError('--sampler grid with --max-latency needs --latency-table; the latency of every '
                               'architecture would have to be measured first')  # fmt: skip
        size, network = model.pretrained_cfg['input_size'], model.space.network_args(dataset)
        latency = MeasuredLatency(model.space, model.num_classes, size, find_device(args.device), network)
    if not model.space.has_costs(dataset):
        dataset = 'cifar10'
    return Problem(model.space, objectives, limits, latency, dataset)


def find_truth(model: Supernet, dataset: str, args: argparse.Namespace) -> BenchmarkTable | None:
    """The benchmark's table if it is at hand; a search does not need it, so only one that was named must be there."""
    try:
        return find_table(model, dataset, args)
    except ValueError as error:
        if args.benchmark:
            raise
        _logger.warning(f'what the winner truly reaches is not reported: {error}')
        return None


def search_identity(
    model: Supernet, problem: Problem, dataset: str, images: tuple[Images, Images], args: argparse.Namespace
) -> dict[str, Any]:
    """What a study's values depend on; a search that differs in any of it is another search."""
    latency = None
    if args.latency_table:
        latency = f'{args.latency_device} of {sha256(args.latency_table)}'
    elif problem.latency is not None:
        latency = hardware_name(find_device(args.device))
    return {
        'model': model.pretrained_cfg['architecture'],
        'checkpoint_sha256': args.checkpoint_sha256,
        'ema': args.use_ema,
        'space': str(problem.space),
        'objectives': list(problem.objectives),
        'limits': problem.limits,
        'latency': latency,
        'dataset': dataset,
        'eval_images': len(images[1]),
        'images_sha256': [chosen.sha256() for chosen in images],
        'calib_batches': args.calib_batches,
        'calib_augment': args.calib_augment,
        'calib_momentum': args.calib_momentum,
        'amp_dtype': args.amp_dtype,
        'condnet': condnet.__version__,
    }
