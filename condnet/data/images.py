"""Reading: CIFAR-10 and other sets of small images in memory.

Images are kept in a canonical order, sorted by class and position within the class. So an index names the same image
in every copy of a data set, be it the original download, folders or tar files.
"""

import hashlib
import string
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torchvision.datasets import CIFAR10

from condnet.data.folders import ImageFiles, find_images, natural_key, read_image
from condnet.errors import CondnetError

CIFAR10_CLASSES = ('airplane', 'automobile', 'bird', 'cat', 'deer', 'dog', 'frog', 'horse', 'ship', 'truck')
GLYPH_CLASSES = tuple(string.ascii_uppercase)
CIFAR10_IMAGES = 50_000  # in the training set
_SPLIT_NAMES = {True: ('train',), False: ('test', 'val', 'valid', 'validation')}


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


def load_images(data_dir: str | Path, train: bool = True, download: bool = False) -> Images:
    """Read a data set of small RGB images into memory, in canonical order.

    What is there is taken, in `data_dir` or in its subfolder `cifar10`: `train.tar` and `test.tar` with files named
    `class/image`; folders `train` and `test` of class folders; or CIFAR-10 as torchvision keeps it. Without `test`,
    the test set is `val`, `valid` or `validation`. The position of an image within its class is the natural order of
    the file names, and in torchvision's CIFAR-10 the order in its files.

    Args:
        data_dir: Where the data set is.
        train: The training set, or else the test set.
        download: Fetch CIFAR-10 into `data_dir` if it holds no data set.

    Raises:
        CondnetError: If there is no data set or several, it is damaged, an image or a class would be left out (see
            `condnet.data.folders`), its images differ in size, or the classes of the test set are not those of the
            training set.
    """
    root = Path(data_dir)
    if not root.is_dir() and not (download and not root.exists()):
        raise CondnetError(f'{root} is not a directory; expected one with a data set (`download` fetches CIFAR-10)')
    source = _find_source(root, train)
    if source is None and not download:
        names = ', '.join(f'{name}.tar, {name}/' for name in _SPLIT_NAMES[train])
        raise CondnetError(
            f'{root} {"holds no known data set" if any(root.iterdir()) else "is empty"}; looked for {names} and '
            f'{CIFAR10.base_folder}/, there and in cifar10/ (`download` fetches CIFAR-10)'
        )
    if source is None or source.name == CIFAR10.base_folder:
        return _load_torchvision(source.parent if source else root, train, download)
    files = find_images(source)
    if not train and (train_source := _find_source(root, train=True)):
        _check_same_classes(source, files, train_source)
    return _decode(source, _sort(files))


def holds_images(data_dir: str | Path, train: bool = True) -> bool:
    """Whether there is something that `load_images` would read."""
    return _find_source(Path(data_dir), train) is not None


def holds_names(data_dir: str | Path) -> bool:
    """Whether the training images there are files with names, and not CIFAR-10 as torchvision keeps it."""
    source = _find_source(Path(data_dir), train=True)
    return source is not None and source.name != CIFAR10.base_folder


def _find_source(root: Path, train: bool) -> Path | None:
    """Path of a tar file, a folder of class folders, or torchvision's folder; None if there is none of them.

    Raises:
        CondnetError: If there are several, one of which may be left over from before.
    """
    found = []
    for folder in (root, root / 'cifar10'):
        found += [path for name in _SPLIT_NAMES[train] if (path := folder / f'{name}.tar').is_file()]
        found += [path for name in (*_SPLIT_NAMES[train], CIFAR10.base_folder) if (path := folder / name).is_dir()]
    if not train:
        if beside := _find_source(root, train=True):
            found = [path for path in found if path.parent == beside.parent]
        found = [path for path in found if path.stem in ('test', CIFAR10.base_folder)] or found
    if len(found) > 1:
        names = ' and '.join(str(path.relative_to(root)) for path in found)
        raise CondnetError(f'{root} holds {names}, which may differ; expected one of them (move the others away)')
    return found[0] if found else None


def _load_torchvision(root: Path, train: bool, download: bool) -> Images:
    """Original CIFAR-10. Torchvision verifies the files by MD5 before it reads them."""
    try:
        dataset = CIFAR10(str(root), train, download=download)
    except (RuntimeError, OSError) as error:
        if download:
            raise CondnetError(f'cannot fetch CIFAR-10 into {root}: {error}') from error
        folder = root / CIFAR10.base_folder
        raise CondnetError(f'{folder} is incomplete or damaged (`download` fetches CIFAR-10 again)') from error
    targets = torch.tensor(dataset.targets)
    order = targets.argsort(stable=True)
    images = torch.from_numpy(dataset.data).permute(0, 3, 1, 2)
    return Images(images[order].contiguous(), targets[order], tuple(dataset.classes))


def _sort(files: ImageFiles) -> ImageFiles:
    """Image files in canonical order. Natural order alone would leave the order of 1.jpg and 01.jpg open."""
    return {key: files[key] for key in sorted(files, key=lambda key: [(natural_key(name), name) for name in key])}


def _check_same_classes(source: Path, files: ImageFiles, train_source: Path) -> None:
    differing = {name for name, _ in files} ^ {name for name, _ in find_images(train_source)}
    if differing:
        raise CondnetError(f'only one of {source} and {train_source} has the classes {", ".join(sorted(differing))}')


def _decode(source: Path, files: ImageFiles) -> Images:
    """Decode images that are all of one size."""
    classes = tuple(dict.fromkeys(name for name, _ in files))
    number = {name: i for i, name in enumerate(classes)}
    pixels: np.ndarray | None = None
    for i, (key, location) in enumerate(files.items()):
        image = np.asarray(read_image(f'{source}: {"/".join(key)}', location))
        if pixels is None:
            pixels = np.empty((len(files), *image.shape), np.uint8)
        if image.shape != pixels.shape[1:]:
            (height, width, _), (first_height, first_width, _) = image.shape, pixels.shape[1:]
            raise CondnetError(
                f'{source}: {"/".join(key)} is {height}x{width}, images before it are {first_height}x{first_width} '
                "(height x width); only images of one size are kept in memory, other data go through timm's loader "
                '(`dataset`)'
            )
        pixels[i] = image
    targets = torch.tensor([number[name] for name, _ in files])
    return Images(torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(), targets, classes)


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


def dataset_name(images: Images) -> str:
    """Name of the data set that a training set belongs to, as far as classes, size and number of images tell.

    Returns:
        `cifar10`, `glyphs`, or else `other`.
    """
    if images.classes == CIFAR10_CLASSES and tuple(images.images.shape) == (CIFAR10_IMAGES, 3, 32, 32):
        return 'cifar10'
    return 'glyphs' if images.classes == GLYPH_CLASSES and tuple(images.images.shape[1:]) == (1, 16, 16) else 'other'
