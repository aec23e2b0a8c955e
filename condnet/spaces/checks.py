"""What must hold for a search space."""

from typing import TYPE_CHECKING

from condnet.errors import CondnetError

if TYPE_CHECKING:
    from condnet.spaces.base import SearchSpace


def check_definition(space: 'SearchSpace') -> None:
    """Refuse a space whose parts do not fit together.

    Raises:
        CondnetError: If they do not.
    """
    if len({isinstance(choice, tuple) for choice in space.choices}) != 1:
        raise CondnetError(f'{space} has the choices {space.choices}, expected numbers of operations, or a tuple of '
                           'them for each decision')  # fmt: skip
    for operation in space.operations:
        if not operation.isidentifier():
            raise CondnetError(f'{space}: the operation {operation!r} is not a name of letters, digits and underscores')
    if not space.predecessors or len(set(space.operations)) != len(space.operations):
        raise CondnetError(f'{space}: expected at least one decision, and a name of its own for every operation')
    if space.has_own_choices and len(space.choices) != len(space.predecessors):
        raise CondnetError(f'{space} has choices of {len(space.choices)} decisions, and predecessors of '
                           f'{len(space.predecessors)}')  # fmt: skip
    known = range(len(space.operations))
    for decision, predecessors in enumerate(space.predecessors):
        choices = space.choices_of(decision)
        if not choices or len(set(choices)) != len(choices) or not all(choice in known for choice in choices):
            raise CondnetError(f'{space}: decision {decision} has the choices {choices}, expected different numbers '
                               f'of operations, 0..{len(space.operations) - 1}')  # fmt: skip
        if len(set(predecessors)) != len(predecessors) or not all(0 <= p < decision for p in predecessors):
            raise CondnetError(f'{space}: decision {decision} has the predecessors {predecessors}, expected '
                               'different decisions before it')  # fmt: skip
    if not all(operation in known for operation in space.weighted):
        raise CondnetError(f'{space}: weighted is {space.weighted}, expected numbers of operations')


def check_subset(space: 'SearchSpace', whole: 'SearchSpace') -> None:
    """Refuse what is not a part of the whole space: its architectures would have no index."""
    same = ('operations', 'predecessors')
    if any(getattr(space, name) != getattr(whole, name) for name in same) or not all(
        set(space.choices_of(decision)) <= set(whole.choices_of(decision))
        for decision in range(len(space.predecessors))
    ):
        raise CondnetError(f'{space} is not a part of {whole}: expected the same decisions and operations, and no '
                           'choices that the whole space does not have')  # fmt: skip
