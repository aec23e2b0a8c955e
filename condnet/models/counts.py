"""How often a training has trained each candidate operation in each context."""

from collections.abc import Iterable, Mapping

from condnet.choice import has_weights
from condnet.models.supernet import Supernet
from condnet.spaces.base import Arch, SearchSpace

Choice = tuple[int, int, int]  # decision, operation, context


def choices_of(space: SearchSpace, arch: Arch) -> list[Choice]:
    """What an architecture trains, one per decision."""
    return [(decision, operation, space.context(arch, decision)) for decision, operation in enumerate(arch)]


def counts_table(
    space: SearchSpace, counts: Mapping[Choice, int], counts_since_split: Mapping[Choice, int]
) -> list[dict[str, int | str]]:
    """Rows of `counts.csv`: steps by decision, operation and context, those never trained included."""
    return [
        {
            'decision': decision,
            'operation': space.operations[operation],
            'context': context,
            'after': ' '.join(space.operations[choice] for choice in before),
            'steps': counts.get((decision, operation, context), 0),
            'steps_since_split': counts_since_split.get((decision, operation, context), 0),
        }
        for decision in range(len(space.predecessors))
        for operation in space.choices_of(decision)
        for context, before in enumerate(space.contexts(decision))
    ]


def untrained_choices(model: Supernet, counts_since_split: Mapping[Choice, int]) -> list[Choice]:
    """The weight sets that are as the split left them; none before the split."""
    if not model.is_split:
        return []
    weight_sets = {  # the cells of a network share their decisions
        (block.decision, operation, context)
        for block in model.choice_blocks()
        for operation in block.choices
        if has_weights(block.weight_sets(operation)[0])
        for context in range(model.space.num_contexts(block.decision))
    }
    return sorted(choice for choice in weight_sets if not counts_since_split.get(choice))


def describe_untrained(
    space: SearchSpace, archs: Iterable[Arch] | None, untrained: Iterable[Iterable[int]]
) -> str | None:
    """What to say of architectures that use weight sets which were not trained since the split; None if none does.

    Args:
        space: Search space.
        archs: The architectures; None for all of the space.
        untrained: The weight sets, as of `untrained_choices`.
    """
    used = None if archs is None else {choice for arch in archs for choice in choices_of(space, arch)}
    found = sorted(choice for choice in map(tuple, untrained) if used is None or choice in used)
    if not found:
        return None
    decision, operation, context = found[0]
    return (
        f'{len(found)} weight sets have not been trained since the split, first {space.operations[operation]} at '
        f'decision {decision} in context {context}'
    )
