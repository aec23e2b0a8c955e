"""How often a training has trained each candidate operation in each context."""

import itertools
from collections.abc import Iterable, Mapping

from condnet.choice import has_weights
from condnet.models.supernet import Supernet
from condnet.spaces import Arch, SearchSpace

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
        for decision, predecessors in enumerate(space.predecessors)
        for operation in space.choices
        for context, before in enumerate(itertools.product(space.choices, repeat=len(predecessors)))
    ]


def untrained_contexts(model: Supernet, archs: Iterable[Arch], counts_since_split: Mapping[Choice, int]) -> list[str]:
    """The weight sets of these architectures that are as the split left them; none before the split."""
    if not model.is_split:
        return []
    weighted = {
        (block.decision, operation)
        for block in model.choice_blocks()
        for operation in model.space.choices
        if has_weights(block.weight_sets(operation)[0])
    }
    used = {choice for arch in archs for choice in choices_of(model.space, arch)}
    return [
        f'{model.space.operations[operation]} at decision {decision} in context {context}'
        for decision, operation, context in sorted(used)
        if (decision, operation) in weighted and not counts_since_split.get((decision, operation, context))
    ]
