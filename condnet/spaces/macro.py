"""NAS-Bench-Macro: eight layers in sequence.

Source: NAS-Bench-Macro (Su et al., 2021).
"""

import functools
import re
from dataclasses import dataclass

from condnet.errors import CondnetError
from condnet.spaces.base import Arch, SearchSpace
from condnet.spaces.costs import Cost, conv_cost
from condnet.spaces.notation import NUMBER, show_arch
from condnet.spaces.registry import register_space


@dataclass(frozen=True)
class MacroSpace(SearchSpace):
    """NAS-Bench-Macro: eight layers in sequence. The index is the value of the eight digits in base three."""

    def digits_are_strings(self) -> bool:
        return True

    def from_string(self, text: str) -> Arch:
        if not re.fullmatch(r'[012]{8}', text):
            expected = 'expected eight digits 0, 1 or 2, or a tuple'
            if re.fullmatch(NUMBER, text) and len(text) < 10:
                expected += f'; an index is written index:{text}'
            raise CondnetError(f'not an architecture string of macro: {show_arch(text)}; {expected}')
        return tuple(int(digit) for digit in text)

    def to_string(self, arch: Arch) -> str:
        return ''.join(str(operation) for operation in arch)

    def cost_table(self, dataset: str) -> tuple[Cost, tuple[dict[int, Cost], ...]]:
        if dataset != 'cifar10':
            raise CondnetError(f'no macro benchmark of data set {dataset!r}; expected cifar10')
        return _macro_cost_table()


MACRO_LAYERS = ((64, 2), (64, 1), (128, 2), (128, 1), (128, 1), (256, 2), (256, 1), (256, 1))  # output channels, stride
MACRO_BLOCKS = {1: (3, 3), 2: (5, 6)}  # operation: kernel size, expansion


@functools.cache
def _macro_cost_table() -> tuple[Cost, tuple[dict[int, Cost], ...]]:
    size, in_chs = 32, 32
    fixed, rows = conv_cost(3, in_chs, 3, size), []
    for out_chs, stride in MACRO_LAYERS:
        size, before = size // stride, size
        shortcut = conv_cost(in_chs, out_chs, 1, size) if stride > 1 or in_chs != out_chs else Cost(0, 0)
        row = {0: shortcut}
        for operation, (kernel, expansion) in MACRO_BLOCKS.items():
            mid = in_chs * expansion
            row[operation] = (
                conv_cost(in_chs, mid, 1, before)
                + conv_cost(mid, mid, kernel, size, groups=mid)
                + conv_cost(mid, out_chs, 1, size)
            )
        rows.append(row)
        in_chs = out_chs
    head = conv_cost(in_chs, 1280, 1, size) + Cost(1280 * 10 + 10, 1280 * 10)
    return fixed + head, tuple(rows)


_MACRO = dict(
    operations=('identity', 'mbconv3x3_e3', 'mbconv5x5_e6'),
    predecessors=((), *((decision,) for decision in range(7))),
    weighted=(1, 2),
)
register_space(MacroSpace('macro', 'full', choices=(0, 1, 2), **_MACRO))  # type: ignore[arg-type]
