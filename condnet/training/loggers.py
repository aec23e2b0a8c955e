"""TensorBoard and Weights & Biases, which show the epochs of a training: the packages, where they are asked for."""

import contextlib
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from condnet.errors import CondnetError
from condnet.training.build import Training
from condnet.training.config import TrainConfig, recorded_args
from condnet.utils.files import write_file
from condnet.utils.settings import SettingError

WANDB_ID = 'wandb-run-id.txt'  # in the folder of a training
_MODULES = {'tensorboard': ('torch.utils.tensorboard', 'SummaryWriter'), 'log_wandb': ('wandb', 'init')}


def check_loggers(config: TrainConfig) -> None:
    """Check that the packages are there, before anything is written.

    Raises:
        CondnetError: If one is missing.
    """
    for name, (module, needed) in _MODULES.items():
        if not getattr(config, name):
            continue
        try:
            getattr(importlib.import_module(module), needed)  # a folder of that name would be imported, too
        except (ImportError, AttributeError) as error:
            package = module.rpartition('.')[2]
            raise SettingError(name, f"needs the package {package}: pip install 'condnet[{package}]'") from error


def open_loggers(
    training: Training, epoch: int, held: contextlib.ExitStack
) -> list[Callable[[dict[str, Any]], object]]:
    """Callbacks that show a row of the history: its numbers, by their names in summary.csv, at its epoch.

    Args:
        training: The training, which has a folder.
        epoch: The first epoch that comes; what TensorBoard has of later ones, from before an interruption, is hidden.
        held: Closes them.

    Raises:
        CondnetError: If Weights & Biases cannot be used.
    """
    config = training.config
    callbacks: list[Callable[[dict[str, Any]], object]] = []
    if config.tensorboard:
        from torch.utils.tensorboard import SummaryWriter

        writer = held.enter_context(SummaryWriter(str(config.folder), purge_step=epoch))

        def write(row: dict[str, Any]) -> None:
            for name in known(row) - {'epoch'}:
                writer.add_scalar(name, row[name], row['epoch'])
            writer.flush()

        callbacks.append(write)
    if config.log_wandb:
        import wandb

        settings = vars(recorded_args(config, training.settled))
        del settings['data_fingerprint']  # it is for no reader
        name = config.experiment or getattr(config.folder, 'name', None)
        kept = Path(str(config.folder)) / WANDB_ID
        # A training that goes on goes on in its run.
        more = {'id': kept.read_text().strip(), 'resume': 'allow'} if epoch and kept.is_file() else {}
        try:
            run = wandb.init(name=name, dir=str(config.folder), config=settings, **more)
        except wandb.Error as error:
            raise CondnetError(f'`log_wandb`: {" ".join(str(error).split())}') from error
        write_file(kept, f'{run.id}\n'.encode())
        held.push(lambda kind, *_: run.finish(int(kind is not None)))  # as a context it would print a traceback
        callbacks.append(lambda row: run.log({name: row[name] for name in known(row)}, step=row['epoch']))
    return callbacks


def known(row: dict[str, Any]) -> set[str]:
    """Names of what a row of the history says; one of an epoch that was not validated says less."""
    return {name for name, value in row.items() if value is not None}
