"""One training step: what is computed between a batch and the updated weights, and in which precision."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from timm.models import model_parameters
from timm.utils import dispatch_clip_grad
from torch import nn
from torch.overrides import TorchFunctionMode

from condnet.choice import has_weights
from condnet.models.supernet import Supernet
from condnet.training.mixing import Mixing
from condnet.training.task import SupernetTask
from condnet.utils.distributed import Group


class DepthwiseInFloat32(TorchFunctionMode):
    """Computes depthwise convolutions in float32 inside autocast.

    On CPUs, oneDNN's bfloat16 kernels for their gradients are slow: a step of macro took 2.0 times as long as in
    float32, and takes 0.8 times as long with this.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is nn.functional.conv2d:
            given = dict(zip(_CONV2D, args, strict=False)) | (kwargs or {})
            # One input channel for every filter. Other groups are fast in bfloat16.
            if given.get('groups', 1) > 1 and given['weight'].shape[1] == 1:
                with torch.autocast('cpu', enabled=False):
                    return func(**{name: _in_float32(value) for name, value in given.items()})
        return func(*args, **(kwargs or {}))


_CONV2D = ('input', 'weight', 'bias', 'stride', 'padding', 'dilation', 'groups')


def _in_float32(value: Any) -> Any:
    is_reduced = isinstance(value, torch.Tensor) and value.dtype in (torch.bfloat16, torch.float16)
    return value.float() if is_reduced else value


class TrainingStep:
    """Trains the architectures of a step on a batch.

    Args:
        task: Model and loss.
        optimizer: Optimizer of the model.
        group: The processes that train together; each has its own share of every batch.
        num_parts: Into how many parts a process divides its share, to save memory (gradient accumulation). BatchNorm
            normalises each part for itself, as it does the shares of several processes.
        amp_dtype: Data type of autocast, or None for none; float16 comes with loss scaling.
        updates_unsampled: Whether weights that are not sampled decay and follow their momentum, as in the authors'
            code; or else they stay as they are. Of an operation's weight sets only the one trained last does, see
            `SupernetTask.stored_parameters`.
        clip: Value and mode of timm's `dispatch_clip_grad`, for the gradients of all processes together.
        mixing: Mixes the images of a batch.
    """

    def __init__(
        self,
        task: SupernetTask,
        optimizer: torch.optim.Optimizer,
        group: Group | None = None,
        num_parts: int = 1,
        amp_dtype: torch.dtype | None = None,
        updates_unsampled: bool = False,
        clip: tuple[float, str] | None = None,
        mixing: Mixing | None = None,
    ) -> None:
        self.task, self.optimizer, self.group = task, optimizer, group or Group()
        self.num_parts, self.amp_dtype, self.updates_unsampled = num_parts, amp_dtype, updates_unsampled
        self.clip, self.mixing = clip, mixing
        self.scaler = torch.amp.GradScaler(task.device.type, enabled=amp_dtype == torch.float16)

    def __call__(self, input: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Update the weights.

        Args:
            input: Images (B, C, H, W), this process's share.
            target: Labels (B,).

        Returns:
            The mean loss () over the images of all processes, and over the architectures of the step.

        Raises:
            ConnectionError: If another process is lost.
        """
        self.optimizer.zero_grad(set_to_none=True)  # what is not sampled has no gradient, and stays as it is
        if self.mixing is not None:
            input, target = self.mixing(input, target, self.task.step)
        parts = list(zip(input.tensor_split(self.num_parts), target.tensor_split(self.num_parts), strict=True))
        losses = []
        for _ in self.task.next_subnets():
            for images, labels in parts:
                with self.autocast():
                    loss = self.task(images, labels)['loss'] * (len(images) / len(input))
                self.scaler.scale(loss).backward()
                losses.append(loss.detach())
        mean = torch.stack(losses).sum() * (len(parts) / len(losses))
        parameters = [p for group in self.optimizer.param_groups for p in group['params']]
        self.group.average([mean, *(p.grad for p in parameters if p.grad is not None)])
        if self.updates_unsampled:
            stored = self.task.stored_parameters()
            for parameter in parameters:
                if parameter.grad is None and parameter not in stored:
                    parameter.grad = torch.zeros_like(parameter)
        self._clip()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.task.update_ema(step=self.task.step)
        return mean

    def _clip(self) -> None:
        """Clip the gradients; the adaptive mode leaves out the classifier, as in timm."""
        if self.clip is None:
            return
        self.scaler.unscale_(self.optimizer)
        value, mode = self.clip
        dispatch_clip_grad(model_parameters(self.task.model, exclude_head='agc' in mode), value, mode)

    @contextlib.contextmanager
    def autocast(self) -> Iterator[None]:
        """The precision of the forward pass."""
        device = self.task.device.type
        with torch.autocast(device, self.amp_dtype, self.amp_dtype is not None):
            with DepthwiseInFloat32() if self.amp_dtype and device == 'cpu' else contextlib.nullcontext():
                yield

    def average_statistics(self) -> None:
        """Give all processes the same running BatchNorm statistics.

        Raises:
            ConnectionError: If another process is lost.
        """
        averaged = self.task.get_trainable_module(ema=True)
        self.group.average_statistics(self.task.model, *([] if averaged is None else [averaged]))

    def check_scale(self) -> None:
        """Check that float16 has not come to a standstill: steps whose gradients are not finite are left out.

        Raises:
            FloatingPointError: If they are not at any scale of the loss.
        """
        if self.scaler.is_enabled() and (scale := self.scaler.get_scale()) < 1:
            raise FloatingPointError(f'gradients are not finite in float16, even with the loss scaled by {scale:g}; '
                                     'lower the learning rate, or use `amp_dtype` bfloat16')  # fmt: skip


def compile_model(model: nn.Module) -> None:
    """Compile every candidate operation of a super-network, or a stand-alone network as a whole.

    The super-network as a whole would be compiled again for every architecture. Call it again after the split: the
    copies are not compiled. Weight sets that differ in nothing but their weights share the compiled code.
    """
    # Stages, operations, modes and the last batch differ in shapes: more than the 8 variants that torch allows for.
    torch._dynamo.config.cache_size_limit = 256
    if not isinstance(model, Supernet):
        model.compile()
        return
    for block in model.choice_blocks():
        for operation in block.choices:
            for module in block.weight_sets(operation):
                if has_weights(module):
                    module.compile()
