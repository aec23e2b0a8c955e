"""The published tables, and our own of the letters: what is read from their files."""

import json
import operator
from collections import Counter
from pathlib import Path
from typing import Any

from condnet.benchmarks.registry import BenchmarkRow, register_benchmark
from condnet.errors import CondnetError
from condnet.spaces.base import SearchSpace
from condnet.spaces.costs import Cost
from condnet.utils.csvfile import check_columns, read_csv, to_float, to_int

MACRO_URL = 'https://raw.githubusercontent.com/xiusu/NAS-Bench-Macro/master/data/nas-bench-macro_cifar10.json'
MACRO_SHA256 = '686dee8363cc21cca8c1f321ad5749454f2d9b9ca5972682e137e539bc522297'
_NEEDED = ('index', 'arch_str', 'cifar10_test_acc', 'params_MB', 'flops_M')  # columns of the nb201 table that are read


def read_nb201(space: SearchSpace, text: str, source: Path) -> list[BenchmarkRow]:
    table = read_csv(text, _NEEDED, source, is_number=_NEEDED[2:].__contains__)
    return [nb201_row(space, row, where) for row, where in table]


def nb201_row(space: SearchSpace, row: dict[str, str], where: str) -> BenchmarkRow:
    try:
        params, flops = (round(to_float(row[key]) * 1e6) for key in ('params_MB', 'flops_M'))
        return BenchmarkRow(_official_index(space, row), to_float(row['cifar10_test_acc']), params, flops)
    except (ValueError, OverflowError) as error:
        raise CondnetError(f'{where}: {error}') from error


def _official_index(space: SearchSpace, row: dict[str, str]) -> int:
    """Index of a row's architecture, which is given twice."""
    index, official = to_int(row['index']), space.index(row['arch_str'])
    if index != official:
        raise CondnetError(f'index {index} of {row["arch_str"]}; expected its official index {official}')
    return index


def _read_minibench(space: SearchSpace, text: str, source: Path) -> list[BenchmarkRow]:
    """Rows of a table that `tools/minibench.py` made; the accuracy is the mean over the seeds."""
    rows = []
    for row, where in read_csv(text, ('index', 'arch_str', 'accuracy_0', 'params', 'flops'), source, _is_accuracy):
        try:
            accuracies = [to_float(value) for name, value in row.items() if _is_accuracy(name)]
            accuracy = sum(accuracies) / len(accuracies)
            costs = to_int(row['params']), to_int(row['flops'])
            rows.append(BenchmarkRow(_official_index(space, row), accuracy, *costs, tuple(accuracies)))
        except ValueError as error:
            raise CondnetError(f'{where}: {error}') from error
    return rows


def _is_accuracy(column: str) -> bool:
    return column.startswith('accuracy_')


def _read_macro(space: SearchSpace, text: str, source: Path) -> list[BenchmarkRow]:
    if 'cifar100' in source.name.lower():
        raise CondnetError(f'{source} is a table of another data set, by its name; expected cifar10')
    try:
        # A repeated key would silently win over the first one, so objects are kept as lists of pairs.
        entries = json.loads(text, object_pairs_hook=_Pairs)
    except (ValueError, RecursionError) as error:
        raise CondnetError(f'{source} is not a JSON file: {error}') from error
    if not isinstance(entries, _Pairs):
        raise CondnetError(f'{source} holds a {type(entries).__name__}; expected an object with architectures as keys')
    return [_macro_row(space, arch, entry, f'{source}, {arch!r}') for arch, entry in entries]


class _Pairs(list[tuple[str, Any]]):
    """The members of a JSON object, in order."""


def _macro_row(space: SearchSpace, arch: str, entry: Any, where: str) -> BenchmarkRow:
    if not isinstance(entry, _Pairs):
        raise CondnetError(f'{where}: {str(entry)[:40]!r}; expected an object with mean_acc, params and flops')
    values = dict(entry)
    if len(values) != len(entry):
        raise CondnetError(f'{where}: a key is repeated; expected each once')
    check_columns(values, ('mean_acc', 'params', 'flops'), where)
    try:
        params, flops = _whole(values['params']), _whole(values['flops'])
        seeds = _seeds(values.get('test_acc'))
        return BenchmarkRow(space.index(arch), _number(values['mean_acc']), params, flops, seeds)
    except (TypeError, ValueError) as error:
        raise CondnetError(f'{where}: {error}') from error


def _seeds(values: Any) -> tuple[float, ...]:
    """Accuracies of single trainings; what is something else is left alone, as nothing depends on it."""
    usual = isinstance(values, list) and all(type(value) in (int, float) and 0 <= value <= 100 for value in values)
    return tuple(map(float, values)) if usual else ()


def _number(value: Any) -> float:
    """A number of a JSON file; some tools write it as text."""
    if isinstance(value, bool):  # an integer to Python
        raise TypeError(f'{value!r} is not a number')
    return to_float(value) if isinstance(value, str) else float(value)


def _whole(value: Any) -> int:
    """An integer of a JSON file; some tools write 5.0 for 5."""
    return int(value) if isinstance(value, float) and value.is_integer() else operator.index(value)


def check_rows(space: SearchSpace, rows: list[BenchmarkRow], source: Path, dataset: str = 'cifar10') -> None:
    """What holds for the tables of all spaces."""
    if not rows:
        raise CondnetError(f'{source} holds no architecture; expected a row for each')
    index, count = Counter(row.index for row in rows).most_common(1)[0]
    if count > 1:
        arch = space.format(space.parse(index))
        raise CondnetError(f'{source} holds architecture {arch} (index {index}) {count} times; expected it once')
    has_costs = space.has_costs(dataset)
    for row in rows:
        if row.index not in space:
            raise CondnetError(f'{source}: {row.index} is not an index of {space}')
        if not 0 <= row.accuracy <= 100:  # true for NaN as well
            raise CondnetError(f'{source}: accuracy {row.accuracy} of index {row.index}; expected a percentage')
        if row.params is None or row.flops is None:
            continue
        if not (0 < row.params < 1 << 50 and 0 < row.flops < 1 << 50):
            raise CondnetError(f'{source}: {row.params:.3g} parameters, {row.flops:.3g} FLOPs of index {row.index}')
        cost = space.cost(row.index, dataset) if has_costs else Cost(row.params, row.flops)
        if (row.params, row.flops) != (cost.params, cost.flops):  # another data set means another classifier
            raise CondnetError(
                f'{source}: {row.params:,} parameters and {row.flops:,} FLOPs of index {row.index}; '
                f'expected {cost.params:,} and {cost.flops:,} of a {dataset} network'
            )


register_benchmark(
    'nb201',
    'cifar10',
    read_nb201,
    'nas-bench-201.csv',
    how_to_get='convert the NATS-Bench topology records (github.com/D-X-Y/NATS-Bench) with condnet-benchmarks',
)
register_benchmark('nb201', 'glyphs', _read_minibench, packaged=Path(__file__).parent / 'data' / 'nb201_glyphs.csv')
register_benchmark('macro', 'cifar10', _read_macro, 'nas-bench-macro_cifar10.json', url=MACRO_URL, sha256=MACRO_SHA256)
