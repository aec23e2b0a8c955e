"""Trains a small super-network on noise, split half-way; for `test_distributed.py`, which starts several of these.

Usage: train_worker.py FOLDER {train,eval} NAME - where to write the weights, BatchNorm's mode, name of the model.
"""

import sys
from pathlib import Path

import torch
from conftest import SMALL, make_training, random_batch

from condnet.distributed import Group, join_group
from condnet.step import TrainingStep

STEPS, SPLIT_AT, BATCH_SIZE = 20, 10, 16


def train(name: str, mode: str, group: Group, num_parts: int = 1) -> dict[str, torch.Tensor]:
    """Weights after a training on this process's share of every batch, and the mean of all losses."""
    task, optimizer = make_training(name, ema=True, **SMALL[name])
    step, losses = TrainingStep(task, optimizer, group, num_parts), []
    for i in range(STEPS):
        if i == SPLIT_AT:
            task.split(optimizer)
        task.train(mode == 'train')
        batch = random_batch(BATCH_SIZE, seed=i)
        losses.append(step(*(tensor.tensor_split(group.size)[group.rank] for tensor in batch)))
    averaged = task.get_trainable_module(ema=True).named_parameters()
    weights = dict(task.model.named_parameters()) | {f'ema.{key}': value for key, value in averaged}
    return {key: value.detach() for key, value in weights.items()} | {'loss': torch.stack(losses).mean()}


if __name__ == '__main__':
    folder, mode, name = sys.argv[1:]
    group, _ = join_group('cpu')
    torch.save(train(name, mode, group), Path(folder) / f'{group.rank}.pt')
    group.leave()
