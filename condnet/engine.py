"""One epoch of training, and the check after it on a few fixed architectures."""

import logging
import math
import resource
import sys
import time
from collections.abc import Iterable

import torch
from tqdm import tqdm

from condnet.models import Supernet
from condnet.ranking import EvaluationData, accuracy_and_loss, evaluate_subnet
from condnet.spaces import Arch
from condnet.task import SupernetTask

_logger = logging.getLogger('train')


def train_one_epoch(
    task: SupernetTask,
    optimizer: torch.optim.Optimizer,
    batches: Iterable[tuple[torch.Tensor, torch.Tensor]],
    epoch: int,
    num_batches: int,
    log_interval: int = 50,
) -> dict[str, float]:
    """Train on every batch once.

    Returns:
        Mean loss, seconds, the share of them spent on loading and augmenting, images per second and peak memory (MiB).

    Raises:
        ValueError: If the loss is not finite.
    """
    task.train()
    total, images, started = torch.zeros((), device=task.device), 0, time.perf_counter()
    waited, waiting_since = 0.0, started
    progress = tqdm(batches, f'epoch {epoch}', num_batches, leave=False, disable=not sys.stderr.isatty())
    for i, (input, target) in enumerate(progress):
        waited += time.perf_counter() - waiting_since
        loss = task(input, target)['loss']
        optimizer.zero_grad(set_to_none=True)  # what is not sampled has no gradient, and stays as it is
        loss.backward()
        optimizer.step()
        task.update_ema(step=task.step)
        total += loss.detach() * len(input)
        images += len(input)
        if i % log_interval == 0 or i == num_batches - 1:
            _log_progress(task, epoch, i, num_batches, float(loss.detach()), images / (time.perf_counter() - started))
        waiting_since = time.perf_counter()
    seconds = time.perf_counter() - started
    return {
        'loss': float(total) / images,
        'seconds': round(seconds, 2),
        'loader_share': round(waited / seconds, 4),
        'images_per_second': round(images / seconds, 1),
        'peak_memory_mb': round(peak_memory_mb(task.device), 1),
    }


def _log_progress(task: SupernetTask, epoch: int, batch: int, num_batches: int, loss: float, speed: float) -> None:
    if not math.isfinite(loss):
        arch = getattr(task.model, 'active_subnet', None)
        where = f'epoch {epoch}, batch {batch}, architecture {arch}'
        raise ValueError(f'the loss is {loss} at {where}; lower the learning rate')
    _logger.info(f'epoch {epoch} [{batch + 1}/{num_batches}] loss {loss:.4f} {speed:.0f} images/s')


def evaluate_fixed_archs(task: SupernetTask, archs: list[Arch], data: EvaluationData) -> dict[str, float]:
    """Mean validation loss and accuracy of some architectures, recalibrated (the curves of the paper's Figure 7).

    A stand-alone network is validated as it is, and no architectures are needed.
    """
    started = time.perf_counter()
    if isinstance(task.model, Supernet):
        results = [evaluate_subnet(task.model, arch, data) for arch in archs]
        accuracies, losses = [result.accuracy for result in results], [result.loss for result in results]
    else:
        accuracies, losses = ([value] for value in accuracy_and_loss(task.model, data))
    return {
        'loss': sum(losses) / len(losses),
        'accuracy': sum(accuracies) / len(accuracies),
        'seconds': round(time.perf_counter() - started, 2),
    }


def peak_memory_mb(device: torch.device) -> float:
    """Peak memory in MiB: what was allocated on a GPU, or the process's resident memory on the CPU."""
    if device.type == 'cuda':
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == 'darwin' else 2**10)
