"""A training from settings to checkpoint."""

import contextlib
import functools
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from timm.layers import is_fast_norm, set_fast_norm
from torch import nn

from condnet.data import Images, withheld_indices
from condnet.errors import CondnetError
from condnet.models import Supernet
from condnet.models.counts import describe_untrained
from condnet.ranking.evaluate import EvaluationData
from condnet.spaces.base import Arch
from condnet.training.best import describe_best
from condnet.training.build import Training, create_training, step_on_updates
from condnet.training.config import TrainConfig
from condnet.training.data import Batches, create_data, open_data
from condnet.training.log import describe_epoch, describe_start
from condnet.training.loggers import check_loggers, open_loggers
from condnet.training.loop import evaluate_fixed_archs, is_asked_to_stop, train_one_epoch
from condnet.training.optimization import current_rate
from condnet.training.output import Recorder, check_output, find_checkpoint
from condnet.training.progress import Progress
from condnet.training.resume import resume
from condnet.training.step import TrainingStep, compile_model
from condnet.utils.distributed import join_group
from condnet.utils.interrupt import Interrupted, deferred

_logger = logging.getLogger(__name__)
_EVAL_METRICS = ('loss', 'accuracy', 'seconds')
Callback = Callable[[dict[str, Any]], object]  # of a row of the history


@dataclass(frozen=True)
class TrainingRun:
    """What a training has made.

    Args:
        model: The trained model, on its device. A super-network as it is loaded from a checkpoint: with no architecture
            active, and to be calibrated for each.
        history: A row for every epoch, as in summary.csv: losses, accuracy in percent, learning rate, seconds; None
            where nothing was validated.
        output: Folder of its checkpoints and tables; None if there is none.
    """

    model: nn.Module
    history: list[dict[str, Any]]
    output: Path | None


def train(config: TrainConfig, callbacks: Sequence[Callback] = ()) -> TrainingRun:
    """Run a training. Without an output folder nothing is written, and `keep_epochs` does nothing.

    Args:
        config: Its settings.
        callbacks: Each is called with the row of the history after every epoch, while its checkpoint is written; of
            several processes, in the first one.

    Raises:
        CondnetError: If settings, data and checkpoint do not fit together, and then nothing is written; or if training
            cannot go on, because it has diverged or the disk is full.
        Interrupted: If a command is stopped by a signal, see `condnet.utils.interrupt`; a checkpoint is written before.
    """
    with _fast_norm(config.fast_norm):
        return _train(config, callbacks)


@contextlib.contextmanager
def _fast_norm(enabled: bool) -> Iterator[None]:
    """Have the models that are built use timm's fast normalisation, or not, whatever the caller has set."""
    before = is_fast_norm()
    set_fast_norm(enabled)
    try:
        yield
    finally:
        set_fast_norm(before)


def _train(config: TrainConfig, callbacks: Sequence[Callback]) -> TrainingRun:
    check_loggers(config)
    group, device = join_group(config.device)
    group.from_first(lambda: check_output(config))
    path, checkpoint = group.from_first(lambda: find_checkpoint(config))
    with group.first_ahead(config.download):
        images, settled = open_data(config, device, group, checkpoint)
        training = create_training(config, settled, device, group, checkpoint)
        progress = resume(training, checkpoint) if checkpoint else Progress()
        model = training.step.task.model
        data = create_data(config, settled, images, model.pretrained_cfg, device, group, isinstance(model, Supernet))
        training = step_on_updates(training, len(data[0]), progress)
    recorder, shown = Recorder(training), list(callbacks)
    with contextlib.ExitStack() as held:
        recorder.open(path, checkpoint, held)
        _announce(training, images, progress, path)
        group.from_first(lambda: shown.extend(open_loggers(training, progress.epoch, held)))
        try:
            with deferred():
                progress = train_epochs(training, data, progress, recorder, shown)
            recorder.finish()
        except KeyboardInterrupt as stop:
            if isinstance(stop, Interrupted):
                stop.kept = recorder.what_is_kept()
            raise
        except (FloatingPointError, OSError) as error:
            raise CondnetError(f'{error}; {recorder.what_is_left()}') from error
    group.leave()
    if isinstance(model, Supernet):
        model.set_active_subnet(None)
    return TrainingRun(model, progress.summary, recorder.folder)


def _announce(training: Training, images: Images | None, progress: Progress, resumed: Path | None) -> None:
    """Say what begins, or goes on."""
    parameters = sum(parameter.numel() for parameter in training.step.task.model.parameters())
    parts = None
    if images is not None:
        chosen, withheld = withheld_indices(images.targets)
        parts = len(chosen), len(withheld)
    _logger.info(describe_start(training.config, training.settled, parts, parameters))
    if resumed is not None:
        where = f', batch {progress.batch}' if progress.batch else ''
        _logger.info(f'resumed from {resumed}: goes on with epoch {progress.epoch}{where}')


def train_epochs(
    training: Training,
    data: tuple[Batches, EvaluationData | None],
    progress: Progress,
    recorder: Recorder,
    callbacks: Sequence[Callback] = (),
) -> Progress:
    """Train what is left of the epochs.

    Args:
        training: The training.
        data: Batches to train on, and what is checked after an epoch.
        progress: Where to start.
        recorder: Writes checkpoints and tables.
        callbacks: See `train`.

    Returns:
        How far it has come.

    Raises:
        FloatingPointError: If loss or weights are not finite.
        OSError: If a file cannot be written, or another process is lost.
    """
    config, step = training.config, training.step
    recorder.start(progress)
    last = config.stop_epoch or config.total_epochs
    for epoch in range(progress.epoch, last):
        if 0 < epoch == config.split_epoch and not step.task.model.is_split:
            split(step, config)
        row = train_epoch(training, data, progress, recorder)
        progress = Progress(epoch + 1, summary=[*progress.summary, row])
        number = is_asked_to_stop(step.group) if epoch + 1 < last else 0
        recorder.end_epoch(progress, stops=number > 0)
        _logger.info(describe_epoch(row, config.total_epochs))
        for callback in callbacks if step.group.is_first else ():
            callback(dict(row))
        if number:
            raise Interrupted(number)
    if best := describe_best(progress.summary, config):
        _logger.info(best)
    model = step.task.model
    if isinstance(model, Supernet):
        if warning := describe_untrained(model.space, None, step.task.untrained()):
            where = f'; see {recorder.folder / "counts.csv"}' if recorder.folder else ''
            _logger.warning(f'{warning}{where}')
    return progress


def split(step: TrainingStep, config: TrainConfig) -> None:
    """Split the super-network of a training."""
    before = step.task.model.num_weight_sets
    step.task.split(step.optimizer)
    if config.torchcompile:
        compile_model(step.task.model)
    model = step.task.model
    parameters = sum(parameter.numel() for parameter in model.parameters())
    _logger.info(f'split after epoch {config.split_epoch}: {before} weight sets become {model.num_weight_sets}, '
                 f'{parameters:,} parameters')  # fmt: skip


def train_epoch(
    training: Training, data: tuple[Batches, EvaluationData | None], progress: Progress, recorder: Recorder
) -> dict[str, Any]:
    """Train what is left of an epoch, check a few architectures, and step the learning rate.

    Returns:
        The epoch's row of the summary.

    Raises:
        FloatingPointError: If loss or weights are not finite.
        OSError: If a file cannot be written, or another process is lost.
    """
    config, step, epoch, (batches, images) = training.config, training.step, progress.epoch, data
    batches.set_epoch(epoch)
    if step.mixing is not None:
        step.mixing.set_epoch(epoch)
    metrics = train_one_epoch(step, batches, progress, config, recorder.save, training.scheduler)
    lr = current_rate(step.optimizer)  # of the epoch, or after its last update
    due = config.eval_interval and ((epoch + 1) % config.eval_interval == 0 or epoch == config.total_epochs - 1)
    checked: dict[str, Any] = dict.fromkeys(_EVAL_METRICS)
    if images is not None and due:
        # Compiled code would be compiled anew for the recalibration of every architecture.
        with torch.compiler.set_stance('force_eager') if config.torchcompile else contextlib.nullcontext():
            checked = evaluate_fixed_archs(step.task, fixed_archs(step.task.model, config.eval_archs), images)
    # Plateau goes by one kind of loss, and the processes of different GPUs may differ in the last digit of it.
    loss = metrics['loss'] if images is None else checked['loss'] if due else None
    training.scheduler.step(epoch + 1, step.group.from_first(functools.partial(lambda value: value, loss)))
    return {'epoch': epoch} | _prefixed('train_', metrics) | _prefixed('eval_', checked) | {'lr': lr}


def _prefixed(prefix: str, metrics: dict[str, Any]) -> dict[str, Any]:
    return {prefix + name: value for name, value in metrics.items()}


def fixed_archs(model: nn.Module, num: int) -> list[Arch]:
    """The sample of architectures that is validated while a super-network trains."""
    return model.space.sample_distinct(min(num, model.space.size), seed=0) if isinstance(model, Supernet) else []
