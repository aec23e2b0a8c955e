"""NAS-Bench-Macro: the super-network with conditional weights, and the benchmark's stand-alone networks.

Papers:
* `Conditional super-network weights` - https://arxiv.org/abs/2104.11522, the super-network
* `Prioritized Architecture Sampling with Monto-Carlo Tree Search` - https://arxiv.org/abs/2103.11922
"""

from collections.abc import Callable
from typing import Any

import torch
from timm.models import create_model, generate_default_cfgs, register_model
from torch import nn

from condnet.choice import ChoiceBlock
from condnet.models.build import build_network, build_supernet
from condnet.models.network import Network, base_cfg
from condnet.models.pretrained import HUB_ORGANIZATION, Tag, register_tags
from condnet.models.supernet import Step, Supernet
from condnet.spaces.base import Arch
from condnet.spaces.macro import MACRO_BLOCKS, MACRO_LAYERS
from condnet.spaces.registry import get_space

__all__ = ['MacroNet', 'MacroSupernet']

LayerFactory = Callable[[int, int, int, int, dict[str, Any]], nn.Module]  # decision, channels in and out, stride, dd

_STAGES = ((0, 1), (2, 3, 4), (5, 6, 7))  # layers by resolution


class ConvBN(nn.Sequential):
    """Convolution without bias, BatchNorm and, if asked for, ReLU."""

    def __init__(
        self,
        in_chs: int,
        out_chs: int,
        kernel_size: int,
        stride: int = 1,
        groups: int = 1,
        act: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        dd: dict[str, Any] = {'device': device, 'dtype': dtype}
        super().__init__()
        self.conv = nn.Conv2d(
            in_chs, out_chs, kernel_size, stride, padding=kernel_size // 2, groups=groups, bias=False, **dd
        )
        self.bn = nn.BatchNorm2d(out_chs, **dd)
        if act:
            self.act = nn.ReLU(inplace=True)


class InvertedBottleneck(nn.Module):
    """MobileNetV2 block, plain ReLU, residual where shapes agree. (B, C, H, W) -> (B, C', H / stride, W / stride)."""

    def __init__(
        self, in_chs: int, out_chs: int, kernel_size: int, expansion: int, stride: int, dd: dict[str, Any]
    ) -> None:
        super().__init__()
        mid_chs = in_chs * expansion
        self.expand = ConvBN(in_chs, mid_chs, 1, **dd)
        self.depthwise = ConvBN(mid_chs, mid_chs, kernel_size, stride, groups=mid_chs, **dd)
        self.project = ConvBN(mid_chs, out_chs, 1, act=False, **dd)
        self.has_residual = stride == 1 and in_chs == out_chs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.project(self.depthwise(self.expand(x)))
        return x + out if self.has_residual else out


def _make_operation(operation: int, in_chs: int, out_chs: int, stride: int, dd: dict[str, Any]) -> nn.Module:
    """The module of an operation, by its official number."""
    if operation in MACRO_BLOCKS:
        return InvertedBottleneck(in_chs, out_chs, *MACRO_BLOCKS[operation], stride, dd)
    if stride == 1 and in_chs == out_chs:
        return nn.Identity()
    return ConvBN(in_chs, out_chs, 1, stride, act=False, **dd)


class _Macro(Network):
    """The macro skeleton: stem, eight layers in three stages, head."""

    reduction = 2
    last_block = 'conv_head'

    def __init__(
        self,
        make_layer: LayerFactory,
        num_classes: int,
        in_chans: int,
        global_pool: str,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> None:
        super().__init__(in_chans, num_features=1280)
        dd: dict[str, Any] = {'device': device, 'dtype': dtype}
        in_chs = 32
        self.stem = ConvBN(in_chans, in_chs, 3, **dd)
        stages, channels = [], []
        for layers in _STAGES:
            stage = []
            for layer in layers:
                out_chs, stride = MACRO_LAYERS[layer]
                stage.append(make_layer(layer, in_chs, out_chs, stride, dd))
                in_chs = out_chs
            stages.append(nn.Sequential(*stage))
            channels.append(in_chs)
        self.set_stages(stages, channels)
        self.conv_head = ConvBN(in_chs, self.num_features, 1, **dd)
        self.set_head(num_classes, global_pool, dd)

    def final(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.conv_head(x)
        return output


class MacroSupernet(Supernet, _Macro):
    """Super-network of NAS-Bench-Macro with conditional weights.

    Args:
        space: Subset of the search space; only `full` exists.
        split: Whether every operation has one weight set per context from the start.
        num_classes: Number of classes; 0 for none.
        in_chans: Image channels.
        global_pool: Pooling before the classifier, by timm's name for it; '' for none, where there are no classes.
        active_subnet: The sub-network that is active from the start, and whose BatchNorm statistics the weights come
            with; by default the model is over-complete.

    Raises:
        CondnetError: If the subset is unknown, or `active_subnet` is not an architecture of it.
    """

    def __init__(
        self,
        space: str = 'full',
        split: bool = False,
        num_classes: int = 10,
        in_chans: int = 3,
        global_pool: str = 'avg',
        active_subnet: 'str | int | Arch | None' = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        search_space = get_space('macro', space)

        def make_layer(decision: int, in_chs: int, out_chs: int, stride: int, dd: dict[str, Any]) -> nn.Module:
            return ChoiceBlock(search_space, decision, lambda o: _make_operation(o, in_chs, out_chs, stride, dd))

        super().__init__(make_layer, num_classes, in_chans, global_pool, device, dtype)
        self.space = search_space
        self.set_up(split, active_subnet)

    def forward_steps(self) -> list[Step]:
        self.check_active()
        layers = [block.active_module() for block in self.choice_blocks()]  # in sequence
        return [Step.of(module) for module in (self.stem, *layers, self.conv_head)] + [self.head_step()]

    def make_standalone(self, arch: Arch, common: dict[str, Any]) -> nn.Module:
        return create_model('macro_net', arch=arch, **common)


class MacroNet(_Macro):
    """Stand-alone network of NAS-Bench-Macro, which is also its super-network's sub-network.

    Args:
        arch: Architecture as tuple, official string or official index; by default the largest.
        num_classes: Number of classes; 0 for none.
        in_chans: Image channels.
        global_pool: Pooling before the classifier, by timm's name for it; '' for none, where there are no classes.

    Raises:
        CondnetError: If `arch` is not an architecture of the space.
    """

    def __init__(
        self,
        arch: 'str | int | Arch' = (2, 2, 2, 2, 2, 2, 2, 2),
        num_classes: int = 10,
        in_chans: int = 3,
        global_pool: str = 'avg',
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        parsed = get_space('macro').parse(arch)

        def make_layer(decision: int, in_chs: int, out_chs: int, stride: int, dd: dict[str, Any]) -> nn.Module:
            return _make_operation(parsed[decision], in_chs, out_chs, stride, dd)

        super().__init__(make_layer, num_classes, in_chans, global_pool, device, dtype)
        self.arch = parsed


def _cfg(**kwargs: Any) -> Any:
    return base_cfg(pool_size=(4, 4), **kwargs)


_TAGS = {
    'cond_cifar10': Tag({'split': True}, '3abca861d53a5a9f09cdfeb2329409bfeea5db5a9ea22a45700f69d9725ab755'),
    'spos_cifar10': Tag({}, '4f091c04bb0963534df750546a988fcb66526c478d89038cbc014a5228bd1fa2'),
}
register_tags('macro_cond_supernet', _TAGS)


def _supernet_cfg(tag: str) -> Any:
    return _cfg(hf_hub_id=f'{HUB_ORGANIZATION}/macro_cond_supernet.{tag}', paper_ids='arXiv:2104.11522')


default_cfgs = generate_default_cfgs(
    {f'macro_cond_supernet.{tag}': _supernet_cfg(tag) for tag in _TAGS} | {'macro_net.untrained': _cfg()}
)


@register_model
def macro_cond_supernet(pretrained: bool = False, **kwargs: Any) -> MacroSupernet:
    """NAS-Bench-Macro super-network, see `MacroSupernet`."""
    return build_supernet(MacroSupernet, 'macro_cond_supernet', pretrained, **kwargs)


@register_model
def macro_net(pretrained: bool = False, **kwargs: Any) -> MacroNet:
    """NAS-Bench-Macro stand-alone network, see `MacroNet`."""
    return build_network(MacroNet, 'macro_net', pretrained, **kwargs)
