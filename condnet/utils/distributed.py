"""Training in several processes: `torchrun --nproc-per-node 2 train.py ...`.

Every process trains the same architecture in a step, on its own share of the batch. So a weight has a gradient in all
processes or in none, and only the gradients of the sampled sub-network have to travel: in one message, with the loss.
PyTorch's `DistributedDataParallel` would look for the unused weights in every step, send zeros for them, and know
nothing of the copies that the split makes until it is built anew.
"""

import logging
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
from torch import distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm

from condnet.errors import first_line
from condnet.utils.device import find_device

_PATIENCE = timedelta(minutes=10)  # for a process that is alive and does not answer
_Value = TypeVar('_Value')


class Group:
    """The processes that train together. By default this one alone, and then nothing here does anything.

    Args:
        rank: Number of this process; the first one, 0, writes.
        size: Number of processes.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def average(self, tensors: Iterable[torch.Tensor]) -> None:
        """Replace tensors by their mean over all processes, in one message.

        Raises:
            ConnectionError: If a process is lost.
        """
        tensors = list(tensors)
        if self.size == 1 or not tensors:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        with in_contact('training', _communication_errors()):
            distributed.all_reduce(flat)
        flat /= self.size
        for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(part.view(tensor.shape))

    @torch.no_grad()
    def average_statistics(self, *models: nn.Module) -> None:
        """Average the running BatchNorm statistics, which every process estimates from its own images.

        Raises:
            ConnectionError: If a process is lost.
        """
        layers = [m for model in models for m in model.modules() if isinstance(m, _BatchNorm)]
        buffers = [buffer for layer in layers for buffer in (layer.running_mean, layer.running_var)]
        self.average(buffer for buffer in buffers if buffer is not None)

    def largest(self, value: int) -> int:
        """The largest of the values that the processes have.

        Raises:
            ConnectionError: If a process is lost.
        """
        if self.size == 1:
            return value
        device = 'cpu' if distributed.get_backend() == 'gloo' else 'cuda'
        found = torch.tensor(value, device=device)
        with in_contact('training', _communication_errors()):
            distributed.all_reduce(found, distributed.ReduceOp.MAX)
        return int(found)

    def from_first(self, make: Callable[[], _Value]) -> _Value:
        """Let the first process do something.

        Returns:
            What it returned, in every process.

        Raises:
            Exception: In every process, if it raised one.
            ConnectionError: If a process is lost.
        """
        if self.size == 1:
            return make()
        box: list[tuple[_Value | None, Exception | None]] = [(None, None)]
        if self.is_first:
            try:
                box = [(make(), None)]
            except Exception as error:  # the others must not wait for what does not come
                box = [(None, error)]
        with in_contact('training', _communication_errors()):
            distributed.broadcast_object_list(box, src=0)
        value, failure = box[0]
        if failure is not None:
            raise failure
        return value  # type: ignore[return-value]  # if it is None, that is what was returned

    @contextmanager
    def first_ahead(self, matters: bool) -> Iterator[None]:
        """Have the others wait until the first process is through with something, for example with a download.

        Args:
            matters: Whether they have to.

        Raises:
            ConnectionError: If a process is lost.
        """
        matters = matters and self.size > 1
        if matters and not self.is_first:
            with in_contact('training', _communication_errors()):
                distributed.barrier()
        try:
            yield
        finally:
            if matters and self.is_first:
                with in_contact('training', _communication_errors()):
                    distributed.barrier()

    def leave(self) -> None:
        """End the contact to the others."""
        if self.size > 1:
            distributed.destroy_process_group()


def _communication_errors() -> type[RuntimeError]:
    """What the loss of a process is raised as. With gloo that has no type of its own."""
    return RuntimeError if distributed.get_backend() == 'gloo' else distributed.DistError


@contextmanager
def in_contact(what: str, errors: type[RuntimeError] = RuntimeError) -> Iterator[None]:
    """Errors of communication, in one line.

    Args:
        what: What the processes do together.
        errors: Type of these errors.

    Raises:
        ConnectionError: If another process is lost.
    """
    try:
        yield
    except errors as error:
        raise ConnectionError(f'no contact with the other processes of the {what}: {first_line(error)}') from error


def join_group(device: str) -> tuple[Group, torch.device]:
    """Join the processes that torchrun has started with this one; of them only the first one logs.

    Args:
        device: Name of the device to train on; with `cuda`, each process of a machine has a GPU of its own.

    Raises:
        ConnectionError: If the others do not come.
        CondnetError: If the device is not available.
    """
    found = find_device(device)
    if int(os.environ.get('WORLD_SIZE', '1')) == 1:
        return Group(), found
    if found.type == 'cuda':
        torch.cuda.set_device(found)
    with in_contact('training'):
        distributed.init_process_group('nccl' if found.type == 'cuda' else 'gloo', timeout=_PATIENCE)
    group = Group(distributed.get_rank(), distributed.get_world_size())
    if not group.is_first:
        logging.getLogger('condnet').setLevel(logging.ERROR)
    return group, found
