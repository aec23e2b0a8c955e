"""Mean and standard deviation of the pixels of a data set, by which its images are normalised."""

import numpy as np
import torch

_CHUNK = 1000  # images that are counted at a time
_LEAST = 1 / 255  # deviation of a channel that is hardly used, by which pixels are divided


def channel_statistics(
    images: torch.Tensor, indices: torch.Tensor | None = None
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Means and standard deviations of the channels, in units where white is 1, to four digits as they are published.

    Args:
        images: uint8 (N, C, H, W).
        indices: Which of them count; None for all.
    """
    counts = np.zeros((images.shape[1], 256), np.int64)  # exact, whatever the number of images
    for chunk in (torch.arange(len(images)) if indices is None else indices).split(_CHUNK):
        for channel, pixels in enumerate(images[chunk].unbind(1)):
            counts[channel] += np.bincount(pixels.reshape(-1).numpy(), minlength=256)
    values, shares = np.arange(256) / 255, counts / counts.sum(axis=1, keepdims=True)
    means = shares @ values
    deviations = np.sqrt((shares * (values - means[:, None]) ** 2).sum(axis=1)).clip(_LEAST)
    return tuple(np.round(means, 4).tolist()), tuple(np.round(deviations, 4).tolist())
