"""Architecture search with a trained super-network: the `condnet-search` command, and what it reports.

`condnet.study` searches. Here are its results: the best architectures, the Pareto front, and the winner as a network of
its own.
"""

import argparse
import csv
import io
import json
import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import timm
import torch

import condnet
from condnet.benchmarks import BenchmarkTable, find_benchmark
from condnet.checkpoint import sha256, write_file
from condnet.commands import check_folder_to_write, check_numbers, find_device, hardware_name, run
from condnet.data import Images
from condnet.errors import CondnetError
from condnet.export import calibrated_subnet, check_onnx_packages, export_network, export_onnx
from condnet.latency import MeasuredLatency, read_latency_table
from condnet.locks import Lock
from condnet.models import Supernet
from condnet.plugins import add_import_flag, import_plugins
from condnet.ranking import EvaluationData, predict
from condnet.spaces import Arch
from condnet.study import (
    LIMITS,
    OBJECTIVES,
    PREDICTED,
    SAMPLERS,
    Candidate,
    Problem,
    evaluated_candidates,
    open_storage,
    open_study,
    pareto_front,
    search,
    storage_errors,
)
from condnet.validate import (
    add_evaluation_flags,
    check_evaluation_flags,
    find_table,
    load_evaluation_images,
    load_supernet,
    prepare_data,
)

_logger = logging.getLogger('search')


def expected_best(values: Iterable[float], num: int) -> float:
    """Expectation of the greatest of `num` values drawn at random without replacement.

    It is exact: the i-th greatest of N values is the best of those drawn with the chance
    C(N - 1 - i, num - 1) / C(N, num), i = 0, 1, ...
    """
    ordered = np.sort(np.fromiter(values, dtype=np.float64))[::-1]
    total, num = len(ordered), min(num, len(ordered))
    places = np.arange(total - num)
    ratios = (total - places - num) / (total - places - 1)  # of the chance of a place to that of the one before
    chances = num / total * np.cumprod(np.concatenate(([1.0], ratios)))
    return float(np.dot(chances, ordered[: len(chances)]))


def true_result(
    table: BenchmarkTable, problem: Problem, winner: Candidate, feasible: list[Arch] | None, num_evals: int
) -> dict[str, Any]:
    """What the winner truly reaches, and what random search reaches among the architectures within the limits.

    Args:
        table: Ground truth.
        problem: What was searched for.
        winner: The architecture that was found.
        feasible: Architectures within the limits; None if they are not known, and neither are ranks then.
        num_evals: How many architectures were evaluated.

    Returns:
        `accuracy`; `rank` (1 is best) among `num_archs`; of that set: `best`; `random`, its mean, what an architecture
        at random reaches; `random_search`, expected of the truly best of `num_evals` random ones, which is more than
        random search with the same super-network can reach.
    """
    truth = dict(zip(table.indices.tolist(), table.accuracy.tolist(), strict=True))
    result = {'accuracy': truth.get(problem.space.index(winner.arch))}
    if result['accuracy'] is None or feasible is None:
        return result
    values = [truth[index] for index in map(problem.space.index, feasible) if index in truth]
    return {
        **result,
        'rank': 1 + sum(value > result['accuracy'] for value in values),
        'num_archs': len(values),
        'best': max(values),
        'random': sum(values) / len(values),
        'random_search': expected_best(values, num_evals),
    }


def write_architectures(path: Path, problem: Problem, candidates: list[Candidate], front: set[Arch]) -> None:
    """Write every evaluated architecture as CSV, best first, with its costs and whether it is on the Pareto front."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator='\n')
    writer.writerow(['index', 'arch', *candidates[0].attributes(), 'front'])
    for candidate in candidates:
        names = problem.space.index(candidate.arch), problem.space.format(candidate.arch)
        writer.writerow([*names, *map(repr, candidate.attributes().values()), int(candidate.arch in front)])
    write_file(path, text.getvalue().encode())


_LABELS = {
    'accuracy': 'predicted accuracy (%)',
    'loss': 'predicted loss',
    'params': 'parameters',
    'flops': 'FLOPs',
    'latency': 'latency (ms)',
}


def plot_candidates(problem: Problem, candidates: list[Candidate], front: set[Arch]) -> bytes:
    """Plot of the evaluated architectures, the Pareto front and the limit, as PNG."""
    from matplotlib.figure import Figure  # slow to import, and without pyplot no display is asked for

    asked = (*(name for name in problem.objectives if name not in PREDICTED), *problem.limits, *candidates[0].costs)
    other = next(name for name in PREDICTED if name != problem.decides)
    cost = asked[0] if asked else other  # where nothing is known of costs
    chosen = [candidate for candidate in candidates if candidate.arch in front]
    groups = (
        (f'{len(candidates)} evaluated', candidates, {'s': 14, 'linewidths': 0, 'alpha': 0.5}),
        ('Pareto front', chosen, {'s': 40, 'facecolors': 'none', 'edgecolors': 'tab:orange'}),
        ('winner', candidates[:1], {'s': 120, 'marker': '*', 'color': 'tab:red'}),
    )
    figure = Figure(figsize=(6, 4.2), layout='constrained')
    ax = figure.subplots()
    for label, group, style in groups:
        ax.scatter([c.value(cost) for c in group], [c.value(problem.decides) for c in group], label=label, **style)
    if cost in problem.limits:
        ax.axvline(problem.limits[cost], color='gray', linestyle='--', label='limit')
    ax.set(xlabel=_LABELS[cost], ylabel=_LABELS[problem.decides], title=str(problem.space))
    ax.grid(alpha=0.3)
    ax.legend()
    stream = io.BytesIO()
    figure.savefig(stream, format='png', dpi=110)
    return stream.getvalue()


# The command


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


def describe_candidate(problem: Problem, candidate: Candidate) -> dict[str, Any]:
    """A candidate, for the summary."""
    index, arch = problem.space.index(candidate.arch), problem.space.format(candidate.arch)
    return {'index': index, 'arch': arch, **candidate.attributes()}


def export_winner(
    model: Supernet, winner: Candidate, data: EvaluationData, output: Path, args: argparse.Namespace
) -> dict[str, Any]:
    """Write the winner as a network of its own, and return what it costs and scores."""
    net = calibrated_subnet(model, winner.arch, data)
    network = export_network(net, output / 'network', args.training, data)
    if args.onnx:
        network['onnx_difference'] = export_onnx(net, output / 'network.onnx', data.images[: data.batch_size])
    return network


def format_summary(summary: dict[str, Any]) -> str:
    """The result in a few lines, for the terminal."""
    winner, network, truth = summary['winner'], summary['network'], summary['truth']
    costs = [f'{winner["params"]:,} parameters', f'{winner["flops"]:,} FLOPs'] if 'flops' in winner else []
    costs += [f'{winner["latency"]:.3g} ms'] if 'latency' in winner else []
    front = f', {len(summary["front"])} on the Pareto front of {", ".join(summary["objectives"])}'
    front = front if len(summary['objectives']) > 1 else ''  # of one objective it is the ties for the best
    lines = [
        f'{summary["model"]} ({summary["space"]}): {summary["num_evals"]} architectures evaluated{front}',
        f'winner: {winner["arch"]} (index {winner["index"]})',
        f'  predicted: accuracy {winner["accuracy"]:.2f}, loss {winner["loss"]:.4f}',
        *([f"  benchmark's network: {', '.join(costs)}"] if costs else []),
        f'  exported network: {network["params"]:,} parameters, {network["flops"]:,} FLOPs, accuracy '
        f'{network["accuracy"]:.2f}',
    ]
    if truth and truth['accuracy'] is not None:
        lines.append(f'  truth: accuracy {truth["accuracy"]:.2f}')
        if 'rank' in truth:
            lines[-1] += (
                f', rank {truth["rank"]} of {truth["num_archs"]} within the limits (best {truth["best"]:.2f}, mean '
                f'{truth["random"]:.2f}); the truly best of {summary["num_evals"]} random ones: '
                f'{truth["random_search"]:.2f} expected'
            )
    return '\n'.join(lines)


if __name__ == '__main__':
    sys.exit(main())
