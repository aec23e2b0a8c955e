"""Batches of images that are kept in memory, augmented on the device."""

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from condnet.data.augmentation import Augmentation
from condnet.data.images import Images, dataset_name
from condnet.errors import CondnetError

Batch = tuple[torch.Tensor, torch.Tensor]  # normalised images (B, C, H, W) and targets (B,)
AUGMENTATION: dict[str, Any] = {'padding': 4, 'hflip': 0.5}  # for `InMemoryLoader` and `augment`; usual for CIFAR-10
GLYPH_AUGMENTATION: dict[str, Any] = {'padding': 1, 'hflip': 0.0}  # a mirrored letter is none


def normalize(images: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """Convert pixels to float32 and normalise them per channel. The memory layout is kept.

    Args:
        images: uint8 (B, C, H, W).
        mean: Means of the channels, in units where white is 1.
        std: Standard deviations, in the same units.

    Raises:
        CondnetError: If the images are not uint8, or there is not one mean and one deviation per channel.
    """
    if images.dtype != torch.uint8:
        raise CondnetError(f'images are {images.dtype}, expected torch.uint8')
    if not len(mean) == len(std) == images.shape[1]:
        raise CondnetError(f'got {len(mean)} means and {len(std)} deviations for {images.shape[1]} channels')
    offset, scale = _offset_and_scale(tuple(mean), tuple(std), images.device)
    return images.float().sub_(offset).div_(scale)


@functools.cache
def _offset_and_scale(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> torch.Tensor:
    return 255 * torch.tensor([mean, std], dtype=torch.float32, device=device).view(2, -1, 1, 1)


def epoch_generator(seed: int, epoch: int, rank: int = 0) -> torch.Generator:
    """Random numbers of an epoch: the same wherever training was resumed."""
    mixed = int(
        np.random.SeedSequence((seed, epoch, rank) if rank else (seed, epoch)).generate_state(1, np.uint64)[0] >> 1
    )
    return torch.Generator().manual_seed(mixed)


class InMemoryLoader:
    """Batches of images that are kept in memory; augmented as whole batches, on the device.

    The augmentation is the usual one for CIFAR-10: zero padding, a random crop of the original size, a random
    horizontal flip. The order depends on seed and epoch only, and the crop and flip of an image on seed, epoch and
    index of the image: not on batch size, rank, or the batch that iteration starts at.

    Args:
        images: The images.
        batch_size: Images per batch, over all ranks.
        mean: Means of the channels, see `normalize`.
        std: Standard deviations of the channels.
        seed: Seed of order and augmentation.
        train: Shuffle, augment, and drop an incomplete last batch; or else do none of this.
        padding: Pixels of padding on each side.
        hflip: Probability of a flip.
        device: Where the images are kept and the batches are made.
        channels_last: Memory layout of the batches.
        rank: Which contiguous share of every batch to yield.
        world_size: Into how many shares a batch is divided.

    Raises:
        CondnetError: If the batch size is not in 1..N in training, or no multiple of `world_size`.
    """

    def __init__(
        self,
        images: Images,
        batch_size: int,
        mean: Sequence[float],
        std: Sequence[float],
        *,
        seed: int = 0,
        train: bool = True,
        padding: int = 4,
        hflip: float = 0.5,
        device: torch.device | str = 'cpu',
        channels_last: bool = False,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if batch_size < 1 or (train and batch_size > len(images)):
            raise CondnetError(f'batch size is {batch_size}, expected 1..{len(images)} (number of images)')
        if batch_size % world_size or not 0 <= rank < world_size:
            raise CondnetError(f'rank {rank} of {world_size} cannot share batches of {batch_size} equally')
        self.batch_size, self.mean, self.std = batch_size, mean, std
        self.seed, self.train, self.padding, self.hflip = seed, train, padding if train else 0, hflip
        self.channels_last, self.rank, self.world_size = channels_last, rank, world_size
        self.size = images.images.shape[2:]
        padded = F.pad(images.images.to(device), (self.padding,) * 4)
        self.padded_size = padded.shape[2:]
        self.pixels = padded.permute(0, 2, 3, 1).reshape(-1, padded.shape[1])  # (N * H * W, C), each read at once
        self.targets = images.targets.to(device)
        self.epoch = 0

    def __len__(self) -> int:
        num = len(self.targets)
        return num // self.batch_size if self.train else -(-num // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        return self.batches()

    def set_epoch(self, epoch: int) -> None:
        """Choose order and augmentation of the next iteration."""
        self.epoch = epoch

    def batches(self, start: int = 0) -> Iterator[Batch]:
        """Yield float32 images (B, C, H, W) and targets (B,), from batch number `start` on.

        Raises:
            CondnetError: If there is no such batch.
        """
        if not 0 <= start <= len(self):
            raise CondnetError(f'cannot start at batch {start}, expected 0..{len(self)}')
        order, top, left, flip = (values.to(self.targets.device) for values in self._draw())
        for batch in order.split(self.batch_size)[start : len(self)]:
            indices = batch.tensor_split(self.world_size)[self.rank]
            pixels = self._crop(indices, top[indices], left[indices], flip[indices])
            memory_format = torch.channels_last if self.channels_last else torch.contiguous_format
            images = normalize(pixels.contiguous(memory_format=memory_format), self.mean, self.std)
            yield images, self.targets[indices]

    def _draw(self) -> tuple[torch.Tensor, ...]:
        """Order of the images; by image, top and left of its crop, and whether it is flipped. All (N,)."""
        num = len(self.targets)
        if not self.train:
            zeros = torch.zeros(num, dtype=torch.int64)
            return torch.arange(num), zeros, zeros, zeros.bool()
        generator = epoch_generator(self.seed, self.epoch)
        order = torch.randperm(num, generator=generator)
        top, left = torch.randint(2 * self.padding + 1, (2, num), generator=generator)
        return order, top, left, torch.rand(num, generator=generator) < self.hflip

    def _crop(self, indices: torch.Tensor, top: torch.Tensor, left: torch.Tensor, flip: torch.Tensor) -> torch.Tensor:
        """Cropped and flipped images, uint8 (B, C, H, W). All arguments are (B,)."""
        (height, width), (padded_height, padded_width) = self.size, self.padded_size
        columns = torch.arange(width, device=top.device).expand(len(top), -1)
        columns = left[:, None] + torch.where(flip[:, None], columns.flip(1), columns)
        rows = indices[:, None] * padded_height + top[:, None] + torch.arange(height, device=top.device)
        positions = rows[:, :, None] * padded_width + columns[:, None, :]
        return self.pixels.index_select(0, positions.flatten()).view(*positions.shape, -1).permute(0, 3, 1, 2)


def augment(images: Images, *, padding: int = 4, hflip: float = 0.5, seed: int = 0) -> Images:
    """Crop and flip every image once, as `InMemoryLoader` does in training, and keep their order.

    Args:
        images: The images.
        padding: Black pixels on each side, before the crop.
        hflip: Probability of a flip.
        seed: Seed of crops and flips: the same images come out for it every time.
    """
    loader = InMemoryLoader(images, len(images), (), (), seed=seed, padding=padding, hflip=hflip)
    _, top, left, flip = loader._draw()
    return Images(loader._crop(torch.arange(len(images)), top, left, flip).contiguous(), images.targets, images.classes)


def augmentation_of(images: Images, chosen: Augmentation | None = None) -> dict[str, Any]:
    """How the training set that these images are of is augmented: arguments of `InMemoryLoader` and `augment`.

    Args:
        images: The images.
        chosen: What the training has set; None for nothing.
    """
    usual = GLYPH_AUGMENTATION if dataset_name(images) == 'glyphs' else AUGMENTATION
    if chosen is None or (chosen.hflip is None and not chosen.no_aug):
        return usual
    return {'padding': 0, 'hflip': 0.0} if chosen.no_aug else {**usual, 'hflip': chosen.hflip}
