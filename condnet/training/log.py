"""What the log of a training says."""

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from condnet.training.config import Settled, TrainConfig
from condnet.training.progress import Progress


class LogLines:
    """Lines within an epoch: what they say is of the batches since the last one, in this run.

    Args:
        progress: Where the epoch is taken up.
        num_batches: Batches of an epoch.
        epochs: Epochs after which the training ends.
    """

    def __init__(self, progress: Progress, num_batches: int, epochs: int) -> None:
        self.num_batches, self.epochs = num_batches, epochs
        self.before = progress.loss, progress.images, progress.seconds
        self.begun = progress.batch, progress.seconds

    def line(self, progress: Progress) -> str:
        """The line after a batch."""
        return f'epoch {progress.epoch} [{progress.batch}/{self.num_batches}] {self.numbers(progress)}'

    def numbers(self, progress: Progress) -> str:
        """What it says of the batches."""
        loss, images, seconds = (now - then for now, then in zip(_sums(progress), self.before, strict=True))
        self.before = _sums(progress)
        return f'loss {loss / images:.4f} {images / seconds:.0f} images/s, {self._end(progress)}'

    def _end(self, progress: Progress) -> str:
        """When the training may end, without the checks after the epochs to come."""
        batch, seconds = self.begun
        left = (self.epochs - progress.epoch) * self.num_batches - progress.batch
        remaining = left * (progress.seconds - seconds) / (progress.batch - batch)
        checks = [row['eval_seconds'] for row in progress.summary if row['eval_seconds'] is not None]
        share = len(checks) / max(1, len(progress.summary))
        checking = sum(checks) / max(1, len(checks)) * share * (self.epochs - progress.epoch)
        return f'{describe_seconds(remaining + checking)} left'


@contextlib.contextmanager
def epoch_bar(progress: Progress, num_batches: int, is_first: bool) -> Iterator[tqdm]:
    """A bar of what is left of an epoch, with the log above it; a bar that does nothing where there is no terminal.

    Args:
        progress: Where the epoch is taken up.
        num_batches: Batches of the epoch.
        is_first: Whether this process logs.
    """
    is_shown = is_first and sys.stderr.isatty() and _has_width()
    with (
        tqdm(
            desc=f'epoch {progress.epoch}',
            total=num_batches,
            initial=progress.batch,
            leave=False,
            disable=not is_shown,
            dynamic_ncols=True,
            bar_format='{l_bar}{bar}| {n_fmt}/{total_fmt}{postfix}',
        ) as bar,
        logging_redirect_tqdm() if is_shown else contextlib.nullcontext(),
    ):
        yield bar


def _has_width() -> bool:
    """Whether there is room for a bar: a terminal without a size, as some job systems make, would show nothing."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns > 0
    except OSError:  # no file of the system
        return True


def _sums(progress: Progress) -> tuple[float, int, float]:
    return progress.loss, progress.images, progress.seconds


def describe_seconds(seconds: float) -> str:
    """A duration, to the second below an hour."""
    minutes, rest = divmod(round(seconds), 60)
    return f'{minutes}:{rest:02}' if minutes < 60 else f'{minutes // 60} h {minutes % 60:02} min'


def describe_epoch(row: Mapping[str, Any], epochs: int) -> str:
    """The result of an epoch, a row of the summary, in words."""
    loss, rate = row['train_loss'], row['lr']
    parts = [f'training loss {loss:.4f}', f'{row["train_images_per_second"]:.0f} images/s', f'learning rate {rate:.3g}']
    if row['eval_loss'] is not None:
        parts.insert(1, f'validation loss {row["eval_loss"]:.4f}, accuracy {row["eval_accuracy"]:.2f}%')
    return f'epoch {row["epoch"]} done, of {epochs}: {", ".join(parts)}'


def describe_start(config: TrainConfig, settled: Settled, images: tuple[int, int] | None, parameters: int) -> str:
    """What is trained, on what, and how: the first line of the log.

    Args:
        config: The settings.
        settled: What data and machine have settled.
        images: How many are trained on, and how many are withheld; None if that is not known.
        parameters: Of the model.
    """
    size = 'x'.join(map(str, settled.input_size))
    numbers = '' if images is None else f', {images[0]:,} images and {images[1]:,} withheld'
    epochs = f'{config.total_epochs} epoch{"s" if config.total_epochs > 1 else ""}' + (
        f', split after {config.split_epoch}' if config.split_epoch else ''
    )
    many = f' in {settled.num_processes} processes' if settled.num_processes > 1 else ''
    return (f'{config.model}, {parameters:,} parameters; {settled.data_name or config.data_dir}{numbers}, '
            f'{settled.num_classes} classes, {size}; {epochs}, batches of {config.batch_size}, {config.opt} with '
            f'learning rate {config.lr:g} ({config.sched}); {settled.hardware or config.device}{many}')  # fmt: skip
