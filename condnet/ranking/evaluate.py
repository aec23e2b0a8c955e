"""Evaluation of architectures in the plain way: recalibrate BatchNorm, then validate."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from condnet.data import (
    Augmentation,
    Images,
    augment,
    augmentation_of,
    calibration_indices,
    calibration_size,
    normalize,
    subset_withheld,
    withheld_indices,
)
from condnet.errors import CondnetError
from condnet.models.supernet import Supernet
from condnet.ranking.calibration import CALIBRATION_BATCH_SIZE, calibrate, preserved_modes, preserved_statistics
from condnet.spaces.base import Arch, SearchSpace

DEFAULT_MEMORY = 6_000_000_000  # bytes of activations


@dataclass(frozen=True)
class EvaluationData:
    """What architectures are evaluated on; all tensors are on the model's device.

    Args:
        calibration: Normalised training images (N, C, H, W) for BatchNorm; None where nothing is calibrated, as a
            stand-alone network is not.
        images: Normalised withheld images (M, C, H, W).
        targets: Their labels (M,).
        batch_size: Validation images per forward pass; the result depends on it by no more than rounding.
        momentum: BatchNorm momentum of the recalibration, see `condnet.calibrate`.
        amp_dtype: Data type of autocast, or None for none.
        memory: Bytes of activations that `predict` keeps; what does not fit is computed again. Not part of the result.

    Raises:
        CondnetError: If there is nothing to validate on, or not one label for each image.
    """

    calibration: torch.Tensor | None
    images: torch.Tensor
    targets: torch.Tensor
    batch_size: int = CALIBRATION_BATCH_SIZE
    momentum: float | None = None
    amp_dtype: torch.dtype | None = None
    memory: int = DEFAULT_MEMORY

    def __post_init__(self) -> None:
        for name, value in (('images', self.images), ('targets', self.targets)):
            if not isinstance(value, torch.Tensor):
                raise CondnetError(f'{name} are of type {type(value).__name__}, expected a tensor')
        if not 0 < len(self.images) == len(self.targets):
            raise CondnetError(f'got {len(self.images)} images and {len(self.targets)} targets to validate on, '
                               'expected as many, and at least one')  # fmt: skip
        for name, tensor in (('images', self.images), ('calibration images', self.calibration)):
            if isinstance(tensor, torch.Tensor) and not tensor.isfinite().all():
                raise CondnetError(f'of the {name} some numbers are not finite')

    def to_calibrate(self) -> torch.Tensor:
        """The images for BatchNorm.

        Raises:
            CondnetError: If there are none.
        """
        if self.calibration is None:
            raise CondnetError('calibration needs images, got none')
        return self.calibration


@dataclass(frozen=True)
class Prediction:
    """What a super-network says of an architecture: official index, accuracy in percent, cross-entropy."""

    index: int
    accuracy: float
    loss: float


@torch.no_grad()
def accuracy_and_loss(model: nn.Module, data: EvaluationData) -> tuple[float, float]:
    """Accuracy in percent and mean cross-entropy of a timm model as it is; it is left in eval mode."""
    model.eval()
    if isinstance(model, Supernet):
        model.check_statistics()  # as its own forward pass would
    logits = []
    for images in data.images.split(data.batch_size):
        with autocast(data):
            features = model.forward_features(images)  # type: ignore[operator]  # every timm model has one
        logits.append(model.forward_head(features.float()))  # type: ignore[operator]
    return score(logits, data)


def score(logits: list[torch.Tensor], data: EvaluationData) -> tuple[float, float]:
    """Accuracy in percent and mean cross-entropy of the logits (B, num_classes) of all batches."""
    pairs = list(zip(logits, data.targets.split(data.batch_size), strict=True))
    losses = [F.cross_entropy(batch.float(), targets, reduction='none').double().sum() for batch, targets in pairs]
    correct = [(batch.argmax(1) == targets).sum().double() for batch, targets in pairs]
    totals = torch.stack([torch.stack(correct).sum(), torch.stack(losses).sum()]).tolist()  # the one synchronisation
    return 100 * totals[0] / len(data.targets), totals[1] / len(data.targets)


def evaluate_subnet(model: nn.Module, arch: 'str | int | Arch', data: EvaluationData) -> Prediction:
    """Recalibrate and validate one architecture, in the plain way; the super-network is left as it was.

    Raises:
        CondnetError: If it is not an architecture of the model's search space, or its loss is not finite.
    """
    model = as_supernet(model)
    with calibrated_for(model, arch, data):
        accuracy, loss = accuracy_and_loss(model, data)
    return make_prediction(model.space, model.space.parse(arch), accuracy, loss)


@contextmanager
def calibrated_for(model: Supernet, arch: 'str | int | Arch', data: EvaluationData) -> Iterator[None]:
    """An architecture is active and calibrated; afterwards the super-network is as it was."""
    with preserved_modes(model), model.subnet(arch), preserved_statistics(model):
        with autocast(data):
            calibrate(model, data.to_calibrate(), momentum=data.momentum)
        yield


def as_supernet(model: nn.Module) -> Supernet:
    """The model, which must be a super-network.

    Raises:
        CondnetError: If it is none.
    """
    if not isinstance(model, Supernet):
        raise CondnetError(f'only a super-network predicts architectures, not {type(model).__name__}')
    return model


def autocast(data: EvaluationData) -> torch.autocast:
    """The precision that the data is evaluated in: of the features; the head stays in float32.

    It costs next to nothing, and logits of 8 significant bits are often equal for two classes.
    """
    return torch.autocast(data.images.device.type, data.amp_dtype, data.amp_dtype is not None)


def make_prediction(space: SearchSpace, arch: Arch, accuracy: float, loss: float) -> Prediction:
    """A prediction.

    Raises:
        CondnetError: If the loss is not finite.
    """
    if not math.isfinite(loss):
        raise CondnetError(f'the validation loss of architecture {space.format(arch)} is {loss}')
    return Prediction(space.index(arch), accuracy, loss)


def choose_images(
    images: Images,
    num_batches: int = 20,
    num_images: int | None = None,
    augmented: bool = True,
    augmentation: Augmentation | None = None,
) -> tuple[Images, Images]:
    """Choose calibration and withheld images from a training set, the same ones every time.

    Args:
        images: The whole training set, the withheld images included.
        num_batches: Calibration batches of 256, or fewer where there are no more training images, see
            `condnet.data.calibration_size`. Crops and flips depend on it.
        num_images: How many of the withheld images, equally many of each class; None for all.
        augmented: Crop and flip the calibration images, from a fixed seed: in training BatchNorm has normalised by
            the statistics of such images, and the weights have learned with that.
        augmentation: What the training has set of it; None for nothing.

    Raises:
        CondnetError: If the data set does not have so many images.
    """
    trained = withheld_indices(images.targets)[0]
    num = calibration_size(len(trained), num_batches * CALIBRATION_BATCH_SIZE)
    chosen = calibration_indices(len(trained), num)
    validation = choose_validation(images, num_images)
    calibration = images.select(trained[chosen])
    return augment(calibration, **augmentation_of(images, augmentation)) if augmented else calibration, validation


def choose_validation(images: Images, num_images: int | None = None) -> Images:
    """Choose withheld images from a training set: so many, equally many of each class, or all.

    Raises:
        CondnetError: If there are fewer.
    """
    validation = images.select(withheld_indices(images.targets)[1])
    return validation if num_images is None else subset_withheld(validation, num_images)


def evaluation_data(
    calibration: Images | None,
    validation: Images,
    config: dict[str, Any],
    device: torch.device | str = 'cpu',
    channels_last: bool = False,
    **kwargs: Any,
) -> EvaluationData:
    """Normalise images for evaluation.

    Args:
        calibration: Training images for BatchNorm, as `choose_images` gives them; None for none.
        validation: Images that were not trained on.
        config: `pretrained_cfg` of the model (mean, std).
        device: Where they go.
        channels_last: Their memory layout.
        **kwargs: Further fields of `EvaluationData`.
    """
    memory_format = torch.channels_last if channels_last else torch.contiguous_format

    def prepare(images: Images) -> torch.Tensor:
        pixels = normalize(images.images.to(device), config['mean'], config['std'])
        return pixels.contiguous(memory_format=memory_format)

    prepared = None if calibration is None else prepare(calibration)
    return EvaluationData(prepared, prepare(validation), validation.targets.to(device), **kwargs)
