"""The folder of a training: checkpoints, settings, and tables."""

import contextlib
import csv
import io
import logging
import os
from pathlib import Path
from typing import Any

import yaml

from condnet.checkpoints.training import (
    LAST,
    PREVIOUS,
    find_training_checkpoint,
    save_training_checkpoint,
    training_checkpoints,
)
from condnet.errors import CondnetError
from condnet.models import Supernet
from condnet.models.counts import counts_table
from condnet.training.build import Training
from condnet.training.config import TrainConfig, recorded_args
from condnet.training.loop import Progress
from condnet.training.optimization import schedule_state
from condnet.training.resume import random_state
from condnet.utils.files import check_folder_to_write, write_file
from condnet.utils.locks import Lock

_logger = logging.getLogger(__name__)


def check_output(config: TrainConfig) -> None:
    """Check, without a trace, that what the settings ask for can be written.

    Raises:
        CondnetError: If it cannot, or there is no folder for it.
    """
    if config.output is not None:
        check_folder_to_write(Path(config.output))
    elif config.recovery_interval:
        raise CondnetError(f'recovery_interval is {config.recovery_interval}, and there is no folder to write '
                           'checkpoints to: set output')  # fmt: skip


def find_checkpoint(config: TrainConfig) -> tuple[Path | None, dict[str, Any] | None]:
    """The checkpoint to go on from, and its file; None for a training from the start.

    Raises:
        CondnetError: If there should be one, and there is none that can be read.
    """
    if not config.resume:
        return None, None
    output = None if config.output is None else Path(config.output)
    if output is not None and _is_same(config.resume, output) and not training_checkpoints(output):
        _logger.info(f'there is no checkpoint in {output} yet: training starts from the beginning')
        return None, None
    return find_training_checkpoint(Path(config.resume))


def _is_same(one: str | Path, other: str | Path) -> bool:
    return Path(one).resolve() == Path(other).resolve()


class Recorder:
    """Writes what a training leaves behind into its folder; without a folder, nothing. The first process does it.

    A checkpoint holds everything that the other files are written from. So it is written first, and they are written
    again at the start: whatever an interruption cut off there is made up for.

    Args:
        training: The training.
    """

    def __init__(self, training: Training) -> None:
        self.training, self.group = training, training.step.group
        self.folder = None if training.config.output is None else Path(training.config.output)

    def open(self, resumed: Path | None, checkpoint: dict[str, Any] | None, held: contextlib.ExitStack) -> None:
        """Make the folder. In one that is continued, the checkpoint that was read becomes the last one.

        Args:
            resumed: The file of the checkpoint that was read.
            checkpoint: What was read; None for a training from the start.
            held: Holds what keeps other trainings out.

        Raises:
            CondnetError: If another training is there, or is running there, or was a moment ago.
        """
        if (folder := self.folder) is not None:
            self.group.from_first(lambda: self._open(folder, resumed, checkpoint, held))

    def _open(
        self, folder: Path, resumed: Path | None, checkpoint: dict[str, Any] | None, held: contextlib.ExitStack
    ) -> None:
        resume = self.training.config.resume
        continues = resume and any(_is_same(resume, path) for path in (folder, folder / LAST))
        if training_checkpoints(folder) and not continues:
            raise CondnetError(
                f'{folder} holds a training; continue it with --resume {folder}, or choose another --output'
            )
        folder.mkdir(parents=True, exist_ok=True)
        busy = f'another training is running in {folder}; wait for it, or choose another --output'
        held.enter_context(Lock(folder / '.lock', busy))
        if continues and training_checkpoints(folder):  # another may have gone on before the lock was this one's
            newest = find_training_checkpoint(folder, warns=False)[1]
            if checkpoint is None or newest['sha256'] != checkpoint['sha256']:
                raise CondnetError(f'another training has gone on in {folder} meanwhile; run the same command again')
        if resumed is not None and _is_same(resumed, folder / PREVIOUS):
            os.replace(folder / PREVIOUS, folder / LAST)  # else the next checkpoint would replace it by the damaged one
        args = vars(recorded_args(self.training.config, self.training.settled))
        del args['data_fingerprint']  # it is for no reader
        write_file(folder / 'args.yaml', yaml.safe_dump(args).encode())

    def save(self, progress: Progress) -> None:
        """Write a checkpoint: everything that the training goes on from.

        Raises:
            OSError: If it cannot be written, or another process is lost.
        """
        if (folder := self.folder) is not None:
            self.group.from_first(lambda: save_training_checkpoint(folder, training_state(self.training, progress)))

    def write_tables(self, progress: Progress) -> None:
        """Write what a new checkpoint implies: summary, counts, and its copy if it is one to keep.

        Raises:
            OSError: If a file cannot be written, or another process is lost.
        """
        if (folder := self.folder) is not None and progress.summary:
            self.group.from_first(lambda: self._write_tables(folder, progress))

    def _write_tables(self, folder: Path, progress: Progress) -> None:
        task = self.training.step.task
        write_table(folder / 'summary.csv', progress.summary)
        if isinstance(task.model, Supernet):
            write_table(folder / 'counts.csv', counts_table(task.model.space, task.counts, task.counts_since_split))
        last, milestone = folder / LAST, folder / f'milestone-{progress.epoch}.pth.tar'
        is_due = progress.epoch in self.training.config.keep_epochs and progress.batch == 0
        if is_due and last.exists() and not milestone.exists():  # no last one: the training starts from another's
            write_file(milestone, last.read_bytes())

    def what_is_left(self) -> str:
        """After a failure: the last good checkpoint."""
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


def write_table(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write a CSV file as a whole.

    Raises:
        OSError: If it cannot be written.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0], lineterminator='\n')
    writer.writeheader()
    writer.writerows(rows)
    write_file(path, text.getvalue().encode())
