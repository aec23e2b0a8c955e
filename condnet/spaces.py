"""Search spaces: what an architecture is, how it is written, drawn and counted, and what it costs.

An architecture is a tuple with one entry per decision, the official number of the operation chosen there. The same
tuple means the same architecture in every subset of a space. Everywhere in the package it may also be given as the
official string or the official index; `SearchSpace.parse` has the rules.

Sources: NAS-Bench-201 (Dong and Yang, 2020) and NAS-Bench-Macro (Su et al., 2021); the predecessors of a decision are
those of "Conditional super-network weights", section 3.3.

A space of your own is a `SearchSpace`, or a subclass that overrides what is to be different, and is made known by
`register_space`; docs/your_own_space.md is the tutorial.
"""

import functools
import itertools
import math
import operator
import random
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from condnet.errors import CondnetError, show

Arch = tuple[int, ...]

ARCH_HELP = (  # of flags that take architectures
    'An architecture is its official string (nb201: |op~0|+|op~0|op~1|+|op~0|op~1|op~2|, macro: eight digits), index:N '
    '(nb201: or N alone), or a tuple of operation numbers, such as "(3, 3, 1, 3, 3, 3)". nb201: 0 none, '
    '1 skip_connect, 2 nor_conv_1x1, 3 nor_conv_3x3, 4 avg_pool_3x3 on the edges 0->1, 0->2, 1->2, 0->3, 1->3, 2->3; '
    'macro: 0 identity, 1 mbconv3x3_e3, 2 mbconv5x5_e6, layer by layer. NASLib numbers operations and edges otherwise: '
    'give its architectures as strings'
)


@dataclass(frozen=True)
class Cost:
    """What a stand-alone network costs: number of parameters, and FLOPs (multiply-adds) of one image."""

    params: int
    flops: int

    def __add__(self, other: 'Cost') -> 'Cost':
        return Cost(self.params + other.params, self.flops + other.flops)


ENUMERABLE = 1 << 17  # larger spaces are never walked through as a whole, only drawn from


@dataclass(frozen=True)
class SearchSpace:
    """A set of architectures: decisions in sequence, each of which picks one operation.

    Subclasses may override `to_string` and `from_string` (both or neither), `digits_are_strings`, `index` and
    `from_index` (both or neither), `cost_table` or `cost`, and `network_args`.

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
        if len({isinstance(choice, tuple) for choice in self.choices}) != 1:
            raise CondnetError(f'{self} has the choices {self.choices}, expected numbers of operations, or a tuple of '
                               'them for each decision')  # fmt: skip
        for operation in self.operations:
            if not operation.isidentifier():
                raise CondnetError(f'{self}: the operation {operation!r} is no name of letters, digits and underscores')
        if not self.predecessors or len(set(self.operations)) != len(self.operations):
            raise CondnetError(f'{self}: expected at least one decision, and a name of its own for every operation')
        if self._has_own_choices and len(self.choices) != len(self.predecessors):
            raise CondnetError(f'{self} has choices of {len(self.choices)} decisions, and predecessors of '
                               f'{len(self.predecessors)}')  # fmt: skip
        known = range(len(self.operations))
        for decision, predecessors in enumerate(self.predecessors):
            choices = self.choices_of(decision)
            if not choices or len(set(choices)) != len(choices) or not all(choice in known for choice in choices):
                raise CondnetError(f'{self}: decision {decision} has the choices {choices}, expected different numbers '
                                   f'of operations, 0..{len(self.operations) - 1}')  # fmt: skip
            if len(set(predecessors)) != len(predecessors) or not all(0 <= p < decision for p in predecessors):
                raise CondnetError(f'{self}: decision {decision} has the predecessors {predecessors}, expected '
                                   'different decisions before it')  # fmt: skip
        if not all(operation in known for operation in self.weighted):
            raise CondnetError(f'{self}: weighted is {self.weighted}, expected numbers of operations')

    @property
    def _has_own_choices(self) -> bool:
        """Whether choices are given for each decision."""
        return isinstance(self.choices[0], tuple)

    def choices_of(self, decision: int) -> tuple[int, ...]:
        """Numbers of the operations that a decision may pick."""
        return self.choices[decision] if self._has_own_choices else self.choices  # type: ignore[return-value]

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
            plain = _plain(arch)
            if isinstance(plain, (tuple, list)):
                parsed = self._from_sequence(plain)
            elif (index := _integer(plain)) is not None:
                parsed = self.from_index(index)
            else:
                expected = 'expected a tuple, a string or an index'
                raise CondnetError(f'not an architecture of {self}: {_show(arch)}; {expected}')
        for decision, operation in enumerate(parsed):
            if operation not in self.choices_of(decision):
                raise CondnetError(self._why_not(parsed, decision))
        return parsed

    def _why_not(self, arch: Arch, decision: int) -> str:
        """What to say of an architecture that picks at a decision what it may not."""
        known = ', '.join(self.operations[choice] for choice in self.choices_of(decision))
        uses = f'architecture {self.to_string(arch)!r} uses {self.operations[arch[decision]]!r}'
        if self._has_own_choices:
            return f'{uses} at decision {decision} of {self}; expected one of {known}'
        return f'{uses}, which is not in the subset {self.subset!r} of {self.name} ({known})'

    def _from_text(self, text: str) -> Arch:
        if match := re.fullmatch(rf'index:({_NUMBER})', text):
            return self.from_index(int(match[1]))
        if re.fullmatch(rf'\({_NUMBER}(, *{_NUMBER})*\)', text):
            return self._from_sequence([int(number) for number in re.findall(_NUMBER, text)])
        if re.fullmatch(_NUMBER, text) and not self.digits_are_strings():
            return self.from_index(int(text))
        return self.from_string(text)

    def digits_are_strings(self) -> bool:
        """Whether official strings are digits, so that digits without `index:` are no index."""
        return False

    def _from_sequence(self, arch: 'Arch | list[Any]') -> Arch:
        if len(arch) != len(self.predecessors):
            raise CondnetError(f'{self} has {len(self.predecessors)} decisions, got {len(arch)}: {_show(arch)}')
        operations = []
        for given in arch:
            operation = _integer(_plain(given))
            if operation is None or not 0 <= operation < len(self.operations):
                raise CondnetError(
                    f'operation {_show(given)} in {_show(arch)}: expected an integer, 0..{len(self.operations) - 1}'
                )
            operations.append(operation)
        return tuple(operations)

    def from_index(self, index: int) -> Arch:
        """The architecture of an official index; `parse` checks then that it is in this subset.

        Raises:
            CondnetError: If there is no such index.
        """
        whole = self._whole()
        if not 0 <= index < whole.size:
            raise CondnetError(f'{self.name} has architectures 0..{_show(whole.size - 1)}, got {_show(index)}')
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
        return self if self.subset == 'full' else _SPACES.get((self.name, 'full'), self)

    def from_string(self, text: str) -> Arch:
        """Read an official string: by default the names of the operations with `-` between them.

        Raises:
            CondnetError: If it is none.
        """
        names = text.split('-')
        if len(names) != len(self.predecessors):
            expected = f'expected {len(self.predecessors)} operations with - between them, an index or a tuple'
            raise CondnetError(f'not an architecture string of {self.name}: {_show(text)}; {expected}')
        for name in names:
            if name not in self.operations:
                known = ', '.join(self.operations)
                raise CondnetError(f'unknown operation {_show(name)} in {_show(text)}; expected one of {known}')
        return tuple(map(self.operations.index, names))

    def to_string(self, arch: Arch) -> str:
        """Write an official string, which `from_string` reads."""
        return '-'.join(self.operations[operation] for operation in arch)

    def format(self, arch: Any) -> str:
        """Official string of an architecture (given as to `parse`)."""
        return self.to_string(self.parse(arch))

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

    def network_args(self, dataset: str) -> dict[str, Any]:
        """Arguments of the model `<name>_net` that make it the network of a data set, where they are no defaults."""
        return {}

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
        if self._has_own_choices:
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
            CondnetError: If it is no architecture, or the costs are not known, as there is no benchmark of the data
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


_NUMBER = '(?:0|[1-9][0-9]{0,998})'  # `\d` would take the digits of all scripts


def _plain(value: Any) -> Any:
    """Arrays and tensors as Python's own lists and numbers; anything else as it is."""
    return value.tolist() if hasattr(value, 'tolist') else value


def _integer(value: Any) -> int | None:
    """An integer of whatever type; None for what is none, booleans included."""
    try:
        return None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        return None


def _show(value: Any) -> str:
    return show(_plain(value))


def conv_cost(in_chs: int, out_chs: int, kernel: int, size: int, groups: int = 1, affine: bool = True) -> Cost:
    """Cost of a convolution without bias, with its BatchNorm, whose output is `size` x `size` pixels."""
    weights = kernel * kernel * (in_chs // groups) * out_chs
    return Cost(weights + 2 * out_chs * affine, weights * size * size)


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
            raise CondnetError(f'not an architecture string of nb201: {_show(text)}; expected {expected}')
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
            raise CondnetError(f'nb201 has architectures 0..{len(order) - 1}, got {_show(index)}')
        return super().from_index(order[index])

    def index(self, arch: Any) -> int:
        return _nats_bench_index()[super().index(arch)]

    def cost_table(self, dataset: str) -> tuple[Cost, tuple[dict[int, Cost], ...]]:
        return _nb201_cost_table(dataset)

    def network_args(self, dataset: str) -> dict[str, Any]:
        return dict(NB201_NETWORKS.get(dataset, {}))


# The networks that were trained for the benchmark of each data set, as arguments of the model `nb201_net`.
NB201_NETWORKS: dict[str, dict[str, Any]] = {
    'cifar10': {'in_chans': 3, 'num_classes': 10, 'channels': (16, 32, 64), 'cells_per_stage': 5},
    'glyphs': {'in_chans': 1, 'num_classes': 26, 'channels': (8, 16, 24), 'cells_per_stage': 1},
}
_IMAGE_SIZES = {'cifar10': 32, 'glyphs': 16}  # pixels along a side


def benchmark_network(space: str, dataset: str) -> dict[str, Any]:
    """Arguments of the model `<space>_net` that make it the benchmark's network, where they are not the default."""
    return get_space(space).network_args(dataset)


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


@dataclass(frozen=True)
class MacroSpace(SearchSpace):
    """NAS-Bench-Macro: eight layers in sequence. The index is the value of the eight digits in base three."""

    def digits_are_strings(self) -> bool:
        return True

    def from_string(self, text: str) -> Arch:
        if not re.fullmatch(r'[012]{8}', text):
            expected = 'expected eight digits 0, 1 or 2, or a tuple'
            if re.fullmatch(_NUMBER, text) and len(text) < 10:
                expected += f'; an index is written index:{text}'
            raise CondnetError(f'not an architecture string of macro: {_show(text)}; {expected}')
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


_NB201 = dict(
    operations=('none', 'skip_connect', 'nor_conv_1x1', 'nor_conv_3x3', 'avg_pool_3x3'),
    predecessors=((), (), (0,), (), (0,), (1, 2)),
    weighted=(2, 3),
)
_MACRO = dict(
    operations=('identity', 'mbconv3x3_e3', 'mbconv5x5_e6'),
    predecessors=((), *((decision,) for decision in range(7))),
    weighted=(1, 2),
)
_SPACES: dict[tuple[str, str], SearchSpace] = {}  # by name and subset

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
            raise CondnetError(f'cannot register {_show(new)}: expected a SearchSpace, or a function that makes one')
        if new.name in _OWN and _SPACES.get((new.name, new.subset), new) != new:
            raise CondnetError(f'the search space {new} is one of condnet; give yours another name')
    known = _SPACES | {(new.name, new.subset): new for new in spaces}
    for new in spaces:
        _check_subset(new, known.get((new.name, 'full'), new))
    for new in spaces:
        if _SPACES.get((new.name, new.subset), new) != new:  # a cell of a notebook that is run again
            warnings.warn(f'the search space {new} is replaced', stacklevel=2)
        _SPACES[new.name, new.subset] = new
    return space


def _check_subset(space: SearchSpace, whole: SearchSpace) -> None:
    """Refuse what is no part of the whole space: its architectures would have no index."""
    same = ('operations', 'predecessors')
    if any(getattr(space, name) != getattr(whole, name) for name in same) or not all(
        set(space.choices_of(decision)) <= set(whole.choices_of(decision))
        for decision in range(len(space.predecessors))
    ):
        raise CondnetError(f'{space} is no part of {whole}: expected the same decisions and operations, and no choices '
                           'that the whole space has not')  # fmt: skip


_OWN = ('nb201', 'macro')
register_space(NB201Space('nb201', 'full', choices=(0, 1, 2, 3, 4), **_NB201))  # type: ignore[arg-type]
register_space(NB201Space('nb201', 'no_zero', choices=(1, 2, 3, 4), **_NB201))  # type: ignore[arg-type]
register_space(NB201Space('nb201', 'only_conv', choices=(2, 3), **_NB201))  # type: ignore[arg-type]
register_space(MacroSpace('macro', 'full', choices=(0, 1, 2), **_MACRO))  # type: ignore[arg-type]


def get_space(name: str, subset: str = 'full') -> SearchSpace:
    """Look a search space up by name and subset.

    Raises:
        CondnetError: If there is none of that name.
    """
    if (name, subset) not in _SPACES:
        known = ', '.join(f'{n}/{s}' for n, s in _SPACES)
        raise CondnetError(f'unknown search space {name}/{subset}; expected one of {known}')
    return _SPACES[name, subset]
