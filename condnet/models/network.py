"""What the networks of all search spaces here have in common: stem, stages, head, and what timm expects of a model."""

from collections.abc import Sequence
from typing import Any, cast

import torch
from timm.layers import SelectAdaptivePool2d
from timm.models import checkpoint, checkpoint_seq
from timm.models._features import feature_take_indices
from torch import nn
from torch.fx import symbolic_trace
from torch.nn import functional as F

from condnet.errors import CondnetError, show
from condnet.spaces.notation import integer

# What timm's layer knows, and what it is called there.
POOLINGS = ('avg', 'max', 'avgmax', 'catavgmax', 'fast', 'fastavg', 'fastmax', 'fastavgmax', 'fastcatavgmax')


class Network(nn.Module):
    """A stem, stages and a head.

    A subclass makes `stem`, then calls `set_stages`, makes what `final` runs, and calls `set_head` at last: new weights
    are drawn in this order.

    Args:
        in_chans: Image channels.
        num_features: Channels that the head receives.
    """

    multiple = 1  # of height and width of the images: any
    reduction = 1  # of the first stage, whose output is that much smaller than the images; each next one halves it
    last_block = ''  # name of what `final` runs
    stem: nn.Module

    def __init__(self, in_chans: int, num_features: int) -> None:
        super().__init__()
        self.register_forward_pre_hook(check_images)
        if (integer(in_chans) or 0) < 1:
            raise CondnetError(f'in_chans is {show(in_chans)}, expected at least 1')
        self.in_chans = in_chans
        self.num_features = self.head_hidden_size = num_features
        self.grad_checkpointing = False
        self.drop_rate = 0.0  # of the classifier's inputs, in training

    def set_stages(self, stages: Sequence[nn.Module], channels: Sequence[int]) -> None:
        """Set the stages, and the channels of what each gives."""
        self.stages = nn.Sequential(*stages)
        self.feature_info = [
            {'num_chs': chs, 'reduction': self.reduction * 2**i, 'module': f'stages.{i}'}
            for i, chs in enumerate(channels)
        ]

    def set_head(self, num_classes: int, global_pool: str, dd: dict[str, Any]) -> None:
        """Make pooling and classifier.

        Raises:
            CondnetError: If there is no such pooling, none with a classifier, or no such number of classes.
        """
        check_head(num_classes, global_pool or '')
        self.global_pool = SelectAdaptivePool2d(pool_type=global_pool or '', flatten=bool(global_pool))
        self._set_classifier(num_classes, dd)

    def _set_classifier(self, num_classes: int, dd: dict[str, Any]) -> None:
        self.num_classes = num_classes
        width = self.num_features * self.global_pool.feat_mult()
        self.head = nn.Linear(width, num_classes, **dd) if num_classes > 0 else nn.Identity()

    def __prepare_scriptable__(self) -> nn.Module:
        """What TorchScript compiles: the layers that run now, as it does not know the Python around them."""
        return symbolic_trace(self)

    @torch.jit.ignore  # type: ignore[untyped-decorator]
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        last = (rf'^{self.last_block}', (99999,))
        blocks = r'^stages\.(\d+)' if coarse else [(r'^stages\.(\d+)\.(\d+)', None), last]
        return {'stem': r'^stem', 'blocks': blocks}

    @torch.jit.ignore  # type: ignore[untyped-decorator]
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        self.grad_checkpointing = enable

    @torch.jit.ignore  # type: ignore[untyped-decorator]
    def get_classifier(self) -> nn.Module:
        return self.head

    def reset_classifier(
        self,
        num_classes: int,
        global_pool: str | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        reference = next(self.stem.parameters())
        check_head(num_classes, global_pool)
        if global_pool is not None:
            self.global_pool = SelectAdaptivePool2d(pool_type=global_pool, flatten=bool(global_pool))
            self.global_pool.train(self.training)
        self._set_classifier(num_classes, {'device': device or reference.device, 'dtype': dtype or reference.dtype})
        self.head.train(self.training)

    def final(self, x: torch.Tensor) -> torch.Tensor:
        """What comes between the last stage and pooling. (B, C, H, W) -> (B, num_features, H, W)."""
        raise NotImplementedError(f'{type(self).__name__} does not override final')

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """(B, in_chans, H, W) -> (B, num_features, H / r, W / r), with the `reduction` r of the last stage."""
        x = self.stem(x)
        x = checkpoint_seq(self.stages, x) if self.grad_checkpointing and self.training else self.stages(x)
        return self.final(x)

    def forward_intermediates(
        self,
        x: torch.Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = 'NCHW',
        intermediates_only: bool = False,
    ) -> list[torch.Tensor] | tuple[torch.Tensor, list[torch.Tensor]]:
        """What the stages give, as timm's models have it; of a super-network, those of what is active.

        Args:
            x: Images (B, in_chans, H, W).
            indices: Of the stages: a number of last ones, or which; None for all.
            norm: Whether the network's last BatchNorm and ReLU are applied to what the last stage gives, if it has
                them there (nb201).
            stop_early: Whether to leave out the stages after the last one that is asked for.
            output_fmt: `NCHW`.
            intermediates_only: Whether to leave out what `forward_features` gives.

        Returns:
            What `forward_features` gives (if `stop_early` has left out stages, what the last one that ran gives), and
            by stage (B, C, H, W).

        Raises:
            CondnetError: If the images are not what the model takes, or the format is another.
        """
        check_images(self, (x,))
        if output_fmt != 'NCHW':
            raise CondnetError(f'output_fmt is {output_fmt!r}, expected NCHW')
        taken, last = feature_take_indices(len(self.stages), indices)
        x, intermediates, num_stages = self.stem(x), [], len(self.stages)
        for index, stage in enumerate(self.stages[: last + 1] if stop_early else self.stages):
            x = checkpoint(stage, x) if self.grad_checkpointing and self.training else stage(x)
            if index in taken:
                is_normed = norm and index == num_stages - 1 and self.last_block == 'norm'
                intermediates.append(self.final(x) if is_normed else x)
        if intermediates_only:
            return intermediates
        return (x if stop_early and last < num_stages - 1 else self.final(x)), intermediates

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """(B, num_features, H, W) -> (B, num_classes), or with `pre_logits` (B, num_features) (catavgmax: double)."""
        x = self.global_pool(x)
        if self.drop_rate:
            x = F.dropout(x, self.drop_rate, self.training)
        return x if pre_logits else self.head(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.forward_head(self.forward_features(x))


def check_head(num_classes: int, global_pool: str | None) -> None:
    """Refuse a head that would fail later.

    None is the pooling of before: that there is none with a classifier, timm's own tests do for a while.

    Raises:
        CondnetError: If there is no such pooling, none with a classifier, or no such number of classes.
    """
    number = integer(num_classes)
    if number is None or number < 0:
        raise CondnetError(f'num_classes is {show(num_classes)}, expected 0 (none) or more')
    if global_pool is not None and global_pool not in POOLINGS and (global_pool or number):
        known = ', '.join(POOLINGS)
        raise CondnetError(f'global_pool is {show(global_pool)}, expected one of {known}, or none with num_classes=0')


def check_images(model: nn.Module, inputs: tuple[Any, ...]) -> None:
    """Before a forward pass: refuse what some layer would stumble over.

    Raises:
        CondnetError: If these are no images (B, C, H, W) of the model's channels, or H and W no multiples of its
            `multiple`.
    """
    in_chans, multiple = cast(int, model.in_chans), cast(int, model.multiple)
    images = inputs[0] if inputs else None
    if not isinstance(images, torch.Tensor):  # as in symbolic tracing, or given by name
        return
    size = images.shape[1:]
    if len(size) != 3 or size[0] != in_chans or size[1] % multiple or size[2] % multiple:
        sizes = '' if multiple == 1 else f', H and W multiples of {multiple}'
        raise CondnetError(f'images are of shape {tuple(images.shape)}, expected (B, {in_chans}, H, W){sizes}')


def base_cfg(**kwargs: Any) -> Any:  # timm's type for it cannot be written down
    """What timm is told of every network for CIFAR-10, and what differs."""
    return {
        'num_classes': 10,
        'input_size': (3, 32, 32),
        'crop_pct': 1.0,
        'interpolation': 'bicubic',
        'mean': (0.4914, 0.4822, 0.4465),  # CIFAR-10
        'std': (0.2470, 0.2435, 0.2616),
        'first_conv': 'stem.conv',
        'classifier': 'head',
        'license': 'apache-2.0',
        **kwargs,
    }
