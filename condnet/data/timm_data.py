"""Data sets that go through timm's loader."""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from timm.data import create_loader
from torch.utils.data.distributed import DistributedSampler

from condnet.data.augmentation import Augmentation, seeded
from condnet.data.images import Images
from condnet.data.loader import Batch, epoch_generator
from condnet.data.parts import check_parts, class_numbers, open_part
from condnet.data.splits import calibration_size
from condnet.data.statistics import channel_statistics
from condnet.errors import CondnetError

_STATISTICS_IMAGES = 500  # of them mean and deviation are estimated, as a data set may be of any size


class TimmLoader:
    """timm's loader with an order and an augmentation that depend on seed and epoch only.

    timm's own loader draws from the global random state. Of several processes, each augments differently.
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

        Raises:
            CondnetError: If an image is damaged.
        """
        generator = epoch_generator(self.seed, self.epoch, self.rank)
        self._generator.set_state(generator.get_state())
        return _without_traceback(itertools.islice(self._batches(generator.initial_seed()), start, None))

    def _batches(self, seed: int) -> Iterator[Batch]:
        """All batches. What this process draws for one, to erase regions, or without workers, is of its number."""
        batches = iter(self.loader)
        for number in itertools.count(seed):
            with seeded(number, self.loader.device):
                batch = next(batches, None)
            if batch is None:
                return
            yield batch

    def set_epoch(self, epoch: int) -> None:
        """Choose order and augmentation of the next iteration."""
        self.epoch = epoch
        if isinstance(sampler := self.loader.loader.sampler, DistributedSampler):
            # It adds seed and epoch, so that another seed would have the same orders in other epochs.
            sampler.seed = epoch_generator(self.seed, epoch).initial_seed() - epoch
            sampler.set_epoch(epoch)


def _without_traceback(batches: Iterator[Batch]) -> Iterator[Batch]:
    """Have the errors of the workers, which come with their traceback, say only what is wrong."""
    try:
        yield from batches
    except CondnetError as error:
        raise CondnetError(str(error).rstrip().splitlines()[-1].removeprefix(f'{_ERROR_NAME}: ')) from error


_ERROR_NAME = f'{CondnetError.__module__}.{CondnetError.__qualname__}'


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
    train_split: str = 'train',
    num_classes: int | None = None,
    augmentation: Augmentation | None = None,
    pin_mem: bool = False,
    worker_seeding: str = 'all',
) -> TimmLoader:
    """Load any data set that timm knows, with timm's transforms.

    In training these are by default a random resized crop, a flip and colour jitter, not what `InMemoryLoader` does. In
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
        train_split: The part that is trained on. Classes are numbered as in it, and another part must not have images
            of it.
        num_classes: How many classes there may be; None for any number.
        augmentation: That of training; None for timm's default.
        pin_mem: Whether batches are loaded into pinned memory.
        worker_seeding: timm's mode: `all` seeds NumPy's numbers in a worker as Python's and torch's, `part` leaves them
            to torch.

    Raises:
        CondnetError: If timm cannot open the data set, it has no such part, there are more classes, or another part
            than the one to train on has classes that it lacks, or images of it, or timm knows no such augmentation.
    """
    data = open_part(dataset, data_dir, split, train_split, download=download)
    if num_classes is not None and (known := len(class_numbers(data))) > num_classes:
        raise CondnetError(f'`num_classes` is {num_classes}, but {dataset or data_dir} has {known} classes')
    loader = _create_loader(
        data,
        augmentation if train and augmentation else Augmentation(),
        input_size=input_size,
        batch_size=batch_size // world_size,
        is_training=train,
        mean=tuple(mean),
        std=tuple(std),
        num_workers=workers,
        device=torch.device(device),
        distributed=world_size > 1,
        pin_memory=pin_mem,
        worker_seeding=worker_seeding,
    )
    return TimmLoader(loader, seed, rank)


def _create_loader(data: Any, augmentation: Augmentation, **more: Any) -> Any:
    """timm's loader."""
    fixed: dict[str, Any] = {
        'crop_pct': 1.0,  # timm would enlarge images by 1/7 and cut off their borders in evaluation
        'persistent_workers': False,  # workers that live on are not seeded again
    }
    try:
        return create_loader(data, **fixed, **more, **augmentation.arguments())
    except (AssertionError, ValueError, KeyError, IndexError, TypeError) as error:  # whatever a policy leads timm to
        if augmentation.aa is None:
            raise
        raise CondnetError(f'`aa` is {augmentation.aa!r}, which timm does not know: {error}') from error


def choose_timm_images(
    dataset: str,
    data_dir: str | Path,
    splits: tuple[str, str],
    nums: tuple[int, int],
    input_size: tuple[int, int, int],
    *,
    download: bool = False,
    augmented: bool = True,
    at_most: bool = False,
    augmentation: Augmentation | None = None,
) -> tuple[Images | None, Images]:
    """Choose calibration and validation images, the same ones every time, as `choose_images` does of images in memory.

    Args:
        dataset: Name as in timm's `create_dataset`.
        data_dir: Where the data set is.
        splits: The part that is trained on, and the one to validate on.
        nums: How many images of each; of the former fewer where there are no more, see `calibration_size`, and 0 for
            none, where nothing is calibrated.
        input_size: Channels, height and width.
        download: Fetch what is missing, where timm can.
        augmented: Augment the calibration images as in training: with the transforms of single images. What is done to
            whole batches, random erasing and mixing, is left out: statistics are of images as they are predicted.
        at_most: Validate on fewer images where there are no more.
        augmentation: That of the training; None for timm's default.

    Raises:
        CondnetError: If the parts are not disjoint, their classes differ, or one of them is missing or has fewer
            images.
    """
    train_split, split = splits
    check_parts(dataset, data_dir, train_split, split)
    where = dataset, data_dir
    calibration = None
    if nums[0]:
        calibration = timm_images(
            *where,
            train_split,
            nums[0],
            input_size,
            download=download,
            train=augmented,
            train_split=train_split,
            at_most=True,
            augmentation=augmentation,
        )
        calibration = calibration.select(torch.arange(calibration_size(len(calibration), nums[0])))
    validation = timm_images(
        *where, split, nums[1], input_size, download=download, train_split=train_split, at_most=at_most
    )
    return calibration, validation


def timm_images(
    dataset: str,
    data_dir: str | Path,
    split: str,
    num: int,
    input_size: tuple[int, int, int],
    *,
    download: bool = False,
    train: bool = False,
    train_split: str = 'train',
    at_most: bool = False,
    augmentation: Augmentation | None = None,
) -> Images:
    """Some images of a data set that timm knows, the same ones every time.

    Args:
        dataset: Name as in timm's `create_dataset`.
        data_dir: Where the data set is.
        split: Its part.
        num: How many; they are drawn with seed 0.
        input_size: Channels, height and width.
        download: Fetch what is missing, where timm can.
        train: Augment them as in training, from seed 0, without random erasing; or else timm's evaluation transform.
        train_split: The part that is trained on, as `create_timm_loader` takes it.
        at_most: Take all where there are fewer.
        augmentation: That of training; None for timm's default.

    Raises:
        CondnetError: As `create_timm_loader`, or if there are fewer images.
    """
    data = _single_images(
        dataset,
        data_dir,
        split,
        input_size,
        train=train,
        download=download,
        train_split=train_split,
        augmentation=augmentation,
    )
    num = min(num, len(data)) if at_most else num
    if len(data) < num:
        raise CondnetError(f'{dataset}, split {split!r}, has {len(data)} images, expected at least {num}; the '
                           'settings for calibration batches and `eval_images` say how many')  # fmt: skip
    return _draw(data, num)


def describe_timm_data(
    dataset: str, data_dir: str | Path, split: str, input_size: tuple[int, int, int], download: bool = False
) -> dict[str, Any]:
    """What a model's `pretrained_cfg` says of a data set: `mean` and `std` of some images, and `label_names`.

    What cannot be told is left out. Arguments and errors are those of `timm_images`; `split` is that to train on.
    """
    data = _single_images(dataset, data_dir, split, input_size, train=False, download=download, train_split=split)
    found: dict[str, Any] = {}
    numbers = class_numbers(data)
    names = sorted(numbers, key=lambda name: numbers[name])
    if [numbers[name] for name in names] == list(range(len(names))) and all(isinstance(name, str) for name in names):
        found['label_names'] = names
    # CIFAR-10 by any name keeps its published statistics.
    if dataset.rpartition('/')[2].lower() != 'cifar10' and len(data) > 0:
        images = _draw(data, min(len(data), _STATISTICS_IMAGES)).images
        if images.shape[1] == input_size[0]:
            found['mean'], found['std'] = map(list, channel_statistics(images))
    return found


def _single_images(
    dataset: str, data_dir: str | Path, split: str, input_size: tuple[int, int, int], **more: Any
) -> Any:
    """A data set that gives images (C, H, W), uint8, as the transforms of `create_timm_loader` make them."""
    mean, std = (0.0,) * input_size[0], (1.0,) * input_size[0]
    loader = create_timm_loader(
        dataset, data_dir, split, input_size=input_size, batch_size=1, mean=mean, std=std, **more
    )
    return loader.loader.dataset


def _draw(data: Any, num: int) -> Images:
    """Images of a data set as its transforms give them, drawn with seed 0."""
    chosen = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))[:num].tolist()
    with seeded(0):
        pairs = [data[i] for i in chosen]
    targets = torch.tensor([int(target) for _, target in pairs])
    return Images(torch.stack([torch.as_tensor(image) for image, _ in pairs]), targets, ())
