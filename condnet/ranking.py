"""Predictions for many architectures: the plain, obviously right loop.

For each architecture: activate it, recalibrate BatchNorm, validate, and give the super-network its statistics back.
So no result depends on what was evaluated before, and the super-network is not changed.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from condnet.calibration import CALIBRATION_BATCH_SIZE, calibrate, preserved_statistics
from condnet.data import Images, calibration_indices, normalize, subset_withheld, withheld_indices
from condnet.models.supernet import Supernet
from condnet.spaces import Arch


@dataclass(frozen=True)
class EvaluationData:
    """What architectures are evaluated on; all tensors are on the model's device.

    Args:
        calibration: Normalised training images (N, C, H, W) for BatchNorm.
        images: Normalised withheld images (M, C, H, W).
        targets: Their labels (M,).
        batch_size: Validation images per forward pass; it is not part of the result.
        momentum: BatchNorm momentum of the recalibration, see `condnet.calibrate`.
        amp_dtype: Data type of autocast, or None for none.
    """

    calibration: torch.Tensor
    images: torch.Tensor
    targets: torch.Tensor
    batch_size: int = CALIBRATION_BATCH_SIZE
    momentum: float | None = None
    amp_dtype: torch.dtype | None = None


@dataclass(frozen=True)
class Prediction:
    """What a super-network says of an architecture: official index, accuracy in percent, cross-entropy."""

    index: int
    accuracy: float
    loss: float


@torch.no_grad()
def accuracy_and_loss(model: nn.Module, data: EvaluationData) -> tuple[float, float]:
    """Accuracy in percent and mean cross-entropy of a network as it is; it is left in eval mode."""
    model.eval()
    correct, loss = torch.zeros((), dtype=torch.int64), torch.zeros((), dtype=torch.float64)
    for images, targets in zip(data.images.split(data.batch_size), data.targets.split(data.batch_size), strict=True):
        logits = model(images).float()
        loss += F.cross_entropy(logits, targets, reduction='none').double().sum().cpu()
        correct += (logits.argmax(1) == targets).sum().cpu()
    return 100 * correct.item() / len(data.targets), loss.item() / len(data.targets)


def evaluate_subnet(model: nn.Module, arch: 'str | int | Arch', data: EvaluationData) -> Prediction:
    """Recalibrate and validate one architecture; the super-network is left as it was.

    Raises:
        ValueError: If it is no architecture of the model's search space, or its loss is not finite.
    """
    if not isinstance(model, Supernet):
        raise ValueError(f'only a super-network predicts architectures, not {type(model).__name__}')
    active, training = model.active_subnet, model.training
    model.set_active_subnet(arch)
    device_type = data.images.device.type
    try:
        with preserved_statistics(model), torch.autocast(device_type, data.amp_dtype, data.amp_dtype is not None):
            calibrate(model, data.calibration, momentum=data.momentum)
            accuracy, loss = accuracy_and_loss(model, data)
    finally:
        model.train(training)
        model.set_active_subnet(active)
    if not math.isfinite(loss):
        raise ValueError(f'the validation loss of architecture {model.space.format(arch)} is {loss}')
    return Prediction(model.space.index(arch), accuracy, loss)


def predict(model: nn.Module, archs: Iterable['str | int | Arch'], data: EvaluationData) -> Iterator[Prediction]:
    """Predictions for architectures, one after the other."""
    for arch in archs:
        yield evaluate_subnet(model, arch, data)


def choose_images(images: Images, num_batches: int = 20, num_images: int | None = None) -> tuple[Images, Images]:
    """Choose calibration and withheld images from a training set, the same ones every time.

    Args:
        images: The whole training set, the withheld images included.
        num_batches: Calibration batches of 256.
        num_images: How many of the withheld images, equally many of each class; None for all.

    Raises:
        ValueError: If the data set does not have so many images.
    """
    trained, withheld = withheld_indices(images.targets)
    chosen = calibration_indices(len(trained), num_batches * CALIBRATION_BATCH_SIZE)
    validation = images.select(withheld)
    if num_images is not None:
        validation = subset_withheld(validation, num_images)
    return images.select(trained[chosen]), validation


def evaluation_data(
    calibration: Images,
    validation: Images,
    config: dict[str, Any],
    device: torch.device | str = 'cpu',
    channels_last: bool = False,
    **kwargs: Any,
) -> EvaluationData:
    """Normalise images for evaluation.

    Args:
        calibration: Training images for BatchNorm.
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

    return EvaluationData(prepare(calibration), prepare(validation), validation.targets.to(device), **kwargs)
