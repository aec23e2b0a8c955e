"""The folder of a training: checkpoints, settings, and tables."""

import contextlib
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from condnet.checkpoints.training import (
    LAST,
    PREVIOUS,
    find_training_checkpoint,
    save_training_checkpoint,
    snapshot,
    training_checkpoints,
)
from condnet.errors import CondnetError
from condnet.models import Supernet
from condnet.models.counts import counts_table
from condnet.training.best import best_epochs, check_best, keep_best
from condnet.training.build import Training
from condnet.training.config import TrainConfig, recorded_args
from condnet.training.optimization import schedule_state
from condnet.training.progress import Progress
from condnet.training.resume import random_state
from condnet.utils.background import Background
from condnet.utils.csvfile import write_csv
from condnet.utils.files import check_folder_to_write, write_file
from condnet.utils.locks import Lock
from condnet.utils.settings import SettingError

_logger = logging.getLogger(__name__)


def check_output(config: TrainConfig) -> None:
    """Check, without a trace, that what the settings ask for can be written.

    Raises:
        CondnetError: If it cannot, or there is no folder for it.
    """
    if config.folder is not None:
        check_folder_to_write(config.folder)
        return
    for name in ('recovery_interval', 'checkpoint_seconds', 'eval_metric', 'experiment', 'log_wandb', 'tensorboard'):
        if value := getattr(config, name):
            shown = f'{value:g}' if isinstance(value, float) else value
            raise SettingError(name, f'is {shown}, and there is no folder to write to: set `output`')


def find_checkpoint(config: TrainConfig) -> tuple[Path | None, dict[str, Any] | None]:
    """The checkpoint to go on from, and its file; None for a training from the start.

    Raises:
        CondnetError: If there should be one, and there is none that can be read.
    """
    if not config.resume:
        return None, None
    output = config.folder
    if output is not None and _is_same(config.resume, output) and not training_checkpoints(output):
        _logger.info(f'there is no checkpoint in {output} yet: training starts from the beginning')
        return None, None
    return find_training_checkpoint(Path(config.resume))


def _is_same(one: str | Path, other: str | Path) -> bool:
    return Path(one).resolve() == Path(other).resolve()


class Recorder:
    """Writes what a training leaves behind into its folder; without a folder, nothing. The first process does it.

    A checkpoint holds everything that the other files are written from. So it is written first, and they are written
    again at the start: whatever an interruption cut off there is made up for. The training goes on meanwhile, until the
    next checkpoint is due.

    Args:
        training: The training.
    """

    def __init__(self, training: Training) -> None:
        self.training, self.group = training, training.step.group
        self.folder = training.config.folder
        self.resumed: Path | None = None  # the checkpoint that the training goes on from
        self.background, self.last_saved = Background(), time.monotonic()

    def open(self, resumed: Path | None, checkpoint: dict[str, Any] | None, held: contextlib.ExitStack) -> None:
        """Make the folder. In one that is continued, the checkpoint that was read becomes the last one.

        Args:
            resumed: The file of the checkpoint that was read.
            checkpoint: What was read; None for a training from the start.
            held: Holds what keeps other trainings out.

        Raises:
            CondnetError: If another training is there, or is running there, or was a moment ago.
        """
        self.resumed = resumed
        if (folder := self.folder) is not None:
            self.group.from_first(lambda: self._open(folder, resumed, checkpoint, held))

    def _open(
        self, folder: Path, resumed: Path | None, checkpoint: dict[str, Any] | None, held: contextlib.ExitStack
    ) -> None:
        continues = self._continues()
        if training_checkpoints(folder) and not continues:
            raise CondnetError(
                f'{folder} holds a training; continue it with `resume` {folder}, or choose another `output`'
            )
        folder.mkdir(parents=True, exist_ok=True)
        busy = f'another training is running in {folder}; wait for it, or choose another `output`'
        held.enter_context(Lock(folder / '.lock', busy))
        held.callback(self.background.end)  # before the lock is released
        if continues and training_checkpoints(folder):  # another may have gone on before the lock was this one's
            newest = find_training_checkpoint(folder, warns=False)[1]
            if checkpoint is None or newest['sha256'] != checkpoint['sha256']:
                raise CondnetError(f'another training has gone on in {folder} meanwhile; run the same command again')
        if resumed is not None and _is_same(resumed, folder / PREVIOUS):
            os.replace(folder / PREVIOUS, folder / LAST)  # else the next checkpoint would replace it by the damaged one
        args = vars(recorded_args(self.training.config, self.training.settled))
        del args['data_fingerprint']  # it is for no reader
        write_file(folder / 'args.yaml', yaml.safe_dump(args).encode())

    def _continues(self) -> bool:
        """Whether the training goes on with one of its own folder."""
        resume, folder = self.training.config.resume, self.folder
        if resume is None or folder is None:
            return False
        return any(_is_same(resume, path) for path in (folder, folder / LAST))

    def start(self, progress: Progress) -> None:
        """Write again what the checkpoint implies that the training goes on from.

        Raises:
            OSError: If a file cannot be written, or another process is lost.
        """
        if (folder := self.folder) is not None and progress.summary:
            self.group.from_first(lambda: self._start(folder, progress))

    def _start(self, folder: Path, progress: Progress) -> None:
        self._tables(folder, progress)()
        check_best(folder, progress.summary, self.training.config)

    def save(self, progress: Progress) -> None:
        """Write a checkpoint: everything that the training goes on from. It is copied now, and written meanwhile.

        Raises:
            OSError: If the one before could not be written, or another process is lost.
        """
        if (folder := self.folder) is not None:
            self.group.from_first(lambda: self._save(folder, progress))

    def end_epoch(self, progress: Progress, stops: bool = False) -> None:
        """Write a checkpoint, and what it implies, if it is due after an epoch.

        Args:
            progress: How far the training is.
            stops: Whether it stops here, and one is due in any case.

        Raises:
            OSError: If the one before could not be written, or another process is lost.
        """
        if (folder := self.folder) is not None and (stops or self._is_due(progress)):
            self.group.from_first(lambda: self._save(folder, progress, self._tables(folder, progress)))

    def _is_due(self, progress: Progress) -> bool:
        """Whether a checkpoint is written after an epoch."""
        config, epochs = self.training.config, progress.epoch

        def is_wanted() -> bool:
            is_old = time.monotonic() - self.last_saved >= config.checkpoint_seconds
            return is_old or epochs - 1 in best_epochs(progress.summary, config)

        ends = (config.total_epochs, config.stop_epoch, config.split_epoch, *config.keep_epochs)
        return config.checkpoint_seconds == 0 or epochs in ends or self.group.from_first(is_wanted)

    def _save(self, folder: Path, progress: Progress, write_tables: Callable[[], None] = lambda: None) -> None:
        self.background.wait()  # before another copy is made
        state = snapshot(training_state(self.training, progress))

        def write() -> None:
            save_training_checkpoint(folder, state)
            write_tables()

        self.background.start(write)
        self.last_saved = time.monotonic()

    def _tables(self, folder: Path, progress: Progress) -> Callable[[], None]:
        """What writes what a checkpoint implies: summary, counts, and its copies if it is one to keep."""
        config, resumed, is_whole = self.training.config, self.resumed, progress.batch == 0  # now: it goes on
        task, tables = self.training.step.task, {'summary.csv': progress.summary}
        if isinstance(task.model, Supernet):
            tables['counts.csv'] = counts_table(task.model.space, task.counts, task.counts_since_split)
        last, milestone = folder / LAST, folder / f'milestone-{progress.epoch}.pth.tar'
        is_kept = progress.epoch in config.keep_epochs and is_whole

        def write() -> None:
            for name, rows in tables.items():
                write_csv(folder / name, rows[0], rows)
            if is_kept and last.exists() and not milestone.exists():  # no last one: it starts from another's
                write_file(milestone, last.read_bytes())
            newest = last if last.exists() else resumed
            keep_best(folder, tables['summary.csv'], config, newest if is_whole else None)

        return write

    def finish(self) -> None:
        """Wait until everything is written.

        Raises:
            OSError: If it could not be, or another process is lost.
        """
        self.group.from_first(self.background.wait)

    def what_is_kept(self) -> str | None:
        """After a signal: the last checkpoint, and how to go on; nothing in the processes that do not write."""
        self.background.end()
        if not self.group.is_first:
            return None
        if self.folder is None or not (self.folder / LAST).exists():
            return 'no checkpoint was written; the same command starts again'
        same = 'the same command' if self._continues() else f'the same command with `resume` {self.folder}'
        return f'{self.folder / LAST} is kept; {same} goes on'

    def what_is_left(self) -> str:
        """After a failure: the last good checkpoint."""
        self.background.end()
        if self.folder is None:
            return 'no checkpoints are written without an output folder'
        last = self.folder / LAST
        return f'the last good checkpoint is {last}' if last.exists() else 'no checkpoint was written before'


def training_state(training: Training, progress: Progress) -> dict[str, Any]:
    """Everything that a training goes on from."""
    step, task = training.step, training.step.task
    state = {
        'epoch': progress.epoch - 1,  # the last whole one
        'args': recorded_args(training.config, training.settled),
        'progress': vars(progress),
        'optimizer': step.optimizer.state_dict(),
        'scaler': step.scaler.state_dict(),
        'scheduler': schedule_state(training.scheduler),
        'random_state': random_state(task.device),
    }
    return state | task.get_checkpoint_state() | task.get_checkpoint_state(ema=True)
