"""Parts (splits) of the data sets that go through timm: found, opened, and kept apart.

timm takes the whole directory for a part that is not there, and numbers the classes of every part for itself. So class
folders and tar files are found and read by `condnet.data.folders` here; other data sets, whose parts and classes are
their own, are opened by timm.
"""

import hashlib
import logging
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import torch
from PIL import Image
from timm.data import create_dataset
from torch.utils.data import Dataset, IterableDataset

from condnet.data.folders import ImageFiles, find_images, natural_key, read_image
from condnet.errors import CondnetError

_logger = logging.getLogger(__name__)
_STREAMED = ('hfids', 'tfds', 'wds')
_TRAIN = ('train', 'training')
_VALIDATION = ('val', 'valid', 'validation', 'eval', 'evaluation')
_WITHOUT_VALIDATION = ('cifar10', 'cifar100', 'mnist', 'kmnist', 'fashion_mnist', 'qmnist')  # only train and test
_MOST_COMPARED = 256  # images
_MOST_COPIES = 0.05  # of the compared images; many data sets have a few


class ClassFolders(Dataset[Any]):
    """Images of a folder or tar file of class folders, for timm's loader, which sets `transform`.

    Args:
        name: What to call it in an error.
        files: Its images.
        classes: Names of the classes, in the order of their numbers.
        torchvision_order: Order the images as torchvision's `ImageFolder`; or else as timm's reader of folders.

    Raises:
        CondnetError: On access, if an image is damaged.
    """

    def __init__(self, name: str, files: ImageFiles, classes: list[str], torchvision_order: bool = False) -> None:
        self.name, self.files, self.classes = name, files, classes
        numbers = {name: i for i, name in enumerate(classes)}
        order = sorted(files, key=None if torchvision_order else lambda key: (natural_key('/'.join(key)), key))
        self.samples = [('/'.join(key), files[key], numbers[key[0]]) for key in order]
        self.transform: Callable[[Image.Image], Any] | None = None

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        name, location, target = self.samples[index]
        image = read_image(f'{self.name}: {name}', location)
        return image if self.transform is None else self.transform(image), target


def open_part(dataset: str, data_dir: str | Path, split: str, train_split: str, download: bool = False) -> Any:
    """Open a part of a data set.

    Args:
        dataset: Name as in timm's `create_dataset`.
        data_dir: Where the data set is.
        split: The part.
        train_split: The part that is trained on. Classes are numbered as in it.
        download: Fetch what is missing, where timm can.

    Raises:
        CondnetError: If timm cannot open the data set, it has no such part, or this is another part than the one to
            train on and has classes that it lacks, or images of it.
    """
    if _is_folders(dataset):
        return _open_folders(dataset, Path(data_dir), split, train_split)
    data = _open_with_timm(dataset, data_dir, split, download)
    if _prefix(dataset) == 'hfds' and split.strip() != train_split.strip():
        trained = _open_with_timm(dataset, data_dir, train_split, download)
        if class_numbers(data) != class_numbers(trained):
            raise CondnetError(f'{dataset}: the classes of {split!r} are not those of {train_split!r}')
        if _bases(split) & _bases(train_split) or 'all' in _bases(split) | _bases(train_split):
            _refuse_copies(
                f'{dataset}, {split!r},', repr(train_split), _contents_of_pixels(data), _contents_of_pixels(trained)
            )
    return data


def check_parts(dataset: str, data_dir: str | Path, train_split: str, split: str) -> None:
    """Check that two names are not those of one part. What they hold is compared by `open_part`.

    Raises:
        CondnetError: If they are, or there is no such part.
    """
    if _is_folders(dataset):
        where: str | Path = data_dir
        same = find_part(data_dir, train_split).resolve() == find_part(data_dir, split).resolve()
    else:
        where = dataset
        same = _torch_part(dataset, train_split) == _torch_part(dataset, split)
    if same:
        raise CondnetError(f'{train_split!r} (`train_split`) and {split!r} (`val_split`) are one part of {where}; '
                           'expected one that is not trained on')  # fmt: skip
    if split in _VALIDATION and _torch_part(dataset, split) == 'test':
        _logger.warning(f'{dataset} has no part to validate on: its test images are taken')


def class_numbers(data: Any) -> dict[Any, int]:
    """Numbers of the classes by their names; empty if the data set does not tell."""
    if isinstance(names := getattr(data, 'classes', None), list | tuple):
        return {name: i for i, name in enumerate(names)}
    return getattr(getattr(data, 'reader', data), 'class_to_idx', None) or {}


def find_part(data_dir: str | Path, split: str) -> Path:
    """Find a part of a data set in folders or tar files: `SPLIT/` or `SPLIT.tar`, or one by a synonym of timm's.

    Args:
        data_dir: Directory of the parts, or a tar file of this part.
        split: The part.

    Raises:
        CondnetError: If there is none, or several of one name.
    """
    root = Path(data_dir)
    if (part := _look_for(root, split)) is not None:
        return part
    if root.is_file():
        raise CondnetError(f'{root} is a file that is not known to be the part {split!r}; expected a directory with '
                           f'{split}/ or {split}.tar')  # fmt: skip
    if not root.is_dir():
        raise CondnetError(f'{root} is not a directory; expected one with {split}/ or {split}.tar')
    there = sorted(entry.name for entry in root.iterdir() if entry.is_dir() or entry.suffix == '.tar')
    raise CondnetError(f'{root} has no part {split!r}; expected {split}/ or {split}.tar, and there is '
                       f'{", ".join(there[:10]) or "no such thing"}')  # fmt: skip


def _look_for(root: Path, split: str) -> Path | None:
    path = PurePosixPath(split)
    if not path.parts or path.is_absolute() or '..' in path.parts:
        raise CondnetError(f'{split!r} is not a name of a part; expected that of a folder or tar file in {root}')
    synonyms = next((names for names in (_TRAIN, _VALIDATION) if split in names), (split,))
    if root.is_file():
        return root if root.suffix == '.tar' and root.stem in synonyms else None
    for names in ((split,), synonyms):
        found = [folder for name in names if (folder := root / name).is_dir()]
        found += [file for name in names if (file := root / f'{name}.tar').is_file()]
        if len(found) > 1:
            raise CondnetError(f'{root} holds {" and ".join(file.name for file in found)}, which may differ; expected '
                               'one of them (move the others away)')  # fmt: skip
        if found:
            return found[0]
    return None


def _prefix(dataset: str) -> str:
    return dataset.partition('/')[0].lower() if '/' in dataset else ''


def _torch_name(dataset: str) -> str:
    return dataset.split('/', 2)[-1].lower() if _prefix(dataset) == 'torch' else ''


def _is_folders(dataset: str) -> bool:
    return _prefix(dataset) not in ('torch', 'hfds', *_STREAMED) or _torch_name(dataset) in ('folder', 'image_folder')


def _torch_part(dataset: str, split: str) -> str:
    """Which part timm opens."""
    if not (name := _torch_name(dataset)):
        return split.strip()
    if split in _TRAIN:
        return 'train'
    return 'test' if name in _WITHOUT_VALIDATION else 'val' if split in _VALIDATION else split


def _bases(split: str) -> set[str]:
    """The parts that a part such as train[:90%]+test is made of."""
    return {part.partition('[')[0].strip() for part in split.split('+')}


def _open_with_timm(dataset: str, data_dir: str | Path, split: str, download: bool) -> Any:
    known = {*_TRAIN, *_VALIDATION, 'test'}
    if _prefix(dataset) == 'torch' and split not in known:  # timm would give the test set
        raise CondnetError(f'{dataset} has no split {split!r}, expected one of {", ".join(sorted(known))}')
    if _prefix(dataset) in _STREAMED:
        raise CondnetError(f'data set {dataset!r} is streamed; expected one whose images can be read in any order')
    try:
        data = create_dataset(dataset, root=str(data_dir), split=split, download=download)
    except (AssertionError, EOFError, ImportError, LookupError, OSError, RuntimeError, TypeError, ValueError) as error:
        reason = ' '.join(str(error).split())
        raise CondnetError(
            f'timm cannot open data set {dataset!r}, split {split!r}, in {data_dir}: {reason}'
        ) from error
    if isinstance(data, IterableDataset):
        raise CondnetError(f'data set {dataset!r} is streamed; expected one whose images can be read in any order')
    return data


def _open_folders(dataset: str, root: Path, split: str, train_split: str) -> ClassFolders:
    source, train_source = find_part(root, split), _look_for(root, train_split)
    files = trained = find_images(source)
    if train_source not in (None, source):  # without it there is nothing to compare with
        trained = find_images(train_source)
        if unknown := {name for name, _ in files} - {name for name, _ in trained}:
            raise CondnetError(f'{source} has classes that {train_source} lacks: {", ".join(sorted(unknown))}')
        _refuse_copies(str(source), str(train_source), _contents_of_files(files), _contents_of_files(trained))
    torchvision_order = _prefix(dataset) == 'torch'
    classes = sorted(
        {name for name, _ in trained}, key=lambda name: ([] if torchvision_order else natural_key(name), name)
    )
    return ClassFolders(str(source), files, classes, torchvision_order)


class _Contents(NamedTuple):
    """What tells whether images are the same.

    Args:
        identities: Images with one of them are one; None if there are none.
        sizes: Images that differ in them differ.
        digest: Digest of the image of a number.
    """

    identities: set[tuple[Any, int]]
    sizes: list[int]
    digest: Callable[[int], bytes]


def _contents_of_files(files: ImageFiles) -> _Contents:
    locations = list(files.values())
    identities: set[tuple[Any, int]] = set()
    sizes = []
    for path, offset, size in locations:
        if size < 0:
            status = os.stat(path)
            identities.add((status.st_dev, status.st_ino))
        else:
            identities.add((path, offset))
        sizes.append(status.st_size if size < 0 else size)

    def digest(index: int) -> bytes:
        path, offset, size = locations[index]
        with open(path, 'rb') as file:
            file.seek(offset)
            return hashlib.sha256(file.read(size)).digest()

    return _Contents(identities, sizes, digest)


def _contents_of_pixels(data: Any) -> _Contents:
    return _Contents(set(), [0] * len(data), lambda index: hashlib.sha256(data[index][0].tobytes()).digest())


def _refuse_copies(name: str, train_name: str, images: _Contents, trained: _Contents) -> None:
    """Check that images are no copies of training images, those drawn with seed 0 by content."""
    if same := len(images.identities & trained.identities):
        raise CondnetError(f'{name} and {train_name} have {same} images in common; expected none')
    chosen = torch.randperm(len(images.sizes), generator=torch.Generator().manual_seed(0))[:_MOST_COMPARED].tolist()
    sizes = {images.sizes[i] for i in chosen}
    counts = Counter(trained.digest(i) for i, size in enumerate(trained.sizes) if size in sizes)
    copies = sum(counts[images.digest(i)] == 1 for i in chosen)  # if many are equal, that they are says nothing
    if copies > _MOST_COPIES * len(chosen):
        raise CondnetError(f'{copies} of {len(chosen)} images of {name} are copies of images of {train_name}; expected '
                           'images that are not trained on')  # fmt: skip
