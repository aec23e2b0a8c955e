"""How architectures are given: numbers in text, and what Python and its libraries take for integers and lists."""

import operator
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from condnet.errors import CondnetError, show

if TYPE_CHECKING:
    from condnet.spaces.base import SearchSpace

ARCH_HELP = (  # of flags that take architectures
    'An architecture is its official string (nb201: |op~0|+|op~0|op~1|+|op~0|op~1|op~2|, macro: eight digits), index:N '
    '(nb201: or N alone), or a tuple of operation numbers, such as "(3, 3, 1, 3, 3, 3)". nb201: 0 none, '
    '1 skip_connect, 2 nor_conv_1x1, 3 nor_conv_3x3, 4 avg_pool_3x3 on the edges 0->1, 0->2, 1->2, 0->3, 1->3, 2->3; '
    'macro: 0 identity, 1 mbconv3x3_e3, 2 mbconv5x5_e6, layer by layer. NASLib numbers operations and edges otherwise: '
    'give its architectures as strings'
)

NUMBER = '(?:0|[1-9][0-9]{0,998})'  # `\d` would take the digits of all scripts


def plain(value: Any) -> Any:
    """Arrays and tensors as Python's own lists and numbers; anything else as it is."""
    return value.tolist() if hasattr(value, 'tolist') else value


def integer(value: Any) -> int | None:
    """An integer of whatever type; None for what is none, booleans included."""
    try:
        return None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        return None


def list_archs(archs: Any, space: 'SearchSpace') -> list[Any]:
    """Architectures that are given, one by one: a string is one of them, and so is a tuple of a number per decision.

    A list or an array of numbers holds several official indices.

    Raises:
        CondnetError: If there is nothing to go through.
    """
    if isinstance(archs, str):
        return [archs]
    if not isinstance(archs, Iterable):
        raise CondnetError(f'`archs` is {show(archs)}, expected architectures')
    listed = list(archs)
    is_one = isinstance(archs, tuple) and len(listed) == len(space.predecessors)
    return [archs] if is_one and all(integer(plain(number)) is not None for number in listed) else listed


def show_arch(value: Any) -> str:
    """One line of what was given for an architecture, for an error message."""
    return show(plain(value))


def read_sequence(arch: Sequence[Any], space: 'SearchSpace') -> tuple[int, ...]:
    """The operations of an architecture that is given as their numbers.

    Raises:
        CondnetError: If there is not one for each decision, or the space has no such operation.
    """
    if len(arch) != len(space.predecessors):
        raise CondnetError(f'{space} has {len(space.predecessors)} decisions, got {len(arch)}: {show_arch(arch)}')
    operations, most = [], len(space.operations) - 1
    for given in arch:
        operation = integer(plain(given))
        if operation is None or not 0 <= operation <= most:
            raise CondnetError(f'operation {show_arch(given)} in {show_arch(arch)}: expected an integer, 0..{most}')
        operations.append(operation)
    return tuple(operations)
