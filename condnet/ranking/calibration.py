"""BatchNorm recalibration: statistics of one architecture, estimated just before it is evaluated.

While a super-network trains, the running statistics of its BatchNorm layers mix all architectures and fit none.
Source: SPOS (Guo et al., 2020); "Conditional super-network weights", appendix B (20 forward passes).
"""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from condnet.errors import CondnetError
from condnet.models.statistics import Statistics
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
        images: Normalised training images (N, C, H, W), augmented as in training. They go to the model's device and
            data type batch by batch.
        batch_size: Images in each forward pass, see `calibration_batches`. It is part of the result.
        momentum: None resets the statistics and takes the mean over all images. A number leaves them and moves them
            by so much with every batch, as the paper's authors do (0.1), and by less with a smaller last one.

    Raises:
        CondnetError: If there are no images, or they are not what the model takes; its statistics stay as they were.
    """
    check_images(model, images, batch_size)
    batches, layers = calibration_batches(images, batch_size), _batch_norms(model)
    momenta = mean_momenta(batches) if momentum is None else _fixed_momenta(batches, momentum)
    previous = [layer.momentum for layer in layers]
    try:
        with preserved_modes(model), errors_of_single_images(), _preserved(layers, only_after_errors=True):
            if momentum is None:
                reset_statistics(layers)
            model.train()
            for batch, weight in zip(batches, momenta, strict=True):
                set_momentum(layers, weight)
                model(as_parameters(batch, model))
    finally:
        for layer, value in zip(layers, previous, strict=True):
            layer.momentum = value
    if isinstance(model, Supernet):
        model.statistics = Statistics.of(model.active_subnet)


def check_images(model: nn.Module, images: torch.Tensor, batch_size: int = CALIBRATION_BATCH_SIZE) -> None:
    """Refuse what cannot calibrate a model.

    Raises:
        CondnetError: If there are no images, or they are not what the model takes.
    """
    if not isinstance(images, torch.Tensor):
        raise CondnetError(f'calibration images are of type {type(images).__name__}, expected one tensor (N, C, H, W)')
    if len(images) == 0:
        raise CondnetError('calibration needs images, got none')
    if batch_size < 1:
        raise CondnetError(f'the batch size of the calibration is {batch_size}, expected at least 1')
    if not images.is_floating_point():
        raise CondnetError(f'calibration images are {images.dtype}, expected normalised ones (floating point)')
    chans = getattr(model, 'in_chans', None)
    if images.ndim != 4 or chans not in (None, images.shape[1]):
        raise CondnetError(f'calibration images have shape {tuple(images.shape)}, expected (N, {chans or "C"}, H, W)')


def as_parameters(images: torch.Tensor, model: nn.Module) -> torch.Tensor:
    """Images on the device and in the data type of a model; the very same where they are."""
    reference = next(model.parameters(), images)
    return images.to(reference.device, reference.dtype)


def calibration_batches(images: torch.Tensor, batch_size: int = CALIBRATION_BATCH_SIZE) -> list[torch.Tensor]:
    """Divide images into batches for calibration.

    A single last image goes with the batch before it: alone it has no variance where feature maps are of one pixel.
    """
    batches = list(images.split(batch_size))
    if len(batches) > 1 and len(batches[-1]) == 1 < batch_size:
        batches[-2:] = [images[(len(batches) - 2) * batch_size :]]
    return batches


@contextmanager
def errors_of_single_images() -> Iterator[None]:
    """Name torch's error about a batch of a single image, of which `calibration_batches` makes one only if it must."""
    try:
        yield
    except ValueError as error:
        if 'more than 1 value per channel' not in str(error):
            raise
        raise CondnetError('feature maps of one pixel have no variance in a batch of a single image; calibrate with at '
                           'least 2 images in a batch') from error  # fmt: skip


def mean_momenta(batches: list[torch.Tensor]) -> list[float]:
    """BatchNorm's momentum for each batch, with which statistics become the mean over all images since a reset.

    PyTorch's `momentum=None` counts batches, not images, and every layer waits for the device to know their number.
    """
    sizes = [len(batch) for batch in batches]
    return [size / total for size, total in zip(sizes, itertools.accumulate(sizes), strict=True)]


def _fixed_momenta(batches: list[torch.Tensor], momentum: float) -> list[float]:
    return [momentum * min(1.0, len(batch) / len(batches[0])) for batch in batches]


def set_momentum(layers: list[_BatchNorm], momentum: float) -> None:
    """Have BatchNorm layers give this weight to the next batch."""
    for layer in layers:
        layer.momentum = momentum


def reset_statistics(layers: list[_BatchNorm]) -> None:
    """Have BatchNorm layers forget all batches so far."""
    for layer in layers:
        layer.reset_running_stats()


@contextmanager
def preserved_modes(model: nn.Module) -> Iterator[None]:
    """Give every module its mode, training or evaluation, back afterwards: some may have been frozen."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def preserved_statistics(model: nn.Module) -> Iterator[None]:
    """Give the BatchNorm layers that run now their statistics back afterwards, bit for bit."""
    supernet = model if isinstance(model, Supernet) else None
    statistics = supernet and supernet.statistics
    try:
        with _preserved(_batch_norms(model)):
            yield
    finally:
        if supernet and statistics:
            supernet.statistics = statistics


@contextmanager
def fresh_statistics(layers: list[_BatchNorm]) -> Iterator[None]:
    """Reset BatchNorm layers, for `set_momentum` from here on; give all back afterwards, bit for bit."""
    momenta = [layer.momentum for layer in layers]
    with _preserved(layers):
        try:
            reset_statistics(layers)
            yield
        finally:
            for layer, momentum in zip(layers, momenta, strict=True):
                layer.momentum = momentum


@contextmanager
def _preserved(layers: list[_BatchNorm], only_after_errors: bool = False) -> Iterator[None]:
    buffers = [buffer for layer in layers for buffer in layer.buffers()]
    saved = [buffer.clone() for buffer in buffers]
    is_through = False
    try:
        yield
        is_through = True
    finally:
        if not (is_through and only_after_errors):
            for buffer, before in zip(buffers, saved, strict=True):
                buffer.copy_(before)
