"""Trains a small super-network on noise, split half-way; for `test_distributed.py`, which starts two of these."""

from pathlib import Path

import torch
from conftest import make_training, random_batch

from condnet.training.step import TrainingStep
from condnet.training.task import SupernetTask
from condnet.utils.distributed import Group, join_group

STEPS, SPLIT_AT, BATCH_SIZE = 4, 2, 8
KWARGS = {'nb201_cond_supernet': {'space': 'only_conv', 'cells_per_stage': 1, 'channels': (8, 8, 8)}}


def train(name: str, mode: str, group: Group, num_parts: int = 1) -> tuple[dict[str, torch.Tensor], ...]:
    """Train on this process's share of every batch.

    Returns:
        Weights, mean loss and scale; BatchNorm statistics of this process, and after they were averaged.
    """
    amp_dtype = torch.float16 if mode == 'float16' else None
    dtype = torch.float32 if amp_dtype else torch.float64  # in which training does not amplify the rounding to be seen
    task, optimizer = make_training(name, ema=True, dtype=dtype, **KWARGS.get(name, {}))
    step, losses = TrainingStep(task, optimizer, group, num_parts, amp_dtype), []
    for i in range(STEPS):
        if i == SPLIT_AT:
            task.split(optimizer)
        if mode == 'float16' and i == SPLIT_AT and group.rank == 1:
            handle = task.model.head.bias.register_hook(lambda gradient: gradient * float('inf'))
        if mode == 'float16' and i == SPLIT_AT + 1 and group.rank == 1:
            handle.remove()
        task.train(mode != 'eval')
        images, targets = random_batch(BATCH_SIZE, seed=i)
        batch = images[..., ::4, ::4].to(dtype), targets  # smaller ones, as double is slow
        losses.append(step(*(tensor.tensor_split(group.size)[group.rank] for tensor in batch)))
    own = statistics(task)
    step.average_statistics()
    averaged = task.get_trainable_module(ema=True).named_parameters()
    weights = dict(task.model.named_parameters()) | {f'ema.{key}': value for key, value in averaged}
    weights |= {'loss': torch.stack(losses).mean(), 'scale': torch.tensor(step.scaler.get_scale())}
    return {key: value.detach() for key, value in weights.items()}, own, statistics(task)


def statistics(task: SupernetTask) -> dict[str, torch.Tensor]:
    """Running BatchNorm statistics of the model and of its average."""
    modules = {'model': task.model, 'ema': task.get_trainable_module(ema=True)}
    return {
        f'{kind}.{name}': buffer.clone()
        for kind, module in modules.items()
        for name, buffer in module.named_buffers()
        if name.endswith(('running_mean', 'running_var'))
    }


def work(arguments: list[str]) -> None:
    """What each process does: train, and write what comes of it to files named by its rank.

    Args:
        arguments: Folder to write to; then `MODE:NAME` of each training: BatchNorm's mode, `train` or `eval`, or
            `float16` for training in it, where the second process has a gradient that is not finite in one step; name
            of the model.
    """
    folder, *cases = arguments
    group, _ = join_group('cpu')
    for case in cases:
        mode, name = case.split(':')
        torch.save(train(name, mode, group), Path(folder) / f'{case}.{group.rank}.pt')
    group.leave()
