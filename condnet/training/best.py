"""The best epochs of a training, by what is validated after them: which they are, and their checkpoints."""

import logging
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from condnet.checkpoints.training import read_training_checkpoint
from condnet.errors import CondnetError
from condnet.training.config import TrainConfig
from condnet.utils.files import write_file

_logger = logging.getLogger(__name__)
BEST = 'model_best.pth.tar'  # this name and the others are timm's
_NUMBERED = re.compile(r'checkpoint-\d+\.pth\.tar')


def best_epochs(rows: Sequence[dict[str, Any]], config: TrainConfig) -> list[int]:
    """The epochs whose checkpoints are kept for what was validated, best first; of equally good ones the earlier.

    A training that splits is to end with a split super-network: epochs since the split come before those without.

    Args:
        rows: Those of summary.csv.
        config: Settings of the training.
    """
    if config.eval_metric is None:
        return []
    name, sign = f'eval_{config.eval_metric}', -1 if config.eval_metric == 'accuracy' else 1

    def order(row: dict[str, Any]) -> tuple[bool, float, int]:
        value = sign * row[name]
        return row['epoch'] < config.split_epoch, value if math.isfinite(value) else math.inf, row['epoch']

    validated = sorted((row for row in rows if row[name] is not None), key=order)
    return [row['epoch'] for row in validated[: max(1, config.checkpoint_hist)]]


def keep_best(folder: Path, rows: Sequence[dict[str, Any]], config: TrainConfig, newest: Path | None) -> None:
    """Keep the checkpoints of the best epochs; of the numbered ones no others.

    Args:
        folder: Where they are.
        rows: Those of summary.csv.
        config: Settings of the training.
        newest: A checkpoint of the last of these epochs; None if there is none.

    Raises:
        OSError: If one cannot be written.
    """
    best = best_epochs(rows, config)
    names = {f'checkpoint-{epoch}.pth.tar': epoch for epoch in best[: config.checkpoint_hist]}
    if best:
        names[BEST] = best[0]
    for name, epoch in names.items():
        if newest is not None and epoch == rows[-1]['epoch']:
            write_file(folder / name, newest.read_bytes())
    for path in folder.iterdir() if config.checkpoint_hist else ():
        if _NUMBERED.fullmatch(path.name) and path.name not in names:
            path.unlink()


def check_best(folder: Path, rows: Sequence[dict[str, Any]], config: TrainConfig) -> None:
    """Remove the best checkpoint when a training goes on for which it is not the best one, and say so.

    That is so with another `eval_metric`, after epochs in another folder, or where the last checkpoint was damaged.
    """
    best, path = best_epochs(rows, config), folder / BEST
    if not best:
        return
    try:
        found = read_training_checkpoint(path)['epoch']
    except CondnetError:  # damaged, or not there
        found = None
    if found != best[0]:
        path.unlink(missing_ok=True)
        _logger.warning(f'the best epoch so far is {best[0]}, of which there is no checkpoint in {folder}: there will '
                        f'be a {BEST} after a better one')  # fmt: skip


def describe_best(rows: Sequence[dict[str, Any]], config: TrainConfig) -> str | None:
    """Which epoch was the best; None if nobody asked."""
    best = best_epochs(rows, config)
    if not best or config.eval_metric is None:
        return None
    value = next(row[f'eval_{config.eval_metric}'] for row in rows if row['epoch'] == best[0])
    shown = f'{value:.2f}%' if config.eval_metric == 'accuracy' else f'{value:.4f}'
    return f'epoch {best[0]} was the best, with a validation {config.eval_metric} of {shown}'
