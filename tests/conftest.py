"""What several test files need: real data, small models and real training steps."""

import csv
import hashlib
import logging
import multiprocessing
import os
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.optim import create_optimizer_v2

import condnet  # noqa: F401  # registers the models
from condnet.data import CIFAR10_CLASSES, Images, load_images
from condnet.spaces.registry import get_space
from condnet.training.step import TrainingStep
from condnet.training.task import SupernetTask
from condnet.utils.locks import Lock

MODELS = ('nb201_cond_supernet', 'macro_cond_supernet')
FORK = multiprocessing.get_context('fork')  # processes that have everything imported already
SMALL = {'nb201_cond_supernet': {'cells_per_stage': 1, 'channels': (8, 8, 8)}, 'macro_cond_supernet': {}}


def pixel_digests(images: Images) -> list[str]:
    """SHA-256 of the pixels of every image, to compare sets of images by content."""
    return [hashlib.sha256(image.tobytes()).hexdigest() for image in images.images.cpu().numpy()]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first, so that in the end no process works alone (with `--no-loadscope-reorder`)."""
    num_slow = Counter(item.path for item in items if item.get_closest_marker('slow'))
    items.sort(key=lambda item: -num_slow[item.path])


# Bit-identity is claimed for equal threads; with one, a busy machine does not stall the tests.
torch.set_num_threads(1)
os.environ['OMP_NUM_THREADS'] = '1'  # of the processes that tests start


@pytest.fixture(scope='session')
def data_dir() -> Path:
    """Directory of the real data."""
    if not os.environ.get('CONDNET_DATA'):
        pytest.skip('needs the real data: set CONDNET_DATA to a directory with cifar10/ and benchmarks/')
    return Path(os.environ['CONDNET_DATA'])


@pytest.fixture(scope='session')
def cifar10(data_dir) -> Images:
    """The training images of CIFAR-10. To read them takes long, and is done once."""
    return load_images(data_dir)


def make_training(name: str, lr: float = 0.025, ema: bool = False, **kwargs):
    """A super-network in its task, with the optimizer of the recipes."""
    torch.manual_seed(0)
    model = timm.create_model(name, **kwargs).to(memory_format=torch.channels_last)
    task = SupernetTask(model, seed=0)
    if ema:
        task.setup_ema(decay=0.9)
    return task, create_optimizer_v2(model, 'momentum', lr=lr, weight_decay=3e-4, momentum=0.9)


def train_step(task, optimizer, images, targets) -> None:
    """One step of training."""
    TrainingStep(task, optimizer)(images, targets)


def random_batch(size: int = 8, seed: int = 0, pixels: int = 32):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(size, 3, pixels, pixels, generator=generator).contiguous(memory_format=torch.channels_last)
    return images, torch.randint(10, (size,), generator=generator)


@pytest.fixture(scope='session')
def tiny_folder(tmp_path_factory) -> Path:
    """A class folder of 10 x 30 coloured noise images of 32x32 pixels that a network can tell apart."""
    return write_noise(tmp_path_factory.mktemp('tiny'), 32)


def write_noise(root: Path, size: int) -> Path:
    """Write what `tiny_folder` is, of so many pixels a side."""
    generator = np.random.default_rng(0)
    for label, name in enumerate(CIFAR10_CLASSES):
        folder = root / 'train' / name
        folder.mkdir(parents=True)
        for i in range(30):
            pixels = generator.integers(0, 128, (size, size, 3)) + (np.array([label, 9 - label, label // 2]) * 12)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f'{i:04}.png')
    return root


@pytest.fixture(scope='module')
def tiny_data(tiny_folder) -> Iterator[Path]:
    """The small data set, which passes in this file for CIFAR-10, of which there are tables."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('condnet.data.images.CIFAR10_IMAGES', 300)
        yield tiny_folder


# More arguments for it: the part of the space that is split into the fewest weight sets, which are most of the work.
ONLY_CONV = ('--model-kwargs', 'space=only_conv', 'cells_per_stage=1', 'channels=(8,8,8)')


def train_args(data: Path, output: Path, *more: str) -> list[str]:
    """A training of four epochs with four steps each, of which the last two are split."""
    return [
        '--data-dir', str(data), '--output', str(output), '--model-kwargs', 'space=full', 'cells_per_stage=1',
        'channels=(8,8,8)', '--epochs', '4', '--split-epoch', '2', '--batch-size', '64', '--eval-archs', '2',
        '--eval-batches', '1', '--eval-images', '10', *more,
    ]  # fmt: skip


def write_table(path, indices, **changes):
    """A benchmark table with true costs and made-up accuracies; changes are columns of its last row."""
    space = get_space('nb201')
    with path.open('w', newline='') as file:
        writer = csv.DictWriter(file, ['index', 'arch_str', 'cifar10_test_acc', 'params_MB', 'flops_M'])
        writer.writeheader()
        for index in indices:
            cost = space.cost(index)
            row = {
                'index': index, 'arch_str': space.format(index), 'cifar10_test_acc': 50 + index % 40,
                'params_MB': f'{cost.params / 1e6:.6f}', 'flops_M': f'{cost.flops / 1e6:.6f}',
            }  # fmt: skip
            writer.writerow(row | (changes if index == indices[-1] else {}))
    return path


def hold_lock(path, held):
    """What another process may do: take a lock, and keep it."""
    lock = Lock(path)
    lock.acquire()
    held.set()
    time.sleep(60)


def in_child(function, stdout: Path | None = None, stderr: Path | None = None) -> int:
    """Exit status of a process that calls a function which returns it; what it writes goes to these files.

    It is forked, as a new interpreter takes seconds to import torch and timm.
    """
    process = os.fork()
    if not process:
        status = 1
        try:  # nothing of the parent may run on in the child
            for number, path in ((1, stdout), (2, stderr)):
                if path is not None:
                    os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
            sys.stdout, sys.stderr = open(1, 'w', closefd=False), open(2, 'w', buffering=1, closefd=False)
            logging.getLogger().handlers.clear()  # pytest's
            status = function()
            sys.stdout.flush()
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


@contextmanager
def killed_at_the_end(target, *args):
    """A process that says when it is ready (an event is its last argument), and is killed in the end."""
    ready = FORK.Event()
    process = FORK.Process(target=target, args=(*args, ready))
    process.start()
    assert ready.wait(30)
    try:
        yield
    finally:
        process.kill()
        process.join()
