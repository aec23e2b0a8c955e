"""BatchNorm recalibration: statistics of one architecture, estimated just before it is evaluated.

While a super-network trains, the running statistics of its BatchNorm layers mix all architectures and fit none.
Source: SPOS (Guo et al., 2020); "Conditional super-network weights", appendix B (20 forward passes).
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from condnet.errors import CondnetError
from condnet.models.supernet import Supernet

CALIBRATION_BATCH_SIZE = 256  # part of the result: a batch's variance depends on it


def _batch_norms(model: nn.Module) -> list[_BatchNorm]:
    """BatchNorm layers that run: the shared ones and, of a super-network, those of the active sub-network."""
    modules = model.active_modules() if isinstance(model, Supernet) else model.modules()
    return [m for m in modules if isinstance(m, _BatchNorm) and m.track_running_stats]


@torch.no_grad()
def calibrate(
    model: nn.Module,
    images: torch.Tensor,
    batch_size: int = CALIBRATION_BATCH_SIZE,
    momentum: float | None = None,
) -> None:
    """Re-estimate the BatchNorm statistics of the active sub-network, in place.

    Args:
        model: A super-network, or any other network.
        images: Normalised training images (N, C, H, W) on the model's device, augmented as in training.
        batch_size: Images in each forward pass. It is part of the result.
        momentum: None resets the statistics and takes the mean over all batches. A number leaves them and moves them
            by so much with every batch, as the paper's authors do (0.1).

    Raises:
        CondnetError: If there are no images.
    """
    if len(images) == 0:
        raise CondnetError('calibration needs images, got none')
    layers = _batch_norms(model)
    momenta, training = [layer.momentum for layer in layers], model.training
    try:
        for layer in layers:
            layer.momentum = momentum
            if momentum is None:
                layer.reset_running_stats()
        model.train()
        for number, batch in enumerate(images.split(batch_size), 1):
            if momentum is None:
                take_mean(layers, number)
            model(batch)
        if isinstance(model, Supernet):
            model.calibrated_subnet = model.active_subnet
    finally:
        model.train(training)
        for layer, previous in zip(layers, momenta, strict=True):
            layer.momentum = previous


def take_mean(layers: list[_BatchNorm], number: int) -> None:
    """Have BatchNorm layers take the mean over all batches since a reset, of which the next one has this number.

    PyTorch's `momentum=None` computes the same, but every layer asks the device for the number, and waits for it.
    """
    for layer in layers:
        layer.momentum = 1 / number


@contextmanager
def preserved_statistics(model: nn.Module) -> Iterator[None]:
    """Give the BatchNorm layers that run now their statistics back afterwards, bit for bit."""
    calibrated = getattr(model, 'calibrated_subnet', None)
    try:
        with _preserved(_batch_norms(model)):
            yield
    finally:
        if isinstance(model, Supernet):
            model.calibrated_subnet = calibrated


@contextmanager
def fresh_statistics(layers: list[_BatchNorm]) -> Iterator[None]:
    """Reset BatchNorm layers, for `take_mean` from here on; give all back afterwards, bit for bit."""
    momenta = [layer.momentum for layer in layers]
    with _preserved(layers):
        try:
            for layer in layers:
                layer.reset_running_stats()
            yield
        finally:
            for layer, momentum in zip(layers, momenta, strict=True):
                layer.momentum = momentum


@contextmanager
def _preserved(layers: list[_BatchNorm]) -> Iterator[None]:
    buffers = [buffer for layer in layers for buffer in layer.buffers()]
    saved = [buffer.clone() for buffer in buffers]
    try:
        yield
    finally:
        for buffer, before in zip(buffers, saved, strict=True):
            buffer.copy_(before)
