"""What does it save that only the sampled sub-network's gradients travel? Against DistributedDataParallel.

    torchrun --nproc-per-node 2 -m tools.compare_ddp

Split super-networks on noise, full size; steps alternate, figures are medians. DDP looks for unused weights in every
step, and sends zeros for them. It prints Markdown.
"""

import argparse
import statistics
import time

import timm
import torch
from timm.optim import create_optimizer_v2
from torch.nn.parallel import DistributedDataParallel

from condnet.training.step import TrainingStep
from condnet.training.task import SupernetTask
from condnet.utils.distributed import Group, join_group

_MODELS = ('nb201_cond_supernet', 'macro_cond_supernet')


class DDPStep:
    """The same step with PyTorch's wrapper."""

    def __init__(self, task: SupernetTask, optimizer: torch.optim.Optimizer) -> None:
        self.task, self.optimizer = task, optimizer
        self.wrapped = DistributedDataParallel(task.model, find_unused_parameters=True, broadcast_buffers=False)

    def __call__(self, images: torch.Tensor, targets: torch.Tensor) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        for _ in self.task.next_subnets():
            self.task.criterion(self.wrapped(images), targets).backward()
        self.optimizer.step()


def make(name: str) -> tuple[SupernetTask, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = timm.create_model(name, split=True).to(memory_format=torch.channels_last).train()
    return SupernetTask(model), create_optimizer_v2(model, 'momentum', lr=0.01, momentum=0.9)


def compare(name: str, group: Group, args: argparse.Namespace) -> str:
    steps = [TrainingStep(*make(name), group), DDPStep(*make(name))]
    share = args.batch_size // group.size
    images = torch.randn(share, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    targets = torch.randint(10, (share,))
    seconds: list[list[float]] = [[], []]
    sent = []
    for i in range(args.steps + 2):
        for which in (0, 1) if i % 2 else (1, 0):
            torch.distributed.barrier()
            started = time.perf_counter()
            steps[which](images, targets)
            torch.distributed.barrier()
            seconds[which].append(time.perf_counter() - started)
        gradients = [p.grad for p in steps[0].task.model.parameters() if p.grad is not None]
        sent.append(sum(gradient.nbytes for gradient in gradients) / 1e6)
    whole = sum(p.nbytes for p in steps[0].task.model.parameters()) / 1e6
    ours, theirs = (statistics.median(values[2:]) for values in seconds)
    ratio = statistics.median(b / a for a, b in zip(seconds[0][2:], seconds[1][2:], strict=True))
    return (f'| {name} | {1000 * ours:.0f} | {1000 * theirs:.0f} | {ratio:.2f} | '
            f'{statistics.median(sent):.1f} | {whole:.1f} |')  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--steps', type=int, default=30)
    parser.add_argument('--batch-size', type=int, default=64, help='over all processes')
    args = parser.parse_args()
    group, _ = join_group('cpu')
    rows = [compare(name, group, args) for name in _MODELS]
    if group.is_first:
        print('| split super-network | step, ms | with DDP, ms | ratio | MB sent | MB with DDP |')
        print('|---|---|---|---|---|---|')
        print('\n'.join(rows))
    group.leave()


if __name__ == '__main__':
    main()
