"""Ground-truth tables: what every architecture of a space reaches when it is trained alone.

`load_benchmark` reads the published tables, and trusts nothing in them. NAS-Bench-Macro (Su et al., 2021) is one JSON
file. NATS-Bench (Dong et al., 2021), the home of NAS-Bench-201, publishes a folder of pickles; convert it once with
`python -m condnet.benchmarks NATS-tss-v1_0-3ffb9-simple nas-bench-201.csv`. A pickle can run any program when it is
loaded, so these are read by an unpickler that knows a few harmless names and refuses all others. The table of nb201 on
`glyphs` is our own and comes with the package, see `condnet.minibench`.
"""

import argparse
import bz2
import hashlib
import json
import operator
import os
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from condnet.csvfile import check_columns, read_csv, read_text, to_float, to_int, write_csv
from condnet.errors import CondnetError, show
from condnet.filetypes import BZIP2, LEGACY_TORCH, PICKLE, TAR, TORCH, describe_file
from condnet.hwnas import convert_hw_nas, is_hw_nas
from condnet.spaces import SearchSpace, get_space
from condnet.unpickle import HoldsTensors, safe_unpickle

DATA_VARIABLE = 'CONDNET_DATA'  # environment variable: a directory to look for tables in
FILE_NAMES = {'nb201': 'nas-bench-201.csv', 'macro': 'nas-bench-macro_cifar10.json'}
PACKAGED_TABLES = {('nb201', 'glyphs'): Path(__file__).parent / 'tables' / 'nb201_glyphs.csv'}  # by space and data set
MACRO_URL = 'https://raw.githubusercontent.com/xiusu/NAS-Bench-Macro/master/data/nas-bench-macro_cifar10.json'
MACRO_SHA256 = '686dee8363cc21cca8c1f321ad5749454f2d9b9ca5972682e137e539bc522297'
_HOW_TO_GET = {
    'nb201': 'convert the NATS-Bench topology records (github.com/D-X-Y/NATS-Bench) with python -m condnet.benchmarks',
    'macro': f'allow the download, or get {MACRO_URL}',
}
_NEEDED = ('index', 'arch_str', 'cifar10_test_acc', 'params_MB', 'flops_M')  # columns of the nb201 table that are read
_NUM_NAMED = 3  # architectures that an error message names


@dataclass(frozen=True, eq=False)
class BenchmarkTable:
    """True results of architectures of one space, a row each; it may hold only a part of the space.

    Args:
        space: Name of the search space, as in `get_space`.
        dataset: What the networks were trained and tested on.
        indices: (N,) official indices.
        accuracy: (N,) test accuracies in percent.
        params: (N,) parameter counts of the stand-alone networks.
        flops: (N,) their FLOPs (multiply-adds) for one image.
        path: The file or folder that it was read from.
        sha256: Digest of what was read.
    """

    space: str
    dataset: str
    indices: np.ndarray
    accuracy: np.ndarray
    params: np.ndarray
    flops: np.ndarray
    path: str
    sha256: str

    def __len__(self) -> int:
        return len(self.indices)

    def select(self, indices: Iterable[int]) -> 'BenchmarkTable':
        """The rows of some architectures, in the order asked for.

        Args:
            indices: Official indices.

        Raises:
            CondnetError: If the table lacks one of them.
        """
        rows = {index: row for row, index in enumerate(self.indices.tolist())}
        wanted = [operator.index(index) for index in indices]
        missing = [index for index in wanted if index not in rows]
        if missing:
            named = ', '.join(map(str, missing[:_NUM_NAMED])) + (', ...' if len(missing) > _NUM_NAMED else '')
            raise CondnetError(
                f'the {self.space} table {self.path} lacks {len(missing)} of {len(wanted)} architectures: index {named}'
            )
        order = np.array([rows[index] for index in wanted], dtype=np.int64)
        return replace(
            self,
            indices=self.indices[order],
            accuracy=self.accuracy[order],
            params=self.params[order],
            flops=self.flops[order],
        )


class _Row(NamedTuple):
    number: int  # official index
    accuracy: float
    params: int
    flops: int


def load_benchmark(
    space: str, path: 'str | os.PathLike[str] | None' = None, dataset: str = 'cifar10', download: bool = False
) -> BenchmarkTable:
    """Find, read and check the ground-truth table of a search space.

    Args:
        space: `nb201` or `macro`. True accuracies are the columns `cifar10_test_acc` and `mean_acc`.
        path: The table, or a directory to look for it in; for nb201 also a folder of NATS-Bench records. By default
            the directory that the environment variable `CONDNET_DATA` names, then the cache of earlier downloads; of
            `glyphs` the packaged table.
        dataset: The data set that the predictions were made on: `cifar10`, or for nb201 `glyphs`.
        download: Fetch the macro table if it is not found.

    Raises:
        CondnetError: If there is no table, or it is broken, incomplete in a row, or of another space or data set.
    """
    search_space = get_space(space)
    packaged = PACKAGED_TABLES.get((space, dataset))
    if packaged is None and dataset != 'cifar10':
        raise CondnetError(f'there is no {space} table of the data set {dataset!r}; expected cifar10')
    source = _find_table(space, path, download) if packaged is None else Path(path or packaged)
    try:
        rows, digest = _read_table(search_space, source, dataset)
    except OSError as error:
        raise CondnetError(f'cannot read the {space} table {source}: {error.strerror}') from error
    _check_rows(search_space, rows, source, dataset)
    rows.sort()
    indices, accuracy, params, flops = (np.array(column) for column in zip(*rows, strict=True))
    return BenchmarkTable(space, dataset, indices, accuracy, params, flops, path=str(source), sha256=digest)


# Finding a table


def _find_table(space: str, path: 'str | os.PathLike[str] | None', download: bool) -> Path:
    if space not in FILE_NAMES:
        raise CondnetError(f'no benchmark is known for {space}; expected one of {", ".join(FILE_NAMES)}')
    name = FILE_NAMES[space]
    if path is not None:
        if Path(path).is_file():
            return Path(path)
        if not Path(path).is_dir():
            raise CondnetError(f'no such benchmark table: {path}; expected {name} or a directory that holds it')
        found = _look_in(Path(path), space)
        if found is None:
            raise CondnetError(f'no {name} in {path}, nor in its benchmarks folder; {_HOW_TO_GET[space]}')
        return found
    directory = os.environ.get(DATA_VARIABLE)
    found = _look_in(Path(directory), space) if directory else None
    cached = Path(torch.hub.get_dir(), 'condnet', name)
    if found is not None or cached.is_file():
        return found or cached
    if download and space == 'macro':
        return _download_macro(cached)
    place = f'{directory} ({DATA_VARIABLE}) holds no {name}' if directory else f'{DATA_VARIABLE} is not set'
    raise CondnetError(f'no {space} table: no path given and {place}; {_HOW_TO_GET[space]}')


def holds_table(directory: 'str | os.PathLike[str]', space: str) -> bool:
    """Whether a directory, or its `benchmarks` folder, holds a table of a space."""
    return space in FILE_NAMES and _look_in(Path(directory), space) is not None


def _look_in(directory: Path, space: str) -> Path | None:
    if space == 'nb201' and _record_files(directory):
        return directory
    candidates = (directory / FILE_NAMES[space], directory / 'benchmarks' / FILE_NAMES[space])
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def _download_macro(target: Path) -> Path:
    """Fetch NAS-Bench-Macro; torch writes to a temporary file, checks the digest, and only then renames it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        torch.hub.download_url_to_file(MACRO_URL, str(target), hash_prefix=MACRO_SHA256, progress=False)
    except (OSError, RuntimeError) as error:
        raise CondnetError(f'cannot download {MACRO_URL}: {error}') from error
    return target


# Reading a table


def _read_table(space: SearchSpace, source: Path, dataset: str) -> tuple[list[_Row], str]:
    if space.name == 'nb201' and dataset == 'cifar10':
        _refuse_other_forms(source)
    if dataset == 'cifar10' and source.is_dir():
        files = _record_files(source)
        rows = [_nb201_row(space, record, str(file)) for file, record in _read_records(space, files)]
        return rows, _sha256(file.read_bytes() for file in files)
    text, data = read_text(source, f'a table of {space.name} on {dataset}')
    return _READERS[space.name, dataset](space, text, source), _sha256([data])


def _sha256(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def _read_nb201(space: SearchSpace, text: str, source: Path) -> list[_Row]:
    table = read_csv(text, _NEEDED, source, is_number=_NEEDED[2:].__contains__)
    return [_nb201_row(space, row, where) for row, where in table]


def _nb201_row(space: SearchSpace, row: dict[str, str], where: str) -> _Row:
    try:
        params, flops = (round(to_float(row[key]) * 1e6) for key in ('params_MB', 'flops_M'))
        return _Row(_official_index(space, row), to_float(row['cifar10_test_acc']), params, flops)
    except (ValueError, OverflowError) as error:
        raise CondnetError(f'{where}: {error}') from error


def _official_index(space: SearchSpace, row: dict[str, str]) -> int:
    """Index of a row's architecture, which is given twice."""
    index, official = to_int(row['index']), space.index(row['arch_str'])
    if index != official:
        raise CondnetError(f'index {index} of {row["arch_str"]}; expected its official index {official}')
    return index


def _read_minibench(space: SearchSpace, text: str, source: Path) -> list[_Row]:
    """Rows of a table that `condnet.minibench` made; the accuracy is the mean over the seeds."""
    rows = []
    for row, where in read_csv(text, ('index', 'arch_str', 'accuracy_0', 'params', 'flops'), source, _is_accuracy):
        try:
            accuracies = [to_float(value) for name, value in row.items() if _is_accuracy(name)]
            accuracy = sum(accuracies) / len(accuracies)
            rows.append(_Row(_official_index(space, row), accuracy, to_int(row['params']), to_int(row['flops'])))
        except ValueError as error:
            raise CondnetError(f'{where}: {error}') from error
    return rows


def _is_accuracy(column: str) -> bool:
    return column.startswith('accuracy_')


def _read_macro(space: SearchSpace, text: str, source: Path) -> list[_Row]:
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


class _Pairs(list):
    """The members of a JSON object, in order."""


def _macro_row(space: SearchSpace, arch: str, entry: Any, where: str) -> _Row:
    if not isinstance(entry, _Pairs):
        raise CondnetError(f'{where}: {str(entry)[:40]!r}; expected an object with mean_acc, params and flops')
    values = dict(entry)
    if len(values) != len(entry):
        raise CondnetError(f'{where}: a key is repeated; expected each once')
    check_columns(values, ('mean_acc', 'params', 'flops'), where)
    try:
        params, flops = _whole(values['params']), _whole(values['flops'])
        return _Row(space.index(arch), _number(values['mean_acc']), params, flops)
    except (TypeError, ValueError) as error:
        raise CondnetError(f'{where}: {error}') from error


def _number(value: Any) -> float:
    """A number of a JSON file; some tools write it as text."""
    if isinstance(value, bool):  # an integer to Python
        raise TypeError(f'{value!r} is no number')
    return to_float(value) if isinstance(value, str) else float(value)


def _whole(value: Any) -> int:
    """An integer of a JSON file; some tools write 5.0 for 5."""
    return int(value) if isinstance(value, float) and value.is_integer() else operator.index(value)


_READERS = {('nb201', 'cifar10'): _read_nb201, ('nb201', 'glyphs'): _read_minibench, ('macro', 'cifar10'): _read_macro}


def _check_rows(space: SearchSpace, rows: list[_Row], source: Path, dataset: str = 'cifar10') -> None:
    """What holds for the tables of all spaces."""
    if not rows:
        raise CondnetError(f'{source} holds no architecture; expected a row for each')
    index, count = Counter(row.number for row in rows).most_common(1)[0]
    if count > 1:
        arch = space.format(space.parse(index))
        raise CondnetError(f'{source} holds architecture {arch} (index {index}) {count} times; expected it once')
    for row in rows:
        if not 0 <= row.accuracy <= 100:  # true for NaN as well
            raise CondnetError(f'{source}: accuracy {row.accuracy} of index {row.number}; expected a percentage')
        if not (0 < row.params < 1 << 50 and 0 < row.flops < 1 << 50):
            raise CondnetError(f'{source}: {row.params:.3g} parameters, {row.flops:.3g} FLOPs of index {row.number}')
        cost = space.cost(row.number, dataset)
        if (row.params, row.flops) != (cost.params, cost.flops):  # another data set means another classifier
            raise CondnetError(
                f'{source}: {row.params:,} parameters and {row.flops:,} FLOPs of index {row.number}; '
                f'expected {cost.params:,} and {cost.flops:,} of a {dataset} network'
            )


# NATS-Bench records: bz2-compressed pickles, one a network

_MAX_RECORD = 16 << 20  # bytes of a decompressed record; the official ones have about 0.3 MB
_RECORD_NAME = re.compile(r'[0-9]+\.pickle\.pbz2')
_THE_WAY = 'convert the folder NATS-tss-v1_0-3ffb9-simple by python -m condnet.benchmarks'
_ACCURACY_COLUMNS = {  # column: data set of the training, and data it was evaluated on
    'cifar10_valid_acc': ('cifar10-valid', 'x-valid'),
    'cifar10_test_acc': ('cifar10', 'ori-test'),
    'cifar100_valid_acc': ('cifar100', 'x-valid'),
    'cifar100_test_acc': ('cifar100', 'x-test'),
    'ImageNet16-120_valid_acc': ('ImageNet16-120', 'x-valid'),
    'ImageNet16-120_test_acc': ('ImageNet16-120', 'x-test'),
}
_NB201_COLUMNS = ('index', 'arch_str', *_ACCURACY_COLUMNS, 'params_MB', 'flops_M', 'n_seeds')


def convert_nats(source_dir: 'str | os.PathLike[str]', output_csv: 'str | os.PathLike[str]') -> int:
    """Turn the official folder of NATS-Bench's topology space into a table; a part of it gives a part of the table.

    Accuracies are those after the last of 200 epochs, averaged over the seeds, in percent.

    Args:
        source_dir: The unpacked `NATS-tss-v1_0-3ffb9-simple`.
        output_csv: What to write, in one step: it is complete or not there.

    Returns:
        Number of architectures.

    Raises:
        CondnetError: If the folder holds no records, or one that is broken, dangerous, or of another space.
    """
    source = Path(source_dir)
    if not source.exists():
        raise CondnetError(f'{source} does not exist; expected the folder NATS-tss-v1_0-3ffb9-simple')
    _refuse_other_forms(source)
    files = _record_files(source)
    if not files:
        inner = next((path.parent for path in source.glob('*/[0-9]*.pickle.pbz2')), None)
        found = 'expected a folder of files like 000000.pickle.pbz2' if inner is None else f'they are in {inner}'
        raise CondnetError(f'no NATS-Bench records in {source_dir}; {found}')
    space, rows, records = get_space('nb201'), [], []
    for file, record in _read_records(space, files):
        rows.append(_nb201_row(space, record, str(file)))
        records.append(record)
    _check_rows(space, rows, Path(source_dir))
    write_csv(Path(output_csv), _NB201_COLUMNS, records)
    return len(files)


def _refuse_other_forms(source: Path) -> None:
    """Name what NATS-Bench and NAS-Bench-201 are also published as, and what is no form of a table.

    Raises:
        CondnetError: If it is that; nothing large is read to find out.
    """
    if source.is_dir():
        if source.name.startswith('NATS-') and source.name.endswith('-full'):
            raise CondnetError(f'{source} is NATS-Bench with all weights, by its name; {_THE_WAY}, which has the same '
                               'results without them')  # fmt: skip
        return
    kind = describe_file(source)
    if kind == BZIP2 and _RECORD_NAME.fullmatch(source.name):
        raise CondnetError(f'{source} is one record of NATS-Bench; expected the folder of them')
    if kind == BZIP2 and '.pickle' in source.name:
        raise CondnetError(f'{source} is NATS-Bench as one file, which is not read, as it takes gigabytes of memory; '
                           f'{_THE_WAY}, which has the same results')  # fmt: skip
    if kind in (TORCH, LEGACY_TORCH, PICKLE):
        raise CondnetError(f'{source} is {kind}, as NAS-Bench-201 is published; it is not read, as it takes gigabytes '
                           f'of memory; {_THE_WAY}, which has the results of the same architectures')  # fmt: skip
    if kind is not None and (kind == TAR or 'compressed' in kind or 'archive' in kind):
        raise CondnetError(f'{source} is {kind}; unpack it, and if that gives NATS-Bench records, {_THE_WAY}')


def _record_files(directory: Path) -> list[Path]:
    return sorted(directory.glob('[0-9]*.pickle.pbz2'))


def _read_records(space: SearchSpace, files: list[Path]) -> Iterator[tuple[Path, dict[str, str]]]:
    """Rows of the table, as text, for one record after the other."""
    for file in files:
        record = _safe_unpickle(file)
        try:
            row = _record_row(record['200'])
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
            raise CondnetError(f'{file} is not a NATS-Bench topology record: {error!r}') from error
        if file.name != f'{row["index"]:0>6}.pickle.pbz2':
            raise CondnetError(f'{file} holds architecture {row["index"]!r}; expected the one in its name')
        yield file, row


def _record_row(result: dict[str, Any]) -> dict[str, str]:
    """A row from what 200 epochs of training gave."""
    runs = result['all_results']
    row = {'index': str(result['arch_index']), 'arch_str': str(result['arch_str'])}
    for column, (dataset, evaluated_on) in _ACCURACY_COLUMNS.items():
        seeds = [run for (name, _), run in runs.items() if name == dataset]
        accuracies = [run['eval_acc1es'][f'{evaluated_on}@{run["epochs"] - 1}'] for run in seeds]
        for accuracy in accuracies:
            if type(accuracy) not in (int, float) or not 0 <= accuracy <= 100:
                raise ValueError(f'accuracy {show(accuracy)} of {dataset}; expected a percentage')
        row[column] = f'{sum(accuracies) / len(accuracies):.6f}'
    cifar10 = [run for (name, _), run in runs.items() if name == 'cifar10']
    return row | {
        'params_MB': str(cifar10[0]['params']),
        'flops_M': str(cifar10[0]['flop']),
        'n_seeds': str(len(cifar10)),
    }


def _safe_unpickle(file: Path) -> Any:
    try:
        with bz2.open(file) as stream:
            data = stream.read(_MAX_RECORD + 1)
    except (OSError, EOFError) as error:
        raise CondnetError(f'cannot decompress {file}: {error}') from error
    if len(data) > _MAX_RECORD:
        raise CondnetError(f'{file} decompresses to more than {_MAX_RECORD} bytes; a NATS-Bench record without weights '
                           f'has less; {_THE_WAY}')  # fmt: skip
    try:
        return safe_unpickle(data)
    except HoldsTensors as error:
        raise CondnetError(f'{file} holds weights, as those of NATS-tss-v1_0-3ffb9-full do, which are not read; '
                           f'{_THE_WAY}, which has the same results without them') from error  # fmt: skip
    except CondnetError as error:
        raise CondnetError(f'cannot unpickle {file}: {error}') from error


def _convert(source: Path, output: Path) -> int:
    """Convert whichever benchmark it is; returns the number of architectures."""
    if source.is_file() and 'nats' not in source.name.lower() and is_hw_nas(source):
        return convert_hw_nas(source, output)
    return convert_nats(source, output)


def main(argv: list[str] | None = None) -> int:
    """Convert NATS-Bench or HW-NAS-Bench to a table; the exit code is 0, or 1 after an error."""
    parser = argparse.ArgumentParser(prog='python -m condnet.benchmarks', description='Convert NATS-Bench (the ground '
                                     'truth of nb201) or HW-NAS-Bench (latencies) to CSV.')  # fmt: skip
    parser.add_argument('source', help='the unpacked folder NATS-tss-v1_0-3ffb9-simple, or HW-NAS-Bench-v1_0.pickle '
                        '(or the same as JSON)')  # fmt: skip
    parser.add_argument('output', help=f'the table to write, such as {FILE_NAMES["nb201"]} or hw-nas-bench.csv')
    args = parser.parse_args(argv)
    try:
        count = _convert(Path(args.source), Path(args.output))
    except (CondnetError, OSError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    print(f'wrote {count} of {len(get_space("nb201"))} architectures to {args.output}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
