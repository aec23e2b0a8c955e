"""NAS-Bench-201: a cell of four nodes and six edges.

Source: NAS-Bench-201 (Dong and Yang, 2020).
"""

import functools
import itertools
import random
import re
from dataclasses import dataclass
from typing import Any

from condnet.errors import CondnetError
from condnet.spaces.base import Arch, SearchSpace
from condnet.spaces.costs import Cost, conv_cost
from condnet.spaces.notation import show_arch
from condnet.spaces.registry import register_space


@dataclass(frozen=True)
class NB201Space(SearchSpace):
    """NAS-Bench-201: six edges of a cell, in the order 0->1, 0->2, 1->2, 0->3, 1->3, 2->3.

    NASLib's tuples look alike and mean other architectures: its operations are 0 skip_connect, 1 none, 2 nor_conv_3x3,
    3 nor_conv_1x1, 4 avg_pool_3x3, its edges 0->1, 0->2, 0->3, 1->2, 1->3, 2->3.
    """

    def from_string(self, text: str) -> Arch:
        matches = re.fullmatch(r'\|(\w+)~0\|\+\|(\w+)~0\|(\w+)~1\|\+\|(\w+)~0\|(\w+)~1\|(\w+)~2\|', text)
        if matches is None:
            expected = '|op~0|+|op~0|op~1|+|op~0|op~1|op~2|, an index or a tuple'
            raise CondnetError(f'not an architecture string of nb201: {show_arch(text)}; expected {expected}')
        for name in matches.groups():
            if name not in self.operations:
                known = ', '.join(self.operations)
                raise CondnetError(f'unknown operation {name!r} in {text!r}; expected one of {known}')
        return tuple(self.operations.index(name) for name in matches.groups())

    def to_string(self, arch: Arch) -> str:
        a, b, c, d, e, f = (self.operations[operation] for operation in arch)
        return f'|{a}~0|+|{b}~0|{c}~1|+|{d}~0|{e}~1|{f}~2|'

    def from_index(self, index: int) -> Arch:
        order = _nats_bench_order()
        if not 0 <= index < len(order):
            raise CondnetError(f'nb201 has architectures 0..{len(order) - 1}, got {show_arch(index)}')
        return super().from_index(order[index])

    def index(self, arch: Any) -> int:
        return _nats_bench_index()[super().index(arch)]

    def graph(self, arch: Arch) -> list[tuple[int, int, str]]:
        edges = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))
        return [(*edge, self.operations[operation]) for edge, operation in zip(edges, arch, strict=True)]

    def cost_table(self, dataset: str) -> tuple[Cost, tuple[dict[int, Cost], ...]]:
        return _nb201_cost_table(dataset)


# The networks that were trained for the benchmark of each data set, as arguments of the model `nb201_net`.
NB201_NETWORKS: dict[str, dict[str, Any]] = {
    'cifar10': {'in_chans': 3, 'num_classes': 10, 'channels': (16, 32, 64), 'cells_per_stage': 5},
    'glyphs': {'in_chans': 1, 'num_classes': 26, 'channels': (8, 16, 24), 'cells_per_stage': 1},
}
_IMAGE_SIZES = {'cifar10': 32, 'glyphs': 16}  # pixels along a side


@functools.cache
def _nb201_cost_table(dataset: str) -> tuple[Cost, tuple[dict[int, Cost], ...]]:
    if dataset not in NB201_NETWORKS:
        raise CondnetError(f'no nb201 benchmark of data set {dataset!r}; expected one of {", ".join(NB201_NETWORKS)}')
    network, size = NB201_NETWORKS[dataset], _IMAGE_SIZES[dataset]
    channels, classes = network['channels'], network['num_classes']
    last = channels[-1]
    stages = [(chs, size >> i) for i, chs in enumerate(channels)]  # channels, pixels along a side
    fixed = conv_cost(network['in_chans'], channels[0], 3, size)  # stem
    fixed += Cost(2 * last, 0) + Cost(last * classes + classes, last * classes + classes)  # last BN, classifier
    for (in_chs, _), (chs, out_size) in itertools.pairwise(stages):
        fixed += conv_cost(in_chs, chs, 3, out_size) + conv_cost(chs, chs, 3, out_size)
        fixed += conv_cost(in_chs, chs, 1, out_size, affine=False)  # shortcut
    row = dict.fromkeys(range(5), Cost(0, 0))
    for operation, kernel in ((2, 1), (3, 3)):
        cells = [conv_cost(chs, chs, kernel, pixels) for chs, pixels in stages] * network['cells_per_stage']
        row[operation] = sum(cells, start=Cost(0, 0))
    return fixed, (row,) * 6


@functools.cache
def _nats_bench_order() -> list[int]:
    """Lexicographic numbers of the 15,625 architectures in NATS-Bench's official order.

    Its authors enumerate the cells and shuffle them once with Python's generator and the seed 88.
    """
    order = list(range(5**6))
    random.Random(88).shuffle(order)
    return order


@functools.cache
def _nats_bench_index() -> dict[int, int]:
    return {number: index for index, number in enumerate(_nats_bench_order())}


_NB201 = dict(
    operations=('none', 'skip_connect', 'nor_conv_1x1', 'nor_conv_3x3', 'avg_pool_3x3'),
    predecessors=((), (), (0,), (), (0,), (1, 2)),
    weighted=(2, 3),
)
register_space(NB201Space('nb201', 'full', choices=(0, 1, 2, 3, 4), **_NB201))  # type: ignore[arg-type]
register_space(NB201Space('nb201', 'no_zero', choices=(1, 2, 3, 4), **_NB201))  # type: ignore[arg-type]
register_space(NB201Space('nb201', 'only_conv', choices=(2, 3), **_NB201))  # type: ignore[arg-type]
