"""Why does a super-network of nb201 with two cells a stage train badly?

Prints, for each cell, how its input differs between architectures, and how far the gradients of its shared weights
agree. See docs/results.md for what it showed.
"""

import argparse
import itertools
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import torch.nn.functional as F
from timm.optim import create_optimizer_v2
from torch import nn

from condnet.checkpoints.loading import load_model
from condnet.cli.common import run
from condnet.data import Images, InMemoryLoader, load_images, normalize
from condnet.models.nb201 import Cell
from condnet.training.step import TrainingStep
from condnet.training.task import SupernetTask


def normalise_cells(model: Any) -> None:
    """Put a BatchNorm without weights after every cell."""
    for i, channels in enumerate(model.channels):
        blocks = [(block, nn.BatchNorm2d(channels, affine=False)) if isinstance(block, Cell) else (block,)
                  for block in model.stages[i]]  # fmt: skip
        model.stages[i] = nn.Sequential(*itertools.chain.from_iterable(blocks))


def train(model: Any, images: Images, steps: int) -> float:
    """Train uniformly sampled architectures with batches of 64; the mean loss of the last quarter."""
    config = model.pretrained_cfg
    task, losses = SupernetTask(model), []
    optimizer = create_optimizer_v2(model, 'momentum', lr=0.1, weight_decay=3e-4, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    step, loader = TrainingStep(task, optimizer), InMemoryLoader(images, 64, config['mean'], config['std'])
    for batch in itertools.islice(itertools.chain.from_iterable(itertools.repeat(loader)), steps):
        losses.append(step(*batch).item())
        scheduler.step()
    return float(np.mean(losses[-(steps // 4) :]))


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    """Cosine of the angle between two tensors of one shape."""
    return F.cosine_similarity(a.flatten(), b.flatten(), 0).item()


def look(model: Any, images: Images, num_archs: int = 24) -> None:
    """Print a line per cell, over random architectures on one batch, with BatchNorm in training mode."""
    cells = {name: module for name, module in model.named_modules() if isinstance(module, Cell)}
    inputs: dict[str, list[torch.Tensor]] = {name: [] for name in cells}
    for name, cell in cells.items():
        cell.register_forward_pre_hook(lambda _, args, name=name: inputs[name].append(args[0].detach()))
    gradients, generator = [], torch.Generator().manual_seed(77)
    batch = normalize(images.images[:96], model.pretrained_cfg['mean'], model.pretrained_cfg['std'])
    for _ in range(num_archs):
        model.set_active_subnet(model.space.sample(generator))
        model.zero_grad(set_to_none=True)
        F.cross_entropy(model(batch), images.targets[:96]).backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None and p.grad.any()})
    weights = dict(model.named_parameters())
    print('cell | input RMS: 10%, 50%, 90% | correlation of inputs | gradient / weight: 50%, max | gradient cosine')
    for name in cells:
        names = [n for n in weights if n.startswith(f'{name}.') and n.endswith('conv.weight')]
        shared = {n: [gradient[n] for gradient in gradients if n in gradient] for n in names}
        cosines = [cosine(a, b) for found in shared.values() for a, b in itertools.combinations(found, 2)]
        ratios = [(g.norm() / weights[n].norm()).item() for n, found in shared.items() for g in found]
        rms = np.quantile([x.square().mean().sqrt().item() for x in inputs[name]], (0.1, 0.5, 0.9))
        maps = [x[:32].transpose(0, 1).flatten(1) for x in inputs[name]]  # (C, B * H * W)
        maps = [F.normalize(x - x.mean(1, keepdim=True)) for x in maps]
        alike = np.mean([(a * b).sum(1).mean().item() for a, b in itertools.combinations(maps, 2)])
        print(f'{name} | {rms[0]:.2f}, {rms[1]:.2f}, {rms[2]:.2f} | {alike:.2f} | '
              f'{np.median(ratios):.3f}, {max(ratios):.2f} | {np.mean(cosines):.2f}', flush=True)  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """Look into the cells of a super-network of nb201, trained or not."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument('--data-dir', type=Path, required=True, help='directory of CIFAR-10')
    parser.add_argument('--checkpoint', help='a trained one; else a new one is made, for images of half the size')
    parser.add_argument('--cells', type=int, default=1, help='cells per stage of a new one')
    parser.add_argument('--space', default='full', help='subset of a new one')
    parser.add_argument('--linear-skip', action='store_true', help='linear skips in a new one')
    parser.add_argument('--normalise', action='store_true', help='BatchNorm after every cell of a new one')
    parser.add_argument('--steps', type=int, default=400, help='steps to train a new one for')
    args = parser.parse_args(argv)

    def command() -> None:
        images = load_images(args.data_dir)  # in order of their classes
        images = images.select(torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:20000])
        if args.checkpoint:
            look(load_model(args.checkpoint).train(), images)
            return
        images = replace(images, images=F.avg_pool2d(images.images.float(), 2).round().to(torch.uint8))
        torch.manual_seed(0)
        kwargs = {'cells_per_stage': args.cells, 'linear_skip': args.linear_skip, 'space': args.space}
        model = timm.create_model('nb201_cond_supernet', **kwargs)
        if args.normalise:
            normalise_cells(model)
        if args.steps:
            print(f'training loss {train(model.train(), images, args.steps):.3f}', flush=True)
        look(model.train(), images)

    return run('diagnose_depth', command)


if __name__ == '__main__':
    sys.exit(main())
