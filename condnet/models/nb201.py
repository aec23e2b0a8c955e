"""NAS-Bench-201: the super-network with conditional weights, and the benchmark's stand-alone networks.

Papers:
* `Conditional super-network weights` - https://arxiv.org/abs/2104.11522, the super-network
* `NAS-Bench-201: Extending the Scope of Reproducible Neural Architecture Search` - https://arxiv.org/abs/2001.00326
* `SCARLET-NAS: Bridging the Gap between Stability and Scalability` - https://arxiv.org/abs/1908.06022, the linear
  transform on the skip connection
"""

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
from timm.layers import SelectAdaptivePool2d
from timm.models import (
    build_model_with_cfg,
    checkpoint_seq,
    create_model,
    generate_default_cfgs,
    register_model,
)
from torch import nn
from torch.fx import symbolic_trace

from condnet.choice import ChoiceBlock
from condnet.errors import CondnetError
from condnet.models.pretrained import HUB_ORGANIZATION, Tag, build_supernet, register_tags
from condnet.models.supernet import State, Step, Supernet, check_images, check_switch, checkpoint_filter_fn
from condnet.spaces.base import Arch
from condnet.spaces.registry import get_space

__all__ = ['NB201Net', 'NB201Supernet']

# Edges by node: (decision, node that it reads).
_NODES = (((0, 0),), ((1, 0), (2, 1)), ((3, 0), (4, 1), (5, 2)))

_MOST_CELLS = 1000  # in a stage; a damaged number would build them until memory ends

EdgeFactory = Callable[[int, int, dict[str, Any]], nn.Module]  # (decision, channels, device and dtype)


class Zero(nn.Module):
    """The operation `none`. It returns None, which a cell takes for zeros without adding them."""

    def forward(self, x: torch.Tensor) -> None:
        return None


class ReLUConvBN(nn.Sequential):
    """ReLU, convolution without bias, BatchNorm."""

    def __init__(
        self,
        in_chs: int,
        out_chs: int,
        kernel_size: int,
        stride: int = 1,
        affine: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        dd: dict[str, Any] = {'device': device, 'dtype': dtype}
        super().__init__()
        self.act = nn.ReLU()
        self.conv = nn.Conv2d(in_chs, out_chs, kernel_size, stride, padding=kernel_size // 2, bias=False, **dd)
        self.bn = nn.BatchNorm2d(out_chs, affine=affine, **dd)


def _make_operation(operation: int, channels: int, affine: bool, linear_skip: bool, dd: dict[str, Any]) -> nn.Module:
    """The module of an operation, by its official number."""
    if operation == 0:
        return Zero()
    if operation == 1:
        return nn.Conv2d(channels, channels, 1, bias=False, **dd) if linear_skip else nn.Identity()
    if operation in (2, 3):
        return ReLUConvBN(channels, channels, {2: 1, 3: 3}[operation], affine=affine, **dd)
    return nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)


class Cell(nn.Module):
    """Four nodes and six edges. A node is the sum of its incoming edges. (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, channels: int, make_edge: EdgeFactory, dd: dict[str, Any]) -> None:
        super().__init__()
        self.edges = nn.ModuleList([make_edge(decision, channels, dd) for decision in range(6)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        nodes = [x]
        for edges in _NODES:
            outputs = [self.edges[decision](nodes[source]) for decision, source in edges]
            tensors = [output for output in outputs if output is not None]
            nodes.append(sum(tensors[1:], start=tensors[0]) if tensors else torch.zeros_like(x))
        return nodes[-1]


def _live_edges(arch: Arch) -> set[int]:
    """Edges that carry something from the input of a cell to its output."""
    edges = [(decision, source, node) for node, ins in enumerate(_NODES, 1) for decision, source in ins]
    edges = [edge for edge in edges if arch[edge[0]] != 0]
    filled, needed = {0}, {3}
    for _, source, node in edges:  # in order of their nodes
        if source in filled:
            filled.add(node)
    for _, source, node in reversed(edges):
        if node in needed:
            needed.add(source)
    return {decision for decision, source, node in edges if source in filled and node in needed}


def _cell_steps(cell: Cell, arch: Arch) -> list[Step]:
    """The forward pass of a cell, a step per edge.

    Edges that contribute nothing are left out. That is exact where BatchNorm statistics are estimated anew: zeros have
    zero mean, and stay zeros.
    """
    live = _live_edges(arch)
    if not live:
        return [Step('zeros', (), lambda state: (torch.zeros_like(state[0]),))]
    steps = []
    edges = [(source, node, decision) for node, ins in enumerate(_NODES, 1) for decision, source in ins]
    for source, target, decision in sorted(edges):
        if decision in live:
            module = cast(ChoiceBlock, cell.edges[decision]).active_module()
            steps.append(Step(module, (module,), partial(_run_edge, module, source, target)))
    return [*steps, Step(cell, (), lambda state: (state[3],))]


def _run_edge(module: nn.Module, source: int, target: int, state: State) -> State:
    """Add what an edge carries to the node that it leads to.

    Args:
        module: Operation of the edge.
        source: Node that it reads, 0 to 3.
        target: Node that it leads to.
        state: Before the first edge, (input,); then what the four nodes have received so far, and what edges share that
            read the same node: that node rectified, and pooled.
    """
    *nodes, rectified, pooled = (*state, *[None] * 5) if len(state) == 1 else state
    if any(node is not None for node in nodes[:source]):  # the first edge that reads this node
        nodes[:source], rectified, pooled = [None] * source, None, None
    if isinstance(module, ReLUConvBN):
        rectified = module.act(nodes[source]) if rectified is None else rectified
        output = module.bn(module.conv(rectified))
    elif isinstance(module, nn.AvgPool2d):
        output = pooled = module(nodes[source]) if pooled is None else pooled
    else:
        output = module(nodes[source])
    nodes[target] = output if nodes[target] is None else nodes[target] + output
    return (*nodes, rectified, pooled)


class ReductionBlock(nn.Module):
    """ResNet basic block of stride 2 with an average-pool and 1x1 convolution shortcut."""

    def __init__(self, in_chs: int, out_chs: int, dd: dict[str, Any]) -> None:
        super().__init__()
        self.conv1 = ReLUConvBN(in_chs, out_chs, 3, stride=2, **dd)
        self.conv2 = ReLUConvBN(out_chs, out_chs, 3, **dd)
        self.shortcut = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(in_chs, out_chs, 1, bias=False, **dd))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv2(self.conv1(x)) + self.shortcut(x)


class _NB201(nn.Module):
    """The macro skeleton: stem, three stages of cells with reduction blocks between them, classifier."""

    multiple = 4  # of height and width of the images: what reduction blocks add must agree

    def __init__(
        self,
        make_edge: EdgeFactory,
        num_classes: int,
        in_chans: int,
        cells_per_stage: int,
        channels: tuple[int, int, int],
        global_pool: str,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> None:
        super().__init__()
        self.register_forward_pre_hook(check_images)
        if type(cells_per_stage) is not int or not 1 <= cells_per_stage <= _MOST_CELLS:
            raise CondnetError(f'cells_per_stage is {cells_per_stage!r}, expected 1..{_MOST_CELLS}')
        if not isinstance(channels, tuple | list) or [type(n) is int and n > 0 for n in channels] != [True] * 3:
            raise CondnetError(f'channels are {channels!r}, expected 3 numbers')
        dd: dict[str, Any] = {'device': device, 'dtype': dtype}
        self.num_classes, self.in_chans = num_classes, in_chans
        self.num_features = self.head_hidden_size = channels[-1]
        self.grad_checkpointing = False
        self.stem = nn.Sequential()
        self.stem.add_module('conv', nn.Conv2d(in_chans, channels[0], 3, padding=1, bias=False, **dd))
        self.stem.add_module('bn', nn.BatchNorm2d(channels[0], **dd))
        stages, self.feature_info = [], []
        for i, chs in enumerate(channels):
            cells = [Cell(chs, make_edge, dd) for _ in range(cells_per_stage)]
            stages.append(nn.Sequential(*([ReductionBlock(channels[i - 1], chs, dd)] if i else []), *cells))
            self.feature_info.append({'num_chs': chs, 'reduction': 2**i, 'module': f'stages.{i}'})
        self.stages = nn.Sequential(*stages)
        self.norm = nn.BatchNorm2d(channels[-1], **dd)
        self.act = nn.ReLU()
        self.global_pool = SelectAdaptivePool2d(pool_type=global_pool, flatten=bool(global_pool))
        self.head = nn.Linear(self.num_features, num_classes, **dd) if num_classes > 0 else nn.Identity()

    def __prepare_scriptable__(self) -> nn.Module:
        """What TorchScript compiles: the layers that run now, as it does not know the Python around them."""
        return symbolic_trace(self)

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        blocks = r'^stages\.(\d+)' if coarse else [(r'^stages\.(\d+)\.(\d+)', None), (r'^norm', (99999,))]
        return {'stem': r'^stem', 'blocks': blocks}

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        self.grad_checkpointing = enable

    @torch.jit.ignore
    def get_classifier(self) -> nn.Module:
        return self.head

    def reset_classifier(
        self,
        num_classes: int,
        global_pool: str | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        reference = self.norm.weight
        dd: dict[str, Any] = {'device': device or reference.device, 'dtype': dtype or reference.dtype}
        self.num_classes = num_classes
        if global_pool is not None:
            self.global_pool = SelectAdaptivePool2d(pool_type=global_pool, flatten=bool(global_pool))
            self.global_pool.train(self.training)
        self.head = nn.Linear(self.num_features, num_classes, **dd) if num_classes > 0 else nn.Identity()
        self.head.train(self.training)

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """(B, in_chans, H, W) -> (B, channels[-1], H / 4, W / 4)."""
        x = self.stem(x)
        x = checkpoint_seq(self.stages, x) if self.grad_checkpointing and self.training else self.stages(x)
        return self.act(self.norm(x))

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """(B, channels[-1], H, W) -> (B, num_classes), or (B, channels[-1]) with `pre_logits`."""
        x = self.global_pool(x)
        return x if pre_logits else self.head(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.forward_head(self.forward_features(x))


class NB201Supernet(Supernet, _NB201):
    """Super-network of NAS-Bench-201 with conditional weights.

    Args:
        space: Subset of the search space: `full`, `no_zero` or `only_conv`.
        split: Whether every operation has one weight set per context from the start.
        linear_skip: Whether skip connections carry a 1x1 convolution during super-network training.
        num_classes: Number of classes; 0 for none.
        in_chans: Image channels.
        cells_per_stage: Cells in each of the three stages; all of them share one architecture.
        channels: Channels of the three stages.
        global_pool: Pooling before the classifier.
        active_subnet: The sub-network that is active from the start, and whose BatchNorm statistics the weights come
            with; by default the model is over-complete.

    Raises:
        CondnetError: If the subset is unknown, or `active_subnet` is no architecture of it.
    """

    def __init__(
        self,
        space: str = 'full',
        split: bool = False,
        linear_skip: bool = True,
        num_classes: int = 10,
        in_chans: int = 3,
        cells_per_stage: int = 2,
        channels: tuple[int, int, int] = (16, 32, 64),
        global_pool: str = 'avg',
        active_subnet: 'str | int | Arch | None' = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        search_space = get_space('nb201', space)
        check_switch('linear_skip', linear_skip)

        def make_edge(decision: int, chs: int, dd: dict[str, Any]) -> nn.Module:
            return ChoiceBlock(search_space, decision, lambda o: _make_operation(o, chs, False, linear_skip, dd))

        super().__init__(make_edge, num_classes, in_chans, cells_per_stage, channels, global_pool, device, dtype)
        self.space = search_space
        self.cells_per_stage, self.channels, self.linear_skip = cells_per_stage, channels, linear_skip
        self.set_up(split, active_subnet)

    def forward_steps(self) -> list[Step]:
        self.check_active()
        arch, steps = cast(Arch, self.active_subnet), [Step.of(self.stem)]
        for stage in cast(list[nn.Sequential], self.stages):
            for block in stage:
                steps += _cell_steps(block, arch) if isinstance(block, Cell) else [Step.of(block)]
        norm = Step(self.norm, (self.norm,), lambda state: (self.act(self.norm(state[0])),))
        return [*steps, norm, self.head_step()]

    def make_standalone(self, arch: Arch, common: dict[str, Any]) -> nn.Module:
        common |= {'cells_per_stage': self.cells_per_stage, 'channels': self.channels}
        return create_model('nb201_net', arch=arch, affine=False, linear_skip=self.linear_skip, **common)


class NB201Net(_NB201):
    """Stand-alone network of NAS-Bench-201. The defaults are the benchmark's own.

    Args:
        arch: Architecture as tuple, official string or official index; by default all convolutions 3x3.
        num_classes: Number of classes; 0 for none.
        in_chans: Image channels.
        cells_per_stage: Cells in each of the three stages.
        channels: Channels of the three stages.
        affine: Whether the cells' BatchNorm has weights.
        linear_skip: Whether skip connections carry a 1x1 convolution, as in the super-network.
        global_pool: Pooling before the classifier.

    Raises:
        CondnetError: If `arch` is no architecture of the space.
    """

    def __init__(
        self,
        arch: 'str | int | Arch' = (3, 3, 3, 3, 3, 3),
        num_classes: int = 10,
        in_chans: int = 3,
        cells_per_stage: int = 5,
        channels: tuple[int, int, int] = (16, 32, 64),
        affine: bool = True,
        linear_skip: bool = False,
        global_pool: str = 'avg',
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        parsed = get_space('nb201').parse(arch)
        check_switch('linear_skip', linear_skip)
        check_switch('affine', affine)

        def make_edge(decision: int, chs: int, dd: dict[str, Any]) -> nn.Module:
            return _make_operation(parsed[decision], chs, affine, linear_skip, dd)

        super().__init__(make_edge, num_classes, in_chans, cells_per_stage, channels, global_pool, device, dtype)
        self.arch = parsed


def _cfg(**kwargs: Any) -> Any:  # timm's type for it cannot be written down
    return {
        'num_classes': 10,
        'input_size': (3, 32, 32),
        'pool_size': (8, 8),
        'crop_pct': 1.0,
        'interpolation': 'bicubic',
        'mean': (0.4914, 0.4822, 0.4465),  # CIFAR-10
        'std': (0.2470, 0.2435, 0.2616),
        'first_conv': 'stem.conv',
        'classifier': 'head',
        'license': 'apache-2.0',
        **kwargs,
    }


_GLYPHS = {'cells_per_stage': 1, 'channels': (8, 16, 24)}
_ONE_CELL = {'cells_per_stage': 1, 'linear_skip': False}  # the recipe nb201_cond1, made to rank well
_TAGS = {
    'cond1_cifar10': Tag(
        {'split': True, **_ONE_CELL}, '9c688896cd8a798bbbfbe4bc87db4c28fd0eec01c72104e4ffbd4e262e23497f'
    ),
    'spos1_cifar10': Tag(_ONE_CELL, 'e02f8a310cb163d67b04ef46c91ca83dc6bbe66e35a9d6df5d31cbbf02a99ffc'),
    'cond_cifar10': Tag({'split': True}),  # the paper's protocol
    'spos_cifar10': Tag(),
    'cond_glyphs': Tag({'split': True, **_GLYPHS}, 'f8e96ecb3bb37e667eb7b1c6c75088a2ac958276d7f82fad8b53bd24471eb629'),
    'spos_glyphs': Tag(_GLYPHS, '46b056ebc3c99468b50548332f69265b67be66d7e230803fb22e25da9bea7cf4'),
}
register_tags('nb201_cond_supernet', _TAGS)


def _supernet_cfg(tag: str) -> Any:
    glyphs = {'num_classes': 26, 'input_size': (1, 16, 16), 'pool_size': (4, 4), 'mean': (0.083,), 'std': (0.149,)}
    hub = f'{HUB_ORGANIZATION}/nb201_cond_supernet.{tag}'
    return _cfg(hf_hub_id=hub, paper_ids='arXiv:2104.11522', **(glyphs if tag.endswith('glyphs') else {}))


default_cfgs = generate_default_cfgs(
    {f'nb201_cond_supernet.{tag}': _supernet_cfg(tag) for tag in _TAGS} | {'nb201_net.untrained': _cfg()}
)

_FEATURE_CFG = {'out_indices': (0, 1, 2), 'flatten_sequential': True}


@register_model
def nb201_cond_supernet(pretrained: bool = False, **kwargs: Any) -> NB201Supernet:
    """NAS-Bench-201 super-network, see `NB201Supernet`."""
    return build_supernet(NB201Supernet, 'nb201_cond_supernet', pretrained, **kwargs)


@register_model
def nb201_net(pretrained: bool = False, **kwargs: Any) -> NB201Net:
    """NAS-Bench-201 stand-alone network, see `NB201Net`."""
    return build_model_with_cfg(
        NB201Net,
        'nb201_net',
        pretrained,
        pretrained_filter_fn=checkpoint_filter_fn,
        feature_cfg=dict(_FEATURE_CFG),
        **kwargs,
    )
