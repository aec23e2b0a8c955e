"""Which images are withheld from training, and which calibrate BatchNorm."""

import logging

import torch

from condnet.data.images import Images
from condnet.errors import CondnetError

_logger = logging.getLogger(__name__)


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
        CondnetError: If `num` is not a positive multiple of the number of classes, or a class has fewer images.
    """
    per_class, rest = divmod(num, len(images.classes))
    if per_class < 1 or rest:
        raise CondnetError(
            f'cannot take {num} images (`eval_images`), expected a multiple of the {len(images.classes)} classes'
        )
    least = int(images.targets.bincount(minlength=len(images.classes)).min())
    if per_class > least:
        raise CondnetError(
            f'cannot take {num} images (`eval_images`), {per_class} of each class: a class has only {least} withheld'
        )
    members = [(images.targets == target).nonzero().flatten() for target in range(len(images.classes))]
    return images.select(torch.cat([indices[:per_class] for indices in members]).sort().values)


def calibration_size(num_train: int, num: int, batch_size: int = 256) -> int:
    """How many images BatchNorm is recalibrated with: as many as asked for, or all whole batches where there are fewer.

    Of less than one batch it is all images. A last batch of few would weigh as much as the others.

    Args:
        num_train: Number of training images, the withheld ones not counted.
        num: How many are asked for.
        batch_size: Images per batch.
    """
    if num <= num_train:
        return num
    fewer = num_train // batch_size * batch_size or num_train
    _logger.info(f'BatchNorm is calibrated on {fewer} images instead of {num}: there are {num_train} to train on')
    return fewer


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
