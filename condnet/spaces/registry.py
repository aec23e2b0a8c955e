"""The search spaces, by name."""

import warnings
from collections.abc import Callable, Iterable
from typing import TypeVar

from condnet.errors import CondnetError, show
from condnet.spaces.base import SPACES, SearchSpace
from condnet.spaces.checks import check_subset

SpaceOrFactory = TypeVar('SpaceOrFactory', SearchSpace, Callable[[], SearchSpace | Iterable[SearchSpace]])


def register_space(space: SpaceOrFactory) -> SpaceOrFactory:
    """Make a search space known to `get_space`, and so to models, commands and results.

    Args:
        space: A space; or, as below a decorator, a function that makes it, or several: the whole space, of the subset
            `full`, and parts of it.

    Returns:
        What was given.

    Raises:
        CondnetError: If it is no search space, or one of `condnet`'s own would be replaced.
    """
    made = space if isinstance(space, SearchSpace) or not callable(space) else space()
    spaces = [made] if isinstance(made, SearchSpace) or not isinstance(made, Iterable) else list(made)
    for new in spaces:
        if not isinstance(new, SearchSpace):
            raise CondnetError(f'cannot register {show(new)}: expected a SearchSpace, or a function that makes one')
        if new.name in _OWN and SPACES.get((new.name, new.subset), new) != new:
            raise CondnetError(f'the search space {new} is one of condnet; give yours another name')
    known = SPACES | {(new.name, new.subset): new for new in spaces}
    for new in spaces:
        check_subset(new, known.get((new.name, 'full'), new))
    for new in spaces:
        if SPACES.get((new.name, new.subset), new) != new:  # a cell of a notebook that is run again
            warnings.warn(f'the search space {new} is replaced', stacklevel=2)
        SPACES[new.name, new.subset] = new
    return space


_OWN = ('nb201', 'macro')


def get_space(name: str, subset: str = 'full') -> SearchSpace:
    """Look a search space up by name and subset.

    Raises:
        CondnetError: If there is none of that name.
    """
    if (name, subset) not in SPACES:
        known = ', '.join(f'{n}/{s}' for n, s in SPACES)
        raise CondnetError(f'unknown search space {name}/{subset}; expected one of {known}')
    return SPACES[name, subset]


def known_spaces() -> list[str]:
    """Names of the registered search spaces."""
    return list(dict.fromkeys(name for name, _ in SPACES))
