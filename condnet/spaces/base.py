"""Search spaces: what an architecture is, how it is written, drawn and counted, and what it costs.

An architecture is a tuple with one entry per decision, the official number of the operation chosen there. The same
tuple means the same architecture in every subset of a space. Everywhere in the package it may also be given as the
official string or the official index; `SearchSpace.parse` has the rules.

Sources: NAS-Bench-201 (Dong and Yang, 2020) and NAS-Bench-Macro (Su et al., 2021); the predecessors of a decision are
those of "Conditional super-network weights", section 3.3.

A space of your own is a `SearchSpace`, or a subclass that overrides what is to be different, and is made known by
`register_space`; docs/your_own_space.md is the tutorial.
"""

import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from condnet.errors import CondnetError
from condnet.spaces.checks import check_definition
from condnet.spaces.costs import Cost
from condnet.spaces.notation import NUMBER, integer, plain, read_sequence, show_arch

Arch = tuple[int, ...]


ENUMERABLE = 1 << 17  # larger spaces are never walked through as a whole, only drawn from


@dataclass(frozen=True)
class SearchSpace:
    """A set of architectures: decisions in sequence, each of which picks one operation.

    Subclasses may override `to_string` and `from_string` (both or neither), `digits_are_strings`, `index` and
    `from_index` (both or neither), `cost_table` or `cost`, and `graph`.

    Args:
        name: Name of the space, as in `get_space`.
        subset: Which part of it; `full` is all of it.
        operations: Names of all operations, in official order; letters, digits and underscores.
        choices: Numbers of the operations that this subset may pick, the same at every decision; or for each decision
            its own, see `choices_of`.
        predecessors: For each decision, the earlier decisions that its weights may depend on.
        weighted: Numbers of the operations whose weight sets are counted (the paper counts those with convolutions).

    Raises:
        CondnetError: If these do not fit together.
    """

    name: str
    subset: str
    operations: tuple[str, ...]
    choices: tuple[int, ...] | tuple[tuple[int, ...], ...]
    predecessors: tuple[tuple[int, ...], ...]
    weighted: tuple[int, ...]

    def __post_init__(self) -> None:
        for name in ('operations', 'choices', 'predecessors', 'weighted'):  # lists are as good, but are not hashed
            values = tuple(tuple(v) if isinstance(v, (list, range)) else v for v in getattr(self, name))
            object.__setattr__(self, name, values)
        check_definition(self)

    @property
    def has_own_choices(self) -> bool:
        """Whether choices are given for each decision."""
        return isinstance(self.choices[0], tuple)

    def choices_of(self, decision: int) -> tuple[int, ...]:
        """Numbers of the operations that a decision may pick."""
        return self.choices[decision] if self.has_own_choices else self.choices  # type: ignore[return-value]

    @property
    def _numbers_of_choices(self) -> list[int]:
        return [len(self.choices_of(decision)) for decision in range(len(self.predecessors))]

    @property
    def size(self) -> int:
        """Number of architectures."""
        return math.prod(self._numbers_of_choices)

    @property
    def is_enumerable(self) -> bool:
        """Whether all architectures may be walked through."""
        return self.size <= ENUMERABLE

    def __len__(self) -> int:
        """As `size`; Python raises an OverflowError where it has no room for that."""
        return self.size

    def __bool__(self) -> bool:
        return True  # without asking for the length

    def __iter__(self) -> Iterator[Arch]:
        """All architectures, in lexicographic order of their tuples."""
        return itertools.product(*map(self.choices_of, range(len(self.predecessors))))

    def __contains__(self, arch: object) -> bool:
        try:
            self.parse(arch)
        except ValueError:
            return False
        return True

    def __str__(self) -> str:
        return f'{self.name}/{self.subset}'

    def parse(self, arch: Any) -> Arch:
        """Read an architecture given as sequence of operation numbers, as official string, or as official index.

        - A tuple, list, or one-dimensional array or tensor of integers: the number of the operation at each decision,
          in the order of `operations` and of the official string.
        - An integer, or an array or tensor of no dimension that holds one: the official index.
        - Text, as from a command line: the official string; `index:` and the official index; a tuple in parentheses,
          such as `(3, 3, 1, 3, 3, 3)`. Digits alone are an official index where they can be nothing else (nb201:
          `6111`), but never where strings are digits themselves (macro: `1210` is refused, as it may be `00001210` or
          `index:1210`).

        Numbers in text are decimal digits 0 to 9 without sign, separators or leading zeros; spaces around the text do
        not matter. Booleans and floating-point numbers are no operations and no indices.

        Other libraries number operations and edges in another order (NASLib's `op_indices`, for example, of nb201). A
        sequence does not show that: give their architectures as official strings.

        Raises:
            CondnetError: If it is not an architecture, or one outside of this subset.
        """
        if isinstance(arch, str):
            parsed = self._from_text(arch.strip())
        else:
            value = plain(arch)
            if isinstance(value, (tuple, list)):
                parsed = read_sequence(value, self)
            elif (index := integer(value)) is not None:
                parsed = self.from_index(index)
            else:
                expected = 'expected a tuple, a string or an index'
                raise CondnetError(f'not an architecture of {self}: {show_arch(arch)}; {expected}')
        for decision, operation in enumerate(parsed):
            if operation not in self.choices_of(decision):
                raise CondnetError(self._why_not(parsed, decision))
        return parsed

    def _why_not(self, arch: Arch, decision: int) -> str:
        """What to say of an architecture that picks at a decision what it may not."""
        known = ', '.join(self.operations[choice] for choice in self.choices_of(decision))
        uses = f'architecture {self.to_string(arch)!r} uses {self.operations[arch[decision]]!r}'
        if self.has_own_choices:
            return f'{uses} at decision {decision} of {self}; expected one of {known}'
        return f'{uses}, which is not in the subset {self.subset!r} of {self.name} ({known})'

    def _from_text(self, text: str) -> Arch:
        if match := re.fullmatch(rf'index:({NUMBER})', text):
            return self.from_index(int(match[1]))
        if re.fullmatch(rf'\({NUMBER}(, *{NUMBER})*\)', text):
            return read_sequence([int(number) for number in re.findall(NUMBER, text)], self)
        if re.fullmatch(NUMBER, text) and not self.digits_are_strings():
            return self.from_index(int(text))
        return self.from_string(text)

    def digits_are_strings(self) -> bool:
        """Whether official strings are digits, so that digits without `index:` are no index."""
        return False

    def from_index(self, index: int) -> Arch:
        """The architecture of an official index; `parse` checks then that it is in this subset.

        Raises:
            CondnetError: If there is no such index.
        """
        whole = self._whole()
        if not 0 <= index < whole.size:
            raise CondnetError(f'{self.name} has architectures 0..{show_arch(whole.size - 1)}, got {show_arch(index)}')
        return whole._at(index)

    def index(self, arch: Any) -> int:
        """Official index of an architecture (given as to `parse`); it counts the whole space, in subsets as well."""
        number, whole = 0, self._whole()
        for decision, operation in enumerate(self.parse(arch)):
            choices = whole.choices_of(decision)
            number = number * len(choices) + choices.index(operation)
        return number

    def _whole(self) -> 'SearchSpace':
        """The whole space, if it is registered."""
        return self if self.subset == 'full' else SPACES.get((self.name, 'full'), self)

    def from_string(self, text: str) -> Arch:
        """Read an official string: by default the names of the operations with `-` between them.

        Raises:
            CondnetError: If it is none.
        """
        names = text.split('-')
        if len(names) != len(self.predecessors):
            expected = f'expected {len(self.predecessors)} operations with - between them, an index or a tuple'
            raise CondnetError(f'not an architecture string of {self.name}: {show_arch(text)}; {expected}')
        for name in names:
            if name not in self.operations:
                known = ', '.join(self.operations)
                raise CondnetError(f'unknown operation {show_arch(name)} in {show_arch(text)}; expected one of {known}')
        return tuple(map(self.operations.index, names))

    def to_string(self, arch: Arch) -> str:
        """Write an official string, which `from_string` reads."""
        return '-'.join(self.operations[operation] for operation in arch)

    def format(self, arch: Any) -> str:
        """Official string of an architecture (given as to `parse`)."""
        return self.to_string(self.parse(arch))

    def graph(self, arch: Arch) -> list[tuple[int, int, str]]:
        """An architecture as it is drawn: edges from a node to a later one; by default a chain."""
        return [(i, i + 1, self.operations[operation]) for i, operation in enumerate(arch)]

    def cost_table(self, dataset: str) -> tuple[Cost, Sequence[Mapping[int, Cost]]]:
        """Cost of what every architecture has, and of each operation at each decision (the benchmark's network).

        Raises:
            CondnetError: If it is not known, as for a space that overrides neither this nor `cost`.
        """
        raise CondnetError(f'the costs of architectures of {self.name} are not known: it has no cost_table')

    def has_costs(self, dataset: str) -> bool:
        """Whether `cost` knows the networks for a data set."""
        try:
            self.cost(next(iter(self)), dataset)
        except CondnetError:
            return False
        return True

    def sample(
        self, generator: torch.Generator | None = None, operation_weights: Sequence[float] | None = None
    ) -> Arch:
        """Draw an architecture, every decision for itself.

        Args:
            generator: Where the random numbers come from.
            operation_weights: How often each operation is drawn relative to the others, by official number, see
                `check_operation_weights`; None draws uniformly.
        """
        decisions = range(len(self.predecessors))
        if self.has_own_choices:
            return tuple(self._draw(self.choices_of(decision), 1, generator, operation_weights)[0]
                         for decision in decisions)  # fmt: skip
        return tuple(self._draw(self.choices_of(0), len(decisions), generator, operation_weights))

    @staticmethod
    def _draw(
        choices: Sequence[int], num: int, generator: torch.Generator | None, weights: Sequence[float] | None
    ) -> list[int]:
        """Draw `num` of the choices, with repetition."""
        if weights is None:
            picks = torch.randint(len(choices), (num,), generator=generator)
        else:
            chances = torch.tensor([float(weights[choice]) for choice in choices])
            picks = torch.multinomial(chances, num, replacement=True, generator=generator)
        return [choices[pick] for pick in picks.tolist()]

    def check_operation_weights(self, weights: Sequence[float]) -> None:
        """Check weights to draw operations with.

        Raises:
            CondnetError: If there is not one finite weight per operation of the space, or one that this subset may pick
                is not positive: it would never be trained.
        """
        if len(weights) != len(self.operations):
            names = ', '.join(self.operations)
            raise CondnetError(f'{len(weights)} operation weights, {self.name} has {len(self.operations)}: {names}')
        for choice in sorted(set(itertools.chain.from_iterable(map(self.choices_of, range(len(self.predecessors)))))):
            if not (math.isfinite(weights[choice]) and weights[choice] > 0):
                raise CondnetError(
                    f'the weight of {self.operations[choice]} is {weights[choice]}, expected more than 0'
                )

    def sample_distinct(self, num: int, seed: int = 0) -> list[Arch]:
        """Draw `num` different architectures uniformly, from a seed, in order of their index.

        Raises:
            CondnetError: If the space holds fewer.
        """
        if not 0 < num <= self.size:
            raise CondnetError(f'{self} holds {self.size} architectures, cannot draw {num} different ones')
        return sorted(itertools.islice(self.shuffled(seed), num), key=self.index)

    def shuffled(self, seed: int = 0) -> Iterator[Arch]:
        """All architectures in random order, from a seed; of a large space each is drawn when it is asked for."""
        generator = torch.Generator().manual_seed(seed)
        if self.is_enumerable:
            return map(self._at, torch.randperm(self.size, generator=generator).tolist())
        return self._draw_new(generator)

    def _draw_new(self, generator: torch.Generator) -> Iterator[Arch]:
        seen: set[Arch] = set()
        while len(seen) < self.size:
            arch = self.sample(generator)
            if arch not in seen:
                seen.add(arch)
                yield arch

    def _at(self, position: int) -> Arch:
        """The architecture at a position of the iteration."""
        digits = []
        for decision in reversed(range(len(self.predecessors))):
            choices = self.choices_of(decision)
            position, digit = divmod(position, len(choices))
            digits.append(choices[digit])
        return tuple(reversed(digits))

    def cost(self, arch: Any, dataset: str = 'cifar10') -> Cost:
        """Parameters and FLOPs of the benchmark's own network of an architecture (additive look-ups).

        Args:
            arch: The architecture, given as to `parse`.
            dataset: The data set that the benchmark was made on.

        Raises:
            CondnetError: If it is not an architecture, or the costs are not known, as there is no benchmark of the data
                set.
        """
        fixed, table = self.cost_table(dataset)
        return sum((row[operation] for row, operation in zip(table, self.parse(arch), strict=True)), start=fixed)

    def num_contexts(self, decision: int) -> int:
        """In how many ways the predecessors of a decision can be chosen (1 without predecessors)."""
        return math.prod(len(self.choices_of(predecessor)) for predecessor in self.predecessors[decision])

    def context(self, arch: Arch, decision: int) -> int:
        """Number of the context that an architecture gives a decision: the mixed-radix number of the choices before."""
        number = 0
        for predecessor in self.predecessors[decision]:
            choices = self.choices_of(predecessor)
            number = number * len(choices) + choices.index(arch[predecessor])
        return number

    def contexts(self, decision: int) -> Iterator[tuple[int, ...]]:
        """What is chosen at the predecessors of a decision in each of its contexts, in order of their numbers."""
        return itertools.product(*map(self.choices_of, self.predecessors[decision]))


SPACES: dict[tuple[str, str], SearchSpace] = {}  # by name and subset
