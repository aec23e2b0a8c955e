"""Data sets that go through timm's loader."""

import itertools
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from timm.data import create_dataset, create_loader
from torch.utils.data import IterableDataset
from torch.utils.data.distributed import DistributedSampler

from condnet.data.images import Images
from condnet.data.loader import Batch, epoch_generator
from condnet.errors import CondnetError


class TimmLoader:
    """timm's loader with an order that depends on seed and epoch only.

    With at least one worker the augmentation does, too. timm's own loader draws from the global random state. Of
    several processes, each augments differently.
    """

    def __init__(self, loader: Any, seed: int, rank: int = 0) -> None:
        self.loader, self.seed, self.rank = loader, seed, rank
        self._generator = torch.Generator()
        data_loader = loader.loader  # inside the prefetcher
        data_loader.generator = self._generator
        if hasattr(data_loader.sampler, 'generator'):
            data_loader.sampler.generator = self._generator
        self.set_epoch(0)

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Batch]:
        return self.batches()

    def batches(self, start: int = 0) -> Iterator[Batch]:
        """Yield images (B, C, H, W) and targets (B,), from batch number `start` on.

        Those before it are loaded and thrown away: only so do the workers augment the others as they would have.
        """
        self._generator.set_state(epoch_generator(self.seed, self.epoch, self.rank).get_state())
        return itertools.islice(self.loader, start, None)

    def set_epoch(self, epoch: int) -> None:
        """Choose order and augmentation of the next iteration."""
        self.epoch = epoch
        if isinstance(sampler := self.loader.loader.sampler, DistributedSampler):
            # It adds seed and epoch, so that another seed would have the same orders in other epochs.
            sampler.seed = epoch_generator(self.seed, epoch).initial_seed() - epoch
            sampler.set_epoch(epoch)


_TORCH_SPLITS = {'train', 'training', 'val', 'valid', 'validation', 'eval', 'evaluation', 'test'}


def create_timm_loader(
    dataset: str,
    data_dir: str | Path,
    split: str,
    *,
    input_size: tuple[int, int, int],
    batch_size: int,
    mean: Sequence[float],
    std: Sequence[float],
    train: bool = True,
    seed: int = 0,
    workers: int = 1,
    device: torch.device | str = 'cpu',
    download: bool = False,
    rank: int = 0,
    world_size: int = 1,
) -> TimmLoader:
    """Load any data set that timm knows, with timm's default transforms.

    In training these are a random resized crop, a flip and colour jitter, not what `InMemoryLoader` does. In
    evaluation the shorter side is resized to the input size, and the centre is taken.

    Args:
        dataset: Name as in timm's `create_dataset`; '' for a folder or tar file.
        data_dir: Where the data set is.
        split: Its part.
        input_size: Channels, height and width of the batches.
        batch_size: Images per batch, over all ranks.
        mean: Means of the channels, in units where white is 1.
        std: Standard deviations, in the same units.
        train: Shuffle, augment, and drop an incomplete last batch; or else do none of this.
        seed: Seed of order and augmentation.
        workers: Processes that decode and augment.
        device: Where the batches go.
        download: Fetch what is missing, where timm can.
        rank: Which share of every batch to load.
        world_size: Into how many shares a batch is divided; if there are several, torch.distributed knows of them.

    Raises:
        CondnetError: If timm cannot open the data set.
    """
    if dataset.lower().startswith('torch/') and split not in _TORCH_SPLITS:  # timm would give the test set
        raise CondnetError(f'{dataset} has no split {split!r}, expected one of {", ".join(sorted(_TORCH_SPLITS))}')
    try:
        data = create_dataset(
            dataset,
            root=str(data_dir),
            split=split,
            is_training=train,
            batch_size=batch_size,
            seed=seed,
            download=download,
        )
    except (AssertionError, ImportError, OSError, RuntimeError, ValueError) as error:
        raise CondnetError(f'timm cannot open data set {dataset!r}, split {split!r}, in {data_dir}: {error}') from error
    if isinstance(data, IterableDataset):
        raise CondnetError(f'data set {dataset!r} is streamed; expected one whose images can be read in any order')
    loader = create_loader(
        data,
        input_size,
        batch_size // world_size,
        is_training=train,
        mean=tuple(mean),
        std=tuple(std),
        crop_pct=1.0,  # timm would enlarge images by 1/7 and cut off their borders in evaluation
        num_workers=workers,
        device=torch.device(device),
        persistent_workers=False,  # workers that live on are not seeded again
        distributed=world_size > 1,
    )
    return TimmLoader(loader, seed, rank)


def timm_images(
    dataset: str,
    data_dir: str | Path,
    split: str,
    num: int,
    input_size: tuple[int, int, int],
    download: bool = False,
    train: bool = False,
) -> Images:
    """Some images of a data set that timm knows, the same ones every time.

    Args:
        dataset: Name as in timm's `create_dataset`.
        data_dir: Where the data set is.
        split: Its part.
        num: How many; they are drawn with seed 0.
        input_size: Channels, height and width.
        download: Fetch what is missing, where timm can.
        train: Augment them as in training, from seed 0; or else timm's evaluation transform.

    Raises:
        CondnetError: If timm cannot open the data set, or it has fewer images.
    """
    loader = create_timm_loader(
        dataset,
        data_dir,
        split,
        input_size=input_size,
        batch_size=1,
        mean=(0.0,) * input_size[0],
        std=(1.0,) * input_size[0],
        train=train,
        download=download,
    )
    data = loader.loader.dataset
    if len(data) < num:
        raise CondnetError(f'{dataset}, split {split!r}, has {len(data)} images, expected at least {num}; the flags '
                           'for calibration batches and --eval-images say how many')  # fmt: skip
    chosen = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))[:num].tolist()
    with _seeded_transforms():
        pairs = [data[i] for i in chosen]
    targets = torch.tensor([int(target) for _, target in pairs])
    return Images(torch.stack([torch.as_tensor(image) for image, _ in pairs]), targets, ())


@contextmanager
def _seeded_transforms() -> Iterator[None]:
    """Have what timm's transforms draw come from seed 0; the random states are given back afterwards."""
    state = random.getstate()
    try:
        with torch.random.fork_rng(devices=[]):
            random.seed(0)
            torch.default_generator.manual_seed(0)
            yield
    finally:
        random.setstate(state)
