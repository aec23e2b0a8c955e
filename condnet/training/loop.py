"""One epoch of training, and the check after it on a few fixed architectures."""

import logging
import math
import time
from collections.abc import Callable

import torch
from timm.scheduler.scheduler import Scheduler
from torch.nn.utils import get_total_norm
from tqdm import tqdm

from condnet.data import InMemoryLoader, TimmLoader
from condnet.models import Supernet
from condnet.models.counts import describe_untrained
from condnet.ranking.evaluate import EvaluationData, accuracy_and_loss, calibrated_for
from condnet.spaces.base import Arch
from condnet.training.config import TrainConfig
from condnet.training.log import LogLines, epoch_bar
from condnet.training.optimization import current_rate
from condnet.training.progress import Progress
from condnet.training.step import TrainingStep
from condnet.training.task import SupernetTask
from condnet.utils.distributed import Group
from condnet.utils.interrupt import Interrupted, asked
from condnet.utils.memory import peak_memory_mb

_logger = logging.getLogger(__name__)


class Epoch:
    """An epoch that is being trained: keeps time, counts, and looks at the losses now and then.

    To look at a loss makes the CPU wait for a GPU. There it is not done after every step, but whenever it is done
    anyway: no checkpoint is written, and no epoch ends, before every loss so far was looked at.

    Args:
        step: What is done with a batch.
        progress: Where to start; it is kept up to date.
        config: How often the losses are looked at, and a checkpoint is saved.
        num_batches: Batches of the epoch.
        bar: Shows it, in the place of lines in the log.
        scheduler: The schedule of the learning rate, if it is stepped after every update.
    """

    def __init__(
        self,
        step: TrainingStep,
        progress: Progress,
        config: TrainConfig,
        num_batches: int,
        bar: tqdm | None = None,
        scheduler: Scheduler | None = None,
    ) -> None:
        self.step, self.progress, self.config, self.num_batches = step, progress, config, num_batches
        self.bar, self.scheduler = tqdm(disable=True) if bar is None else bar, scheduler
        self.total = torch.tensor(progress.loss, device=step.task.device)
        self.losses: list[torch.Tensor] = []  # not looked at yet
        self.log = LogLines(progress, num_batches, config.stop_epoch or config.total_epochs)
        self.started = time.perf_counter() - progress.seconds
        self.waiting_since = time.perf_counter()

    def train(self, input: torch.Tensor, target: torch.Tensor) -> None:
        """Train on a batch, and count it, over all processes."""
        self.progress.waited += time.perf_counter() - self.waiting_since
        loss = self.step(input, target)
        self.losses.append(loss)
        num_images = len(input) * self.step.group.size
        self.total += loss * num_images
        self.progress.batch += 1
        self.progress.images += num_images
        if self.scheduler is not None:  # one that is stepped per epoch does nothing here
            self.scheduler.step_update(self.progress.epoch * self.num_batches + self.progress.batch)

    def follow_up(self, save: Callable[[Progress], None]) -> None:
        """Log, check and save, whatever is due after a batch."""
        progress, task = self.progress, self.step.task
        is_last = progress.batch == self.num_batches
        logs = is_last or (progress.batch - 1) % self.config.log_interval == 0
        interval = self.config.recovery_interval
        saves = not is_last and interval > 0 and progress.batch % interval == 0
        looks = task.device.type == 'cpu' or logs or saves
        number = 0 if is_last else is_asked_to_stop(self.step.group, looks)
        saves = saves or number > 0
        if looks or saves:
            self._look()
        if saves or is_last:
            self.step.average_statistics()  # before the check, which all processes then pass, or none
            check_weights(task, self.step.optimizer, progress)
        self.bar.update()
        if logs:
            self._report()
        if saves:
            save(progress)
        if number:
            raise Interrupted(number)
        self.waiting_since = time.perf_counter()

    def _report(self) -> None:
        """Say how the training goes, where it is shown."""
        if self.bar.disable:
            _logger.info(self.log.line(self.progress))
            return
        rate = current_rate(self.step.optimizer)
        self.bar.set_postfix_str(f'rate {rate:.3g}, {self.log.numbers(self.progress)}')

    def _look(self) -> None:
        """Check all losses since the last look, and bring the progress up to date."""
        check_losses(self.step.task, self.step.optimizer, self.losses, self.progress)
        self.step.check_scale()
        self.losses.clear()
        self.progress.loss, self.progress.seconds = float(self.total), time.perf_counter() - self.started


def is_asked_to_stop(group: Group, is_time: bool = True) -> int:
    """The signal, see `condnet.utils.interrupt`, that has come to a process of the training; 0 for none.

    Args:
        group: The processes; all of them stop after the same step.
        is_time: Whether several processes may ask each other now; one alone always knows.

    Raises:
        ConnectionError: If another process is lost.
    """
    if group.size == 1:
        return asked()
    return group.largest(asked()) if is_time else 0


def train_one_epoch(
    step: TrainingStep,
    batches: InMemoryLoader | TimmLoader,
    progress: Progress,
    config: TrainConfig,
    save: Callable[[Progress], None] = lambda progress: None,
    scheduler: Scheduler | None = None,
) -> dict[str, float]:
    """Train on what is left of an epoch.

    Args:
        step: What is done with a batch.
        batches: Those of the whole epoch.
        progress: Where to start; it is kept up to date.
        config: How often the log has a line, and a checkpoint is saved. The end of the epoch is left to the caller.
        save: Writes a checkpoint; weights that are not finite never come to it.
        scheduler: The schedule of the learning rate, if it is stepped after every update.

    Returns:
        Of the epoch: mean loss, seconds, the share of them spent on loading and augmenting, images per second and peak
        memory so far (MB).

    Raises:
        FloatingPointError: If the loss is not finite, or the weights when they are to be saved.
        Interrupted: If a signal has come, after a step; a checkpoint is saved then.
        ConnectionError: If another process is lost.
    """
    step.task.train()
    with epoch_bar(progress, len(batches), step.group.is_first) as bar:
        epoch = Epoch(step, progress, config, len(batches), bar, scheduler)
        for input, target in batches.batches(progress.batch):
            epoch.train(input, target)
            epoch.follow_up(save)
    return _metrics(progress, step.task.device)


def _metrics(progress: Progress, device: torch.device) -> dict[str, float]:
    return {
        'loss': progress.loss / progress.images,
        'seconds': round(progress.seconds, 2),
        'loader_share': round(progress.waited / progress.seconds, 4),
        'images_per_second': round(progress.images / progress.seconds, 1),
        'peak_memory_mb': round(peak_memory_mb(device), 1),
    }


def check_losses(
    task: SupernetTask, optimizer: torch.optim.Optimizer, losses: list[torch.Tensor], progress: Progress
) -> float:
    """Check the losses of the last steps.

    Returns:
        The last one.

    Raises:
        FloatingPointError: If one is not finite; it says which.
    """
    values = torch.stack(losses).tolist()
    for i, value in enumerate(values):
        if not math.isfinite(value):
            where = _describe_step(task, optimizer, progress, len(values) - 1 - i)
            raise FloatingPointError(f'the loss is {value} at {where}; lower the learning rate')
    last: float = values[-1]
    return last


def check_weights(task: SupernetTask, optimizer: torch.optim.Optimizer, progress: Progress) -> None:
    """Check weights and statistics: a step can ruin them although its own loss, computed before, was finite.

    Raises:
        FloatingPointError: If one is not finite.
    """
    values = {name: value for name, value in task.model.state_dict().items() if value.is_floating_point()}
    if get_total_norm(values.values()).isfinite():  # read once: every single value would be waited for
        return
    for name, value in values.items():
        if not value.isfinite().all():
            where = _describe_step(task, optimizer, progress)
            raise FloatingPointError(f'{name} is not finite after {where}; lower the learning rate')


def _describe_step(task: SupernetTask, optimizer: torch.optim.Optimizer, progress: Progress, back: int = 0) -> str:
    """The last step, or one so many steps back in the same epoch."""
    step = task.step - 1 - back
    where = f'step {step} (epoch {progress.epoch}, batch {progress.batch - 1 - back}'
    if isinstance(task.model, Supernet):
        space = task.model.space
        where += f', architecture {" ".join(map(space.format, task.archs_of(step)))}'
    return f'{where}, learning rate {current_rate(optimizer):g})'


def evaluate_fixed_archs(task: SupernetTask, archs: list[Arch], data: EvaluationData) -> dict[str, float]:
    """Mean validation loss and accuracy of some architectures, recalibrated (the curves of the paper's Figure 7).

    A stand-alone network is validated as it is, and no architectures are needed. A loss that is not finite is no reason
    to end a training, and is recorded as it is.
    """
    started = time.perf_counter()
    if isinstance(task.model, Supernet):
        if warning := describe_untrained(task.model.space, archs, task.untrained()):
            _logger.warning(f'of what is validated, {warning}')
        results = []
        for arch in archs:
            with calibrated_for(task.model, arch, data):
                results.append(accuracy_and_loss(task.model, data))
    else:
        results = [accuracy_and_loss(task.model, data)]
    return {
        'loss': sum(loss for _, loss in results) / len(results),
        'accuracy': sum(accuracy for accuracy, _ in results) / len(results),
        'seconds': round(time.perf_counter() - started, 2),
    }
