"""A search from super-network to results."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import timm
import torch
from optuna.storages import BaseStorage, InMemoryStorage

from condnet.benchmarks.registry import find_benchmark
from condnet.benchmarks.tables import BenchmarkTable
from condnet.checkpoints.loading import sha256
from condnet.errors import CondnetError
from condnet.models import Supernet
from condnet.ranking.costs import NetworkCosts
from condnet.ranking.inputs import (
    Benchmark,
    ChosenImages,
    Data,
    PreparedImages,
    find_table,
    open_evaluation_images,
    with_data,
)
from condnet.ranking.run import for_model
from condnet.ranking.subject import Model, Subject, open_supernet
from condnet.ranking.tree import predict
from condnet.reports.page import check_report_package
from condnet.searching.config import SearchConfig
from condnet.searching.export import check_onnx_packages
from condnet.searching.latency import MeasuredLatency, read_latency_table
from condnet.searching.problem import Problem, check_select_by, select_by
from condnet.searching.report import true_result
from condnet.searching.result import SearchResult
from condnet.searching.storage import open_storage, storage_errors
from condnet.searching.study import evaluated_candidates, open_study, pareto_front, run_study
from condnet.spaces.base import Arch
from condnet.utils.device import find_device, hardware_name
from condnet.utils.files import check_folder_to_write
from condnet.utils.settings import make_config
from condnet.version import __version__

_logger = logging.getLogger(__name__)


def search(
    model: Model,
    data: Data | None = None,
    benchmark: Benchmark | None = None,
    config: 'SearchConfig | Any' = None,
    **settings: Any,
) -> SearchResult:
    """Search for architectures with a super-network.

    Nothing is printed, and nothing written unless `output` says where. Without `output` and `storage` the study is
    kept in memory.

    Args:
        model: Training checkpoint, folder of a model, name of a pretrained one, or a super-network, which is left as
            it is (and evaluated on the device that it is on, if none is set).
        data: What to evaluate on, see `condnet.rank`.
        benchmark: Ground truth to report what the winner truly reaches: file, directory or table; False for none.
        config: What is searched for and how; by default `SearchConfig()`. An `EvalConfig` will do.
        **settings: Fields of `SearchConfig`, which take precedence.

    Raises:
        CondnetError: If super-network, data, tables and storage do not fit together.
        OSError: If a disk is full. What was evaluated is in the storage then.
    """
    config = make_config(SearchConfig, config, for_model(model, config, settings))
    if config.onnx:
        check_onnx_packages()
    if config.output is not None:
        check_folder_to_write(Path(config.output))
        if config.report:
            check_report_package()
    result = _search(model, data, benchmark, config)
    if config.output is not None:
        result.write(Path(config.output), config.onnx, config.report)
        if config.storage is None:
            result.files.append(_journal(config))
    return result


def _search(model: Model, data: Data | None, benchmark: Benchmark | None, config: SearchConfig) -> SearchResult:
    subject, config = open_supernet(model, config), with_data(config, data)
    images = open_evaluation_images(subject, config, data)
    problem = make_problem(subject.model, images, config)
    if config.select_by:
        check_select_by(problem, config.select_by)
    feasible = problem.feasible()
    table = find_truth(subject.model, images.dataset, config, benchmark)
    identity = search_identity(subject, problem, images, config)
    evaluation = images.prepare(subject.model, config)
    with _quiet_optuna(), storage_errors():
        study = open_study(problem, _open_storage(config), config.study_name, identity)
        run_study(study, problem, lambda archs: predict(subject.model, archs, evaluation), config.num_evals,
                  config.sampler, config.seed)  # fmt: skip
        candidates, front = evaluated_candidates(study, problem), pareto_front(study, problem)
    if not candidates:
        raise CondnetError('no proposal was within the limits; expected less tight ones')
    if config.select_by:
        candidates = select_by(candidates, config.select_by)
    truth = None if table is None else true_result(table, problem, candidates[0], feasible, len(candidates))
    counts = {
        'num_evals': len(candidates),
        'num_proposals': len(study.get_trials(deepcopy=False)),
        'num_feasible': None if feasible is None else len(feasible),
    }
    facts = {
        **identity,
        'sampler': config.sampler,
        'seed': config.seed,
        'training': subject.training,
        'calibration': images.facts(config)['calibration'],  # of fewer images it has fewer batches than asked for
        'data_match': images.match,
        **({'selected_by': config.select_by} if config.select_by else {}),
        **({'latency_device': config.latency_device} if config.latency_table else {}),
        'hardware': hardware_name(find_device(config.device)),
        'versions': {'torch': torch.__version__, 'timm': timm.__version__, 'optuna': optuna.__version__},
    }
    return SearchResult(problem, candidates, front, truth, subject.model, evaluation, counts, facts, table=table)


@contextmanager
def _quiet_optuna() -> Iterator[None]:
    """Have Optuna log warnings only."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(verbosity)


def _open_storage(config: SearchConfig) -> BaseStorage:
    if config.storage is None and config.output is None:
        return InMemoryStorage()
    return open_storage(config.storage or str(_journal(config)))


def _journal(config: SearchConfig) -> Path:
    """Where the study is kept if nothing else is said."""
    return Path(str(config.output)) / 'study.journal'


def make_problem(model: Supernet, images: ChosenImages | PreparedImages, config: SearchConfig) -> Problem:
    """What the settings ask for. Costs are those of the networks that would be exported.

    Raises:
        CondnetError: If they contradict each other.
    """
    limits, objectives, dataset = config.limits, config.objective_names, images.dataset
    size = images.input_size(model)
    latency: Callable[[Arch], float] | None = None
    if config.latency_table:
        if dataset != 'cifar10' and find_benchmark(model.space.name, dataset):
            raise CondnetError(f'`latency_table` is of the networks for CIFAR-10, those for {dataset} are others; '
                               'leave it out to measure them')  # fmt: skip
        latency = read_latency_table(config.latency_table, model.space, config.latency_device).__getitem__
    elif 'latency' in (*objectives, *limits):
        if config.sampler == 'grid' and 'latency' in limits:
            raise CondnetError('`sampler` grid with `max_latency` needs `latency_table`; the latency of every '
                               'architecture would have to be measured first')  # fmt: skip
        latency = MeasuredLatency(model, size, find_device(config.device))
    return Problem(model.space, objectives, limits, latency, NetworkCosts.of(model, size))


def find_truth(
    model: Supernet, dataset: str, config: SearchConfig, benchmark: Benchmark | None = None
) -> BenchmarkTable | None:
    """The benchmark's table if it is at hand; a search does not need it, so only one that was named must be there."""
    try:
        return find_table(model, dataset, config, benchmark)
    except ValueError as error:
        if config.benchmark or benchmark:
            raise
        _logger.warning(f'what the winner truly reaches is not reported: {error}')
        return None


def search_identity(
    subject: Subject[Supernet], problem: Problem, images: ChosenImages | PreparedImages, config: SearchConfig
) -> dict[str, Any]:
    """What a study's values depend on; a search that differs in any of it is another search."""
    latency = None
    if config.latency_table:
        latency = f'{config.latency_device} of {sha256(config.latency_table)}'
    elif problem.latency is not None:
        latency = hardware_name(find_device(config.device))
    return {
        'model': subject.model.pretrained_cfg['architecture'],
        'checkpoint_sha256': subject.sha256,
        'ema': config.use_ema,
        'space': str(problem.space),
        'objectives': list(problem.objectives),
        'limits': problem.limits,
        'latency': latency,
        'costs': f'networks of {"x".join(map(str, images.input_size(subject.model)))} images',
        'dataset': images.dataset,
        **{key: value for key, value in images.facts(config).items() if key in ('eval_images', 'images_sha256')},
        'calib_batches': config.calib_batches,
        'calib_augment': config.calib_augment,
        'calib_momentum': config.calib_momentum,
        'amp_dtype': config.amp_dtype,
        'condnet': __version__,
    }
