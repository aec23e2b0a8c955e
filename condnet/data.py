"""Data: CIFAR-10 and other sets of small images in memory, the withheld images, and batches to train on.

Images are kept in a canonical order, sorted by class and position within the class. So an index names the same image
in every copy of a data set, be it the original download, folders or tar files.
"""

import hashlib
import io
import itertools
import random
import string
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from timm.data import create_dataset, create_loader
from timm.utils import natural_key
from torch.utils.data import IterableDataset
from torch.utils.data.distributed import DistributedSampler
from torchvision.datasets import CIFAR10

from condnet.errors import CondnetError

Batch = tuple[torch.Tensor, torch.Tensor]  # normalised images (B, C, H, W) and targets (B,)
CIFAR10_CLASSES = ('airplane', 'automobile', 'bird', 'cat', 'deer', 'dog', 'frog', 'horse', 'ship', 'truck')
CIFAR10_IMAGES = 50_000  # in the training set
GLYPH_CLASSES = tuple(string.ascii_uppercase)
AUGMENTATION: dict[str, Any] = {'padding': 4, 'hflip': 0.5}  # for `InMemoryLoader` and `augment`; usual for CIFAR-10
GLYPH_AUGMENTATION: dict[str, Any] = {'padding': 1, 'hflip': 0.0}  # a mirrored letter is none
_Files = dict[tuple[str, str], tuple[Path, int, int]]  # (class, file name): file, offset and size in bytes

_SPLIT_NAMES = {True: ('train',), False: ('test', 'val', 'valid', 'validation')}
_EXTENSIONS = {'.bmp', '.jpeg', '.jpg', '.png', '.ppm', '.webp'}


@dataclass(frozen=True)
class Images:
    """Labelled images of one size.

    Args:
        images: uint8 (N, C, H, W).
        targets: int64 (N,), numbers of classes.
        classes: Their names.
    """

    images: torch.Tensor
    targets: torch.Tensor
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.targets)

    def select(self, indices: torch.Tensor) -> 'Images':
        """The images with these indices (M,), in this order; the classes stay all."""
        return Images(self.images[indices], self.targets[indices], self.classes)

    def sha256(self) -> str:
        """SHA-256 of all images and labels in their order."""
        digest = hashlib.sha256(self.images.cpu().numpy().tobytes())
        digest.update(self.targets.cpu().numpy().tobytes())
        return digest.hexdigest()

    def digests(self) -> list[str]:
        """SHA-256 of the pixels of every image, to compare sets of images by content."""
        return [hashlib.sha256(image.tobytes()).hexdigest() for image in self.images.cpu().numpy()]


def load_images(data_dir: str | Path, train: bool = True, download: bool = False) -> Images:
    """Read a data set of small RGB images into memory, in canonical order.

    What is there is taken, in `data_dir` or in its subfolder `cifar10`: `train.tar` and `test.tar` with files named
    `class/image`; folders `train` and `test` (or `val`, `valid`, `validation`) of class folders; or CIFAR-10 as
    torchvision keeps it. The position of an image within its class is the natural order of the file names, and in
    torchvision's CIFAR-10 the order in its files.

    Args:
        data_dir: Where the data set is.
        train: The training set, or else the test set.
        download: Fetch CIFAR-10 into `data_dir` if it holds no data set.

    Raises:
        CondnetError: If there is no data set, it is damaged, its images differ in size, or the classes of the test set
            are not those of the training set.
    """
    root = Path(data_dir)
    if not root.is_dir() and not (download and not root.exists()):
        raise CondnetError(f'{root} is no directory; expected one with a data set (--download fetches CIFAR-10)')
    source = _find_source(root, train)
    if source is None and not download:
        names = ', '.join(f'{name}.tar, {name}/' for name in _SPLIT_NAMES[train])
        raise CondnetError(
            f'{root} {"holds no known data set" if any(root.iterdir()) else "is empty"}; looked for {names} and '
            f'{CIFAR10.base_folder}/, there and in cifar10/ (--download fetches CIFAR-10)'
        )
    if source is None or source.name == CIFAR10.base_folder:
        return _load_torchvision(source.parent if source else root, train, download)
    files = _scan(source)
    if not train:
        _check_same_classes(source, files, _find_source(root, train=True))
    return _decode(source, _sort(files))


def holds_images(data_dir: str | Path, train: bool = True) -> bool:
    """Whether there is something that `load_images` would read."""
    return _find_source(Path(data_dir), train) is not None


def _find_source(root: Path, train: bool) -> Path | None:
    """Path of a tar file, a folder of class folders, or torchvision's folder; None if there is none of them."""
    for folder in (root, root / 'cifar10'):
        tars = [folder / f'{name}.tar' for name in _SPLIT_NAMES[train]]
        folders = [folder / name for name in (*_SPLIT_NAMES[train], CIFAR10.base_folder)]
        for path in [*filter(Path.is_file, tars), *filter(Path.is_dir, folders)]:
            return path
    return None


def _load_torchvision(root: Path, train: bool, download: bool) -> Images:
    """Original CIFAR-10. Torchvision verifies the files by MD5 before it reads them."""
    try:
        dataset = CIFAR10(str(root), train, download=download)
    except (RuntimeError, OSError) as error:
        if download:
            raise CondnetError(f'cannot fetch CIFAR-10 into {root}: {error}') from error
        folder = root / CIFAR10.base_folder
        raise CondnetError(f'{folder} is incomplete or damaged (--download fetches CIFAR-10 again)') from error
    targets = torch.tensor(dataset.targets)
    order = targets.argsort(stable=True)
    images = torch.from_numpy(dataset.data).permute(0, 3, 1, 2)
    return Images(images[order].contiguous(), targets[order], tuple(dataset.classes))


def _scan(source: Path) -> _Files:
    """Image files of a tar file or folder, in any order."""
    files = _scan_tar(source) if source.is_file() else _scan_folder(source)
    if not files:
        raise CondnetError(f'{source} holds no images; expected files named class/image.jpg (or .png, ...)')
    return files


def _sort(files: _Files) -> _Files:
    """Image files in canonical order. Natural order alone would leave the order of 1.jpg and 01.jpg open."""
    return {key: files[key] for key in sorted(files, key=lambda key: [(natural_key(name), name) for name in key])}


def _is_image(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in _EXTENSIONS and not name.startswith('.')


def _scan_folder(source: Path) -> _Files:
    paths = source.glob('*/*')
    return {(path.parent.name, path.name): (path, 0, -1) for path in paths if _is_image(path.name)}


def _scan_tar(source: Path) -> _Files:
    try:
        with tarfile.open(source, 'r:') as tar:
            members = [member for member in tar if member.isfile()]
        with source.open('rb') as file:
            file.seek(-tarfile.BLOCKSIZE, io.SEEK_END)
            complete = not any(file.read())  # tarfile does not notice a file cut off between two members
    except (tarfile.TarError, OSError) as error:
        raise CondnetError(f'cannot read {source}: {error}') from error
    if not complete:
        raise CondnetError(f'{source} is cut off: the zeros at the end of a tar file are missing')
    paths = {PurePosixPath(member.name): (source, member.offset_data, member.size) for member in members}
    images = {path: location for path, location in paths.items() if _is_image(path.name)}
    for path in images:
        if not path.parent.name:
            raise CondnetError(f'{source}: {path} is in no class folder; expected files named class/image.jpg')
    files = {(path.parent.name, path.name): location for path, location in images.items()}
    if len(files) != len(images):
        raise CondnetError(f'{source} holds several images of one class and name; expected one set of class folders')
    return files


def _check_same_classes(source: Path, files: _Files, train_source: Path | None) -> None:
    if train_source is None or train_source.name == CIFAR10.base_folder:
        return
    differing = {name for name, _ in files} ^ {name for name, _ in _scan(train_source)}
    if differing:
        raise CondnetError(f'only one of {source} and {train_source} has the classes {", ".join(sorted(differing))}')


def _decode(source: Path, files: _Files) -> Images:
    """Decode images that are all of one size."""
    classes = tuple(dict.fromkeys(name for name, _ in files))
    number = {name: i for i, name in enumerate(classes)}
    pixels: np.ndarray | None = None
    for i, (key, location) in enumerate(files.items()):
        image = _read_image(f'{source}: {"/".join(key)}', *location)
        if pixels is None:
            pixels = np.empty((len(files), *image.shape), np.uint8)
        if image.shape != pixels.shape[1:]:
            (height, width, _), (first_height, first_width, _) = image.shape, pixels.shape[1:]
            raise CondnetError(
                f'{source}: {"/".join(key)} is {width}x{height}, images before it are {first_width}x{first_height}; '
                f"only images of one size are kept in memory, other data go through timm's loader (--dataset)"
            )
        pixels[i] = image
    targets = torch.tensor([number[name] for name, _ in files])
    return Images(torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(), targets, classes)


def _read_image(name: str, path: Path, offset: int, size: int) -> np.ndarray:
    """Pixels (H, W, 3)."""
    try:
        with path.open('rb') as file:
            file.seek(offset)
            return np.asarray(Image.open(io.BytesIO(file.read(size))).convert('RGB'))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # as Pillow's decoders raise
        raise CondnetError(f'cannot read the image {name}: {error}') from error


def check_size(images: Images, input_size: Sequence[int]) -> None:
    """Check that images are of the size that a model takes.

    Args:
        images: The images.
        input_size: Channels, height and width, as in `pretrained_cfg`.

    Raises:
        CondnetError: If they are not.
    """
    size = tuple(images.images.shape[1:])
    if size != tuple(input_size):
        raise CondnetError(
            f'images have {size[0]} channels and {size[1]}x{size[2]} pixels, the model takes {input_size[0]} channels '
            f'and {input_size[1]}x{input_size[2]}'
        )


def withheld_indices(targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Choose the images that are withheld from training: the last tenth of each class, at least one.

    Of CIFAR-10, these are positions 4500..4999 of every class.

    Args:
        targets: (N,) classes of the training set.

    Returns:
        Indices to train on and withheld indices, both ascending.

    Raises:
        CondnetError: If a class has only one image.
    """
    withheld = torch.zeros(len(targets), dtype=torch.bool)
    for target in targets.unique().tolist():
        members = (targets == target).nonzero().flatten()
        if len(members) < 2:
            raise CondnetError(f'class {target} has {len(members)} image, expected at least 2 to withhold one')
        withheld[members[-max(1, len(members) // 10) :]] = True
    return (~withheld).nonzero().flatten(), withheld.nonzero().flatten()


def subset_withheld(images: Images, num: int) -> Images:
    """Take the first `num` / classes of the withheld images of each class.

    Args:
        images: All withheld images.
        num: How many to take.

    Raises:
        CondnetError: If `num` is no positive multiple of the number of classes, or a class has fewer images.
    """
    per_class, rest = divmod(num, len(images.classes))
    if per_class < 1 or rest:
        raise CondnetError(
            f'cannot take {num} images (--eval-images), expected a multiple of the {len(images.classes)} classes'
        )
    least = int(images.targets.bincount(minlength=len(images.classes)).min())
    if per_class > least:
        raise CondnetError(
            f'cannot take {num} images (--eval-images), {per_class} of each class: a class has only {least} withheld'
        )
    members = [(images.targets == target).nonzero().flatten() for target in range(len(images.classes))]
    return images.select(torch.cat([indices[:per_class] for indices in members]).sort().values)


def calibration_indices(num_train: int, num: int = 5120, seed: int = 0) -> torch.Tensor:
    """Draw the images that BatchNorm is recalibrated with: the first `num` of a permutation of the training images.

    Args:
        num_train: Number of training images, the withheld ones not counted.
        num: How many to draw.
        seed: Seed of the permutation.

    Raises:
        CondnetError: If there are not so many training images.
    """
    if not 1 <= num <= num_train:
        raise CondnetError(f'cannot draw {num} calibration images, expected 1..{num_train} (number of training images)')
    return torch.randperm(num_train, generator=torch.Generator().manual_seed(seed))[:num]


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
    offset, scale = 255 * torch.tensor([mean, std], dtype=torch.float32, device=images.device).view(2, -1, 1, 1)
    return images.float().sub_(offset).div_(scale)


def _epoch_generator(seed: int, epoch: int, rank: int = 0) -> torch.Generator:
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
        generator = _epoch_generator(self.seed, self.epoch)
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
        self._generator.set_state(_epoch_generator(self.seed, self.epoch, self.rank).get_state())
        return itertools.islice(self.loader, start, None)

    def set_epoch(self, epoch: int) -> None:
        """Choose order and augmentation of the next iteration."""
        self.epoch = epoch
        if isinstance(sampler := self.loader.loader.sampler, DistributedSampler):
            # It adds seed and epoch, so that another seed would have the same orders in other epochs.
            sampler.seed = _epoch_generator(self.seed, epoch).initial_seed() - epoch
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


def dataset_name(images: Images) -> str:
    """Name of the data set that a training set belongs to, as far as classes, size and number of images tell.

    Returns:
        `cifar10`, `glyphs`, or else `other`.
    """
    if images.classes == CIFAR10_CLASSES and tuple(images.images.shape) == (CIFAR10_IMAGES, 3, 32, 32):
        return 'cifar10'
    return 'glyphs' if images.classes == GLYPH_CLASSES and tuple(images.images.shape[1:]) == (1, 16, 16) else 'other'


def augmentation_of(images: Images) -> dict[str, Any]:
    """How the training set that these images are of is augmented: arguments of `InMemoryLoader` and `augment`."""
    return GLYPH_AUGMENTATION if dataset_name(images) == 'glyphs' else AUGMENTATION
