"""Speed of training: `benchmark.py training` compares the step of a super-network with what it could be at best.

Steps are compared in alternating pairs on the same images and architectures, as a machine's speed drifts; figures are
medians of the ratios. The plain style is that of other tools: NCHW, one set of candidates into which all weights of a
choice block are copied whenever its context changes, and a process as it is by default, which returns freed memory to
the system; it is also timed with this project's memory settings.
"""

import argparse
import copy
import itertools
import json
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from timm.optim import create_optimizer_v2
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from condnet.choice import ChoiceBlock, split_supernet
from condnet.data import Batch, Images, InMemoryLoader, dataset_name, withheld_indices
from condnet.errors import CondnetError
from condnet.models import Supernet
from condnet.spaces.base import Arch
from condnet.training.build import create_training
from condnet.training.config import Settled, TrainConfig

_NUM_PROFILED = 10  # operators
_MODELS = ('macro_cond_supernet', 'nb201_cond_supernet')


def measure_training(images: Images, args: argparse.Namespace) -> dict[str, Any]:
    """Figures of every search space."""
    return {name.partition('_')[0]: measure_model(name, images, args) for name in _MODELS}


def measure_model(name: str, images: Images, args: argparse.Namespace) -> dict[str, Any]:
    """Figures of one super-network."""
    config = TrainConfig(model=name, batch_size=args.batch_size)
    channels, height, width = images.images.shape[1:]
    settled = Settled(len(images.classes), (channels, height, width), dataset_name(images))
    training = create_training(config, settled, torch.device('cpu')).step
    model: Supernet = training.task.model
    optimizer = training.optimizer
    loader = make_loader(images, model.pretrained_cfg, args.batch_size)
    batches = [batch for _, batch in zip(range(args.steps), loader, strict=False)]
    if len(batches) < args.steps:
        raise CondnetError(f'--steps is {args.steps}, expected at most {len(batches)}: there are no more batches of '
                           f'{args.batch_size} (--batch-size)')  # fmt: skip
    archs = model.space.sample_distinct(args.steps, 0)
    heaviest = max(model.space, key=lambda arch: model.space.cost(arch).flops)
    trainer = Trainer(model, optimizer)
    before = pairs(trainer, standalone_of(model, config), batches, archs)
    memory_before = peak_of(trainer, heaviest, batches[0])
    shared_model, shared_optimizer = copy.deepcopy((model, optimizer))
    split_supernet(model, optimizer)
    memory_after = peak_of(trainer, heaviest, batches[0])
    after = pairs(trainer, standalone_of(model, config), batches, archs)
    shared = Trainer(shared_model, shared_optimizer)
    unsplit_pairs = pairs(trainer, lambda arch: shared, batches, archs)
    nchw = [to_nchw(batch) for batch in batches]
    plain_model = shared_model.to(memory_format=torch.contiguous_format)
    theirs = PlainProcess(copy.deepcopy(plain_model), config, nchw)
    plain_pairs = pairs(theirs, lambda arch: trainer, list(range(len(batches))), archs, batches)
    theirs.close()
    plain = PlainTrainer(plain_model, config)
    same_memory_pairs = pairs(plain, lambda arch: trainer, nchw, archs, batches)
    seconds = statistics.mean(ours for _, ours in plain_pairs)
    loading = time_loader(loader, args.steps)
    return {
        'supernet_over_standalone': statistics.median(a / b for a, b in before),
        'supernet_over_standalone_after_split': statistics.median(a / b for a, b in after),
        'split_over_unsplit': statistics.median(a / b for a, b in unsplit_pairs),
        'memory_mb': memory_before,
        'memory_split_over_unsplit': memory_after / memory_before,
        'added_weights_and_momentum_mb': added_mb(model),
        'loader_share': loading / (loading + seconds),
        'images_per_second': args.batch_size / (loading + seconds),
        'speedup_over_plain': sum(plain for plain, _ in plain_pairs) / sum(ours for _, ours in plain_pairs),
        'speedup_over_plain_same_memory_settings': (
            sum(plain for plain, _ in same_memory_pairs) / sum(ours for _, ours in same_memory_pairs)
        ),
        'loader_speedup_over_workers': time_worker_loader(images, model.pretrained_cfg, args) / loading,
        'profile': profile_steps(trainer, batches[:10], archs[:10]),
    }


class Trainer:
    """One step of training, as `condnet.training.loop` does it."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.model, self.optimizer = model.train(), optimizer

    def choose(self, arch: Arch) -> None:
        """Have an architecture active; a stand-alone network has but one."""
        if isinstance(self.model, Supernet):
            self.model.set_active_subnet(arch)

    def step(self, batch: Batch, arch: Arch) -> None:
        """Train an architecture on a batch."""
        self.choose(arch)
        loss = nn.functional.cross_entropy(self.model(batch[0]), batch[1])
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()


class PlainTrainer(Trainer):
    """The same step in the plain style: weights of contexts are swapped in and out of one set of candidates."""

    def __init__(self, model: Supernet, config: TrainConfig) -> None:
        super().__init__(model, create_optimizer_v2(model, config.opt, lr=config.lr, momentum=config.momentum))
        self.stored: dict[tuple[ChoiceBlock, int], dict[str, torch.Tensor]] = {}
        self.contexts: dict[ChoiceBlock, int] = {}

    @torch.no_grad()
    def choose(self, arch: Arch) -> None:
        super().choose(arch)
        for block in self.model.choice_blocks():  # type: ignore[operator]  # a super-network's
            context, before = block.space.context(arch, block.decision), self.contexts.get(block, 0)
            if context == before:
                continue
            state = block.state_dict()
            self.stored[block, before] = {key: value.clone() for key, value in state.items()}
            for key, value in self.stored.get((block, context), state).items():
                state[key].copy_(value)
            self.contexts[block] = context


class PlainProcess:
    """A `PlainTrainer` in a process of its own, with the memory settings that a process has by default."""

    def __init__(self, model: Supernet, config: TrainConfig, batches: list[Batch]) -> None:
        context = multiprocessing.get_context('spawn')  # a fork would inherit the settings
        self.pipe, theirs = context.Pipe()
        threads = torch.get_num_threads()
        process = context.Process(target=_serve_plain, args=(theirs, model, config, batches, threads), daemon=True)
        process.start()
        theirs.close()  # if the process fails, reading from it does not wait forever

    def choose(self, arch: Arch) -> None:
        """Have an architecture active."""
        self._ask('choose', arch)

    def step(self, batch: int, arch: Arch) -> None:
        """Train an architecture on a batch, by its number."""
        self._ask('step', batch, arch)

    def close(self) -> None:
        """End the process."""
        self._ask('close')

    def _ask(self, *request: Any) -> None:
        self.pipe.send(request)
        self.pipe.recv()


def _serve_plain(pipe: Any, model: Supernet, config: TrainConfig, batches: list[Batch], threads: int) -> None:
    torch.set_num_threads(threads)
    trainer = PlainTrainer(model, config)
    while (request := pipe.recv())[0] != 'close':
        if request[0] == 'step':
            trainer.step(batches[request[1]], request[2])
        else:
            trainer.choose(request[1])
        pipe.send(None)
    pipe.send(None)


def standalone_of(model: Supernet, config: TrainConfig) -> Callable[[Arch], Trainer]:
    """Makes the stand-alone network of an architecture, ready to train."""

    def make(arch: Arch) -> Trainer:
        model.set_active_subnet(arch)
        net = model.get_active_subnet().to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # stub
        return Trainer(net, create_optimizer_v2(net, config.opt, lr=config.lr, momentum=config.momentum))

    return make


def pairs(
    first: Any,
    make_second: Callable[[Arch], Any],
    batches: list[Any],
    archs: list[Arch],
    second: list[Any] | None = None,
) -> list[tuple[float, float]]:
    """Seconds of a step of either, for each architecture; which one begins alternates.

    Args:
        first: The one, a `Trainer` or `PlainProcess`.
        make_second: Makes the other for an architecture.
        batches: A batch for each architecture.
        archs: What to train.
        second: The other's batches, if it takes them in another layout.
    """
    results = []
    for i, (arch, batch, other_batch) in enumerate(zip(archs, batches, second or batches, strict=True)):
        other = make_second(arch)
        runs = [(first, batch), (other, other_batch)]
        for trainer, images in runs:
            trainer.step(images, arch)  # memory and optimizer state are there afterwards
            trainer.choose(archs[i - 1])  # in a training every step has another architecture
        times = {}
        for trainer, images in runs[:: 1 if i % 2 else -1]:
            started = time.perf_counter()
            trainer.step(images, arch)
            times[trainer] = time.perf_counter() - started
        results.append((times[first], times[other]))
    return results


def peak_of(trainer: Trainer, arch: Arch, batch: Batch) -> float:
    """Peak memory of a step, in units of 1e6 bytes: of all tensors, weights and momentum included.

    The memory of the process would say less: its allocator keeps what was freed, and pieces of it fit or do not.
    """
    trainer.optimizer.zero_grad(set_to_none=True)  # gradients of other architectures are no part of it
    trainer.step(batch, arch)  # its momentum is there afterwards
    trainer.optimizer.zero_grad(set_to_none=True)
    held = [*trainer.model.parameters(), *trainer.model.buffers()]
    held += [value for state in trainer.optimizer.state.values() for value in state.values()]
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        trainer.step(batch, arch)
    with tempfile.TemporaryDirectory() as folder:
        profiler.export_chrome_trace(f'{folder}/trace.json')
        events = json.loads(Path(folder, 'trace.json').read_text())['traceEvents']
    changes = [event['args']['Bytes'] for event in events if event['name'] == '[memory]']
    tensors = {id(tensor): tensor.nbytes for tensor in held if isinstance(tensor, torch.Tensor)}
    return (sum(tensors.values()) + max(itertools.accumulate(changes))) / 1e6


def profile_steps(trainer: Trainer, batches: list[Batch], archs: list[Arch]) -> dict[str, float]:
    """Where the time of a step goes: the operators that take most of it, and the share of each."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        for batch, arch in zip(batches, archs, strict=True):
            trainer.step(batch, arch)
    times = {event.key: event.self_cpu_time_total for event in profiler.key_averages()}
    largest = sorted(times, key=lambda key: -times[key])[:_NUM_PROFILED]
    return {key: times[key] / sum(times.values()) for key in largest}


def added_mb(model: Supernet) -> float:
    """What the split adds: weights and as much momentum, in units of 1e6 bytes."""
    copies = [copy for b in model.choice_blocks() for o in b.choices for copy in list(b.weight_sets(o))[1:]]
    return 2 * sum(p.numel() * p.element_size() for copy in copies for p in copy.parameters()) / 1e6


def make_loader(images: Images, config: dict[str, Any], batch_size: int) -> InMemoryLoader:
    """The loader of training."""
    trained = images.select(withheld_indices(images.targets)[0])
    return InMemoryLoader(trained, batch_size, config['mean'], config['std'], channels_last=True)


def time_loader(loader: InMemoryLoader, num: int) -> float:
    """Seconds per batch of our loader."""
    iterator = iter(loader)
    next(iterator)
    started = time.perf_counter()
    for _ in range(num):
        next(iterator)
    return (time.perf_counter() - started) / num


class _PILImages(Dataset):
    """Training images as other tools load them: PIL images, transformed one by one."""

    def __init__(self, images: Images, config: dict[str, Any]) -> None:
        self.images = images
        self.transform = transforms.Compose(
            [
                transforms.ToPILImage(),
                transforms.RandomCrop(images.images.shape[-1], 4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(config['mean'], config['std']),
            ]
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(self.images.images[index]), int(self.images.targets[index])


def time_worker_loader(images: Images, config: dict[str, Any], args: argparse.Namespace) -> float:
    """Seconds per batch of the usual loader, which has nothing else to wait for."""
    loader = DataLoader(_PILImages(images, config), args.batch_size, shuffle=True, num_workers=2)
    iterator = iter(loader)
    for _ in range(4):  # what the workers had prepared
        next(iterator)
    started = time.perf_counter()
    for _ in range(args.steps):
        next(iterator)
    return (time.perf_counter() - started) / args.steps


def to_nchw(batch: Batch) -> Batch:
    """A batch in the plain memory layout."""
    return batch[0].contiguous(memory_format=torch.contiguous_format), batch[1]


def format_training(figures: dict[str, Any]) -> str:
    """A small table for the terminal."""
    names = list(dict.fromkeys(name for row in figures.values() for name in row if name != 'profile'))
    lines = [f'{"":<40}' + ''.join(f'{space:>10}' for space in figures)]
    lines += [f'{name:<40}' + ''.join(f'{row[name]:>10.3f}' for row in figures.values()) for name in names]
    for space, row in figures.items():
        shares = ', '.join(f'{key.removeprefix("aten::")} {share:.0%}' for key, share in row['profile'].items())
        lines.append(f'{space}, time of a step by operator: {shares}')
    return '\n'.join(lines)
