"""What a network costs."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Cost:
    """What a stand-alone network costs: number of parameters, and FLOPs (multiply-adds) of one image."""

    params: int
    flops: int

    def __add__(self, other: 'Cost') -> 'Cost':
        return Cost(self.params + other.params, self.flops + other.flops)


def conv_cost(in_chs: int, out_chs: int, kernel: int, size: int, groups: int = 1, affine: bool = True) -> Cost:
    """Cost of a convolution without bias, with its BatchNorm, whose output is `size` x `size` pixels."""
    weights = kernel * kernel * (in_chs // groups) * out_chs
    return Cost(weights + 2 * out_chs * affine, weights * size * size)
