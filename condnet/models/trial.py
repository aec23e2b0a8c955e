"""What a model does with images of a size, tried before anything is written."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from condnet.errors import CondnetError


def check_forward(model: nn.Module, input_size: Sequence[int], num_images: int, device: torch.device) -> Any:
    """Check that a model can be trained on images, before anything is written. The model is left as it is.

    Args:
        model: The model, on the device.
        input_size: Channels, height and width of the images.
        num_images: Images of a forward pass.
        device: Where the model is.

    Returns:
        What it gives for black images.

    Raises:
        CondnetError: If it cannot.
    """
    images = torch.zeros(num_images, *input_size, device=device)
    with torch.random.fork_rng([device] if device.type == 'cuda' else []), torch.no_grad():
        try:
            return copy.deepcopy(model).train()(images)
        except Exception as error:  # models raise whatever a size that they were not made for leads them to
            if isinstance(error, torch.OutOfMemoryError):
                raise
            reason = ' '.join(str(error).split()) or type(error).__name__
            size = 'x'.join(map(str, input_size))
            raise CondnetError(f'the model cannot take {num_images} images of size {size}: {reason}') from error
