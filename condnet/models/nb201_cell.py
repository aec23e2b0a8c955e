"""The cell of NAS-Bench-201: its operations, what it computes, and the same in steps that architectures share."""

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
from torch import nn

from condnet.choice import ChoiceBlock
from condnet.models.supernet import State, Step
from condnet.spaces.base import Arch

# Edges by node: (decision, node that it reads).
_NODES = (((0, 0),), ((1, 0), (2, 1)), ((3, 0), (4, 1), (5, 2)))

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


def make_operation(operation: int, channels: int, affine: bool, linear_skip: bool, dd: dict[str, Any]) -> nn.Module:
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


def cell_steps(cell: Cell, arch: Arch) -> list[Step]:
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
        output: torch.Tensor = self.conv2(self.conv1(x)) + self.shortcut(x)
        return output
