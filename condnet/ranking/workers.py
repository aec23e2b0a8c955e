"""Several processes that share a ranking: `torchrun --nproc-per-node 2 validate.py ...`.

A queue in torchrun's key-value store hands out small pieces of the tree of architectures, so that no process idles.
The first process collects the predictions. They do not depend on who made them, at equal threads per process.

Keys of the store: `first`, set when the first process has the data; `settings`, what it ranks; `archs`, all
architectures; `pieces`, how many pieces are handed out; `message/RANK/NUMBER`, what a helper sends: its predictions,
then null; `beats/RANK`, a number that grows as long as that helper lives.
"""

import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import torch.distributed
from torch.distributed.rendezvous import rendezvous

from condnet.errors import CondnetError
from condnet.models.supernet import Supernet
from condnet.ranking.evaluate import EvaluationData, Prediction
from condnet.ranking.tree import group_by_route, predict
from condnet.spaces.base import Arch
from condnet.utils.distributed import in_contact

PATIENCE = timedelta(minutes=5)  # for the start of another process
_DOWNLOAD = timedelta(hours=2)  # for the first process to fetch the data
BEAT = 1.0  # seconds between a helper's signs of life, however long it evaluates
SILENCE = 30.0  # seconds without one after which a helper is lost
_PIECES_PER_PROCESS = 16


class Team:
    """The processes of a ranking.

    Args:
        store: What they all can read and write.
        rank: Number of this process; 0 leads, the others help.
        size: Number of processes.
    """

    def __init__(self, store: torch.distributed.Store, rank: int, size: int) -> None:
        self.store, self.rank, self.size = store, rank, size
        store.set_timeout(PATIENCE)

    @contextmanager
    def first_ahead(self, apply: bool) -> Iterator[None]:
        """Have the first process do something before the others do it too, as to download what all then read.

        Raises:
            ConnectionError: If the first process is lost.
        """
        if apply and self.rank > 0:
            with in_contact('ranking', torch.distributed.DistError):
                self.store.wait(['first'], _DOWNLOAD)
        yield
        if apply and self.rank == 0:
            self.store.set('first', 'done')

    def check_equal(self, settings: dict[str, Any]) -> None:
        """Check that this process ranks what the first one does.

        Raises:
            CondnetError: If anything differs; it may have read the checkpoint of a running training at another moment.
            ConnectionError: If the first process is lost.
        """
        own = json.loads(json.dumps(settings))
        with in_contact('ranking', torch.distributed.DistError):
            if self.rank == 0:
                self.store.set('settings', json.dumps(own))
                return
            first = json.loads(self.store.get('settings'))
        # In their order, which has flags first: what follows from a flag differs with it, as the images do with their
        # number, and says less.
        for key in [*own, *first]:
            if own.get(key) != first.get(key):
                raise CondnetError(f'the process of rank {self.rank} ranks with {key} {own.get(key)!r}, the first one '
                                   f'with {first.get(key)!r}')  # fmt: skip

    def lead(self, model: Supernet, archs: list[Arch], data: EvaluationData) -> Iterator[Prediction]:
        """Predictions of all processes, as they come.

        Raises:
            ConnectionError: If another process is lost.
        """
        with in_contact('ranking', torch.distributed.DistError):
            self.store.set('archs', json.dumps(archs))
            self.store.wait([f'beats/{rank}' for rank in range(1, self.size)])
            helpers = [_Helper(self.store, rank) for rank in range(1, self.size)]
            for prediction in self._work(model, archs, data):
                yield prediction
                for helper in helpers:
                    yield from helper.receive()
            while helpers := [helper for helper in helpers if not helper.is_done]:
                for helper in helpers:
                    yield from helper.receive()
                time.sleep(0.05)

    def help(self, model: Supernet, data: EvaluationData) -> None:
        """Work for the leading process until nothing is left to do.

        Raises:
            ConnectionError: If it is lost.
        """
        with in_contact('ranking', torch.distributed.DistError), self._signs_of_life():
            archs = [tuple(arch) for arch in json.loads(self.store.get('archs'))]
            number = -1
            for number, prediction in enumerate(self._work(model, archs, data)):
                row = [prediction.index, prediction.accuracy, prediction.loss]
                self.store.set(f'message/{self.rank}/{number}', json.dumps(row))
            self.store.set(f'message/{self.rank}/{number + 1}', json.dumps(None))

    def _work(self, model: Supernet, archs: list[Arch], data: EvaluationData) -> Iterator[Prediction]:
        """Predictions of the pieces that this process gets hold of."""
        ordered = [arch for _, same in group_by_route(model, archs) for arch in same]
        length = -(-len(ordered) // (_PIECES_PER_PROCESS * self.size))
        while (start := (self.store.add('pieces', 1) - 1) * length) < len(ordered):
            yield from predict(model, ordered[start : start + length], data)

    @contextmanager
    def _signs_of_life(self) -> Iterator[None]:
        """Show from a thread that this helper lives, one sign at once."""
        stop = threading.Event()

        def beat() -> None:
            with suppress(torch.distributed.DistError):  # the main thread will see it too, and say so
                while not stop.wait(BEAT):
                    self.store.add(f'beats/{self.rank}', 1)

        self.store.add(f'beats/{self.rank}', 1)
        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


class _Helper:
    """A helper as the leading process sees it."""

    def __init__(self, store: torch.distributed.Store, rank: int) -> None:
        self.store, self.rank = store, rank
        self.is_done = False
        self._num_messages = self._num_beats = 0
        self._heard = time.monotonic()

    def receive(self) -> Iterator[Prediction]:
        """What it has sent since the last time.

        Raises:
            ConnectionError: If it has shown no sign of life for too long.
        """
        num_beats = self.store.add(f'beats/{self.rank}', 0)
        if num_beats != self._num_beats:
            self._num_beats, self._heard = num_beats, time.monotonic()
        while not self.is_done and self.store.check([key := f'message/{self.rank}/{self._num_messages}']):
            row = json.loads(self.store.get(key))
            self._num_messages += 1
            if row is None:
                self.is_done = True
            else:
                yield Prediction(*row)
        if not self.is_done and time.monotonic() - self._heard > SILENCE:
            raise ConnectionError(f'the process of rank {self.rank} has been silent for {SILENCE:.0f} s; what was '
                                  'computed is kept, the same command continues with it')  # fmt: skip


def join_team() -> Team | None:
    """The team that torchrun has started this process in, or None if there is no other.

    Raises:
        ConnectionError: If the others do not come.
    """
    if int(os.environ.get('WORLD_SIZE', '1')) == 1:
        return None
    with in_contact('ranking', torch.distributed.DistError):
        return Team(*next(rendezvous('env://', timeout=PATIENCE)))
