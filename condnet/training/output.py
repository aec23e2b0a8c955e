"""The folder of a training: checkpoints, settings, and tables."""

import argparse
import contextlib
import csv
import io
import logging
import os
from pathlib import Path
from typing import Any

import yaml
from timm.scheduler.scheduler import Scheduler

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
from condnet.training.loop import Progress
from condnet.training.optimization import schedule_state
from condnet.training.resume import random_state
from condnet.training.step import TrainingStep
from condnet.training.task import SupernetTask
from condnet.utils.files import write_file
from condnet.utils.locks import Lock

_logger = logging.getLogger(__name__)


def find_checkpoint(args: argparse.Namespace) -> tuple[Path | None, dict[str, Any] | None]:
    """The checkpoint to go on from, and its file; None for a training from the start.

    Raises:
        CondnetError: If there should be one, and there is none that can be read.
    """
    if not args.resume:
        return None, None
    if _is_same(args.resume, args.output) and not training_checkpoints(Path(args.output)):
        _logger.info(f'there is no checkpoint in {args.output} yet: training starts from the beginning')
        return None, None
    return find_training_checkpoint(Path(args.resume))


def _is_same(one: str | Path, other: str | Path) -> bool:
    return Path(one).resolve() == Path(other).resolve()


def prepare_output(
    args: argparse.Namespace, resumed: Path | None, checkpoint: dict[str, Any] | None, held: contextlib.ExitStack
) -> Path:
    """Make the output directory. In one that is continued, the checkpoint that was read becomes the last one.

    Args:
        args: Flags.
        resumed: The file of the checkpoint that was read.
        checkpoint: What was read; None for a training from the start.
        held: Holds what keeps other trainings out.

    Raises:
        CondnetError: If another training is there, or is running there, or was a moment ago.
    """
    output = Path(args.output)
    continues = args.resume and any(_is_same(args.resume, path) for path in (output, output / LAST))
    if training_checkpoints(output) and not continues:
        raise CondnetError(f'{output} holds a training; continue it with --resume {output}, or choose another --output')
    output.mkdir(parents=True, exist_ok=True)
    busy = f'another training is running in {output}; wait for it, or choose another --output'
    held.enter_context(Lock(output / '.lock', busy))
    if continues and training_checkpoints(output):  # another process may have gone on before the lock was this one's
        newest = find_training_checkpoint(output, warns=False)[1]
        if checkpoint is None or newest['sha256'] != checkpoint['sha256']:
            raise CondnetError(f'another training has gone on in {output} meanwhile; run the same command again')
    if resumed is not None and _is_same(resumed, output / PREVIOUS):
        os.replace(output / PREVIOUS, output / LAST)  # else the next checkpoint would replace it by the damaged one
    flags = {key: value for key, value in vars(args).items() if key != 'data_fingerprint'}  # it is for no reader
    write_file(output / 'args.yaml', yaml.safe_dump(flags).encode())
    return output


def save_checkpoint(
    args: argparse.Namespace, step: TrainingStep, scheduler: Scheduler, output: Path, progress: Progress
) -> None:
    """Have the first process write everything that the training goes on from.

    Raises:
        OSError: If the file cannot be written, or another process is lost.
    """
    step.group.from_first(lambda: save_training_checkpoint(output, training_state(args, step, scheduler, progress)))


def training_state(
    args: argparse.Namespace, step: TrainingStep, scheduler: Scheduler, progress: Progress
) -> dict[str, Any]:
    """Everything that the training goes on from."""
    task = step.task
    state = {
        'epoch': progress.epoch - 1,  # the last whole one
        'args': args,
        'progress': vars(progress),
        'optimizer': step.optimizer.state_dict(),
        'scaler': step.scaler.state_dict(),
        'scheduler': schedule_state(scheduler),
        'random_state': random_state(task.device),
    }
    return state | task.get_checkpoint_state() | task.get_checkpoint_state(ema=True)


def write_records(args: argparse.Namespace, task: SupernetTask, progress: Progress, output: Path) -> None:
    """Write what a new checkpoint implies: summary, counts, and its copy if it is one to keep.

    Raises:
        OSError: If a file cannot be written.
    """
    if not progress.summary:
        return
    write_table(output / 'summary.csv', progress.summary)
    if isinstance(task.model, Supernet):
        write_table(output / 'counts.csv', counts_table(task.model.space, task.counts, task.counts_since_split))
    last, milestone = output / LAST, output / f'milestone-{progress.epoch}.pth.tar'
    is_due = progress.epoch in args.keep_epochs and progress.batch == 0
    if is_due and last.exists() and not milestone.exists():  # no last one: the training starts from another's
        write_file(milestone, last.read_bytes())


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
