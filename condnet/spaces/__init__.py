"""Search spaces: what an architecture is, its notations and costs. Importing this registers condnet's own."""

from condnet.spaces import macro, nb201  # noqa: F401  # they register themselves
from condnet.spaces.base import Arch, SearchSpace
from condnet.spaces.costs import Cost
from condnet.spaces.macro import MacroSpace
from condnet.spaces.nb201 import NB201Space
from condnet.spaces.notation import ARCH_HELP
from condnet.spaces.registry import get_space, known_spaces, register_space

__all__ = [
    'ARCH_HELP',
    'Arch',
    'Cost',
    'MacroSpace',
    'NB201Space',
    'SearchSpace',
    'get_space',
    'known_spaces',
    'register_space',
]
