"""Several processes that share a ranking: `torchrun --nproc-per-node 2 validate.py ...`.

A queue in torchrun's key-value store hands out small pieces of the tree of architectures, so that no process idles.
The first process collects the predictions. They do not depend on who made them, at equal threads per process.
"""

import json
import os
import time
from collections.abc import Iterator
from datetime import timedelta

import torch.distributed
from torch.distributed.rendezvous import rendezvous

from condnet.models.supernet import Supernet
from condnet.ranking import EvaluationData, Prediction, group_by_route, predict
from condnet.spaces import Arch

_PATIENCE = timedelta(minutes=20)  # for a start, or a prediction, of another process
_PIECES_PER_PROCESS = 16


class Team:
    """The processes of a ranking.

    Args:
        store: What they all can read and write.
        rank: Number of this process; 0 leads.
        size: Number of processes.
    """

    def __init__(self, store: torch.distributed.Store, rank: int, size: int) -> None:
        self.store, self.rank, self.size = store, rank, size
        store.set_timeout(_PATIENCE)

    def lead(self, model: Supernet, archs: list[Arch], data: EvaluationData) -> Iterator[Prediction]:
        """Predictions of all processes, as they come.

        Raises:
            ValueError: If the others send nothing for too long.
        """
        self.store.set('archs', json.dumps(archs))
        received = 0
        for prediction in self._work(model, archs, data):
            yield prediction
            received += 1
            for sent in self._receive():
                yield sent
                received += 1
        waiting_since = time.monotonic()
        while received < len(archs):
            for sent in self._receive():
                yield sent
                received += 1
                waiting_since = time.monotonic()
            if time.monotonic() - waiting_since > _PATIENCE.total_seconds():
                raise ValueError(f'no other process sent a prediction for {_PATIENCE}; what was computed is kept')
            time.sleep(0.05)

    def help(self, model: Supernet, data: EvaluationData) -> None:
        """Work for the leading process until nothing is left to do."""
        archs = [tuple(arch) for arch in json.loads(self.store.get('archs'))]
        for prediction in self._work(model, archs, data):
            row = json.dumps([prediction.index, prediction.accuracy, prediction.loss])
            self.store.set(f'prediction/{self.store.add("claimed", 1)}', row)

    def _work(self, model: Supernet, archs: list[Arch], data: EvaluationData) -> Iterator[Prediction]:
        """Predictions of the pieces that this process gets hold of."""
        ordered = [arch for _, same in group_by_route(model, archs) for arch in same]
        length = -(-len(ordered) // (_PIECES_PER_PROCESS * self.size))
        while (start := (self.store.add('pieces', 1) - 1) * length) < len(ordered):
            yield from predict(model, ordered[start : start + length], data)

    def _receive(self) -> Iterator[Prediction]:
        """What the others have sent since the last time."""
        first, last = getattr(self, '_last', 0) + 1, self.store.add('claimed', 0)
        for number in range(first, last + 1):
            yield Prediction(*json.loads(self.store.get(f'prediction/{number}')))
            self._last = number


def join_team() -> Team | None:
    """The team that torchrun has started this process in, or None if there is no other."""
    if int(os.environ.get('WORLD_SIZE', '1')) == 1:
        return None
    return Team(*next(rendezvous('env://')))
