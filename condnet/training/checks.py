"""What is tried with a model before anything is written."""

import torch
from torch import nn

from condnet.errors import CondnetError
from condnet.models.trial import check_forward
from condnet.training.config import Settled, TrainConfig
from condnet.training.step import TrainingStep


def check_model(step: TrainingStep, config: TrainConfig, settled: Settled) -> None:
    """Try a model on images of the size that it is to be trained on, before anything is written; it stays as it is.

    Raises:
        CondnetError: If it cannot take them, or does not give the scores of the classes.
    """
    model, device = step.task.model, step.task.device
    if config.channels_last and device.type == 'cpu' and any(map(_breaks_channels_last, model.modules())):
        raise CondnetError(f'{config.model} has a 1x1 convolution with a stride on few channels, whose gradient in the '
                           'layout channels_last crashes PyTorch on CPUs; use `channels_last=False`')  # fmt: skip
    num = min(2, max(1, config.batch_size // step.group.size // step.num_parts))
    with step.autocast():
        output = check_forward(model, settled.input_size, num, device)
    if not isinstance(output, torch.Tensor) or output.shape != (num, settled.num_classes):
        found = list(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
        raise CondnetError(f'{config.model} gives {found} for {num} images, expected scores of {settled.num_classes} '
                           'classes')  # fmt: skip


def _breaks_channels_last(module: nn.Module) -> bool:
    """Whether oneDNN writes past the gradient of a layer: seen in PyTorch 2.14 with 3 to 5 channels, not with 8."""
    if not isinstance(module, nn.Conv2d) or module.groups > 1:
        return False
    return module.kernel_size == (1, 1) and module.stride != (1, 1) and 1 < module.in_channels < 8
