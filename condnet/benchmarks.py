"""Ground-truth tables: what every architecture of a space reaches when it is trained alone.

`load_benchmark` reads the published tables, and trusts nothing in them. NAS-Bench-Macro (Su et al., 2021) is one JSON
file. NATS-Bench (Dong et al., 2021), the home of NAS-Bench-201, publishes a folder of pickles; convert it once with
`python -m condnet.benchmarks NATS-tss-v1_0-3ffb9-simple nas-bench-201.csv`. A pickle can run any program when it is
loaded, so these are read by an unpickler that knows a few harmless names and refuses all others. The table of nb201 on
`glyphs` is our own and comes with the package, see `condnet.minibench`. Others are made known by `register_benchmark`.
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
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from condnet.csvfile import check_columns, read_csv, read_text, to_float, to_int, write_csv
from condnet.errors import CondnetError, show
from condnet.filetypes import BZIP2, LEGACY_TORCH, PICKLE, TAR, TORCH, describe_file
from condnet.hwnas import convert_hw_nas, is_hw_nas
from condnet.spaces import Cost, SearchSpace, get_space
from condnet.unpickle import HoldsTensors, safe_unpickle

DATA_VARIABLE = 'CONDNET_DATA'  # environment variable: a directory to look for tables in
MACRO_URL = 'https://raw.githubusercontent.com/xiusu/NAS-Bench-Macro/master/data/nas-bench-macro_cifar10.json'
MACRO_SHA256 = '686dee8363cc21cca8c1f321ad5749454f2d9b9ca5972682e137e539bc522297'
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
        params: (N,) parameter counts of the stand-alone networks; None if the table has none.
        flops: (N,) their FLOPs (multiply-adds) for one image; None if the table has none.
        path: The file or folder that it was read from.
        sha256: Digest of what was read.
    """

    space: str
    dataset: str
    indices: np.ndarray
    accuracy: np.ndarray
    params: np.ndarray | None
    flops: np.ndarray | None
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
            params=None if self.params is None else self.params[order],
            flops=None if self.flops is None else self.flops[order],
        )


@dataclass(frozen=True)
class BenchmarkRow:
    """What a table says of an architecture.

    Args:
        index: Its official index.
        accuracy: Its true test accuracy in percent.
        params: Parameters of its network; None where the table does not say, and then so in every row.
        flops: FLOPs (multiply-adds) of its network for one image; None as for `params`.
    """

    index: int
    accuracy: float
    params: int | None = None
    flops: int | None = None


Reader = Callable[[SearchSpace, str, Path], Iterable[BenchmarkRow]]


@dataclass(frozen=True)
class Benchmark:
    """What is known of the tables of a space on a data set, see `register_benchmark`."""

    space: str
    dataset: str
    reader: Reader
    file_names: tuple[str, ...] = ()
    packaged: Path | None = None
    url: str | None = None
    sha256: str | None = None
    how_to_get: str = ''


_BENCHMARKS: dict[tuple[str, str], Benchmark] = {}  # by space and data set


def register_benchmark(
    space: str,
    dataset: str,
    reader: Reader,
    file_names: Iterable[str] = (),
    packaged: 'str | os.PathLike[str] | None' = None,
    url: str | None = None,
    sha256: str | None = None,
    how_to_get: str = '',
) -> None:
    """Make the ground-truth table of a search space on a data set known to `load_benchmark` and the commands.

    What a reader gives is checked: accuracies are percentages, architectures stand there once, and costs are those of
    the space, if it knows them.

    Args:
        space: Name of the search space, as in `get_space`.
        dataset: What the networks were trained and tested on, as the commands name it: `cifar10`, `glyphs`, the name of
            a folder, or a data set's name in timm.
        reader: Reads a table. It takes the space, the table's text and its path, and gives a `BenchmarkRow` for each
            architecture. It raises a `CondnetError` (or a `ValueError`) of one line if that is no such table.
        file_names: What the table is called; it is looked for in the directory that `--benchmark` or the environment
            variable `CONDNET_DATA` names and its `benchmarks` folder, and in `--data-dir`.
        packaged: A table that comes with the package; no other is looked for unless it is named.
        url: Where the table can be downloaded, with `--download`, under the first of `file_names`.
        sha256: Digest of what is there, without which nothing is downloaded.
        how_to_get: What to tell who has no table.

    Raises:
        CondnetError: If a download has no digest or name, or one of `condnet`'s own benchmarks would be replaced.
    """
    names = (file_names,) if isinstance(file_names, str) else tuple(file_names)
    if url and not (sha256 and names):
        raise CondnetError(f'the {space} table of {url} needs a sha256 and file_names')
    if (space, dataset) in _OWN and (space, dataset) in _BENCHMARKS:
        raise CondnetError(f'the benchmark of {space} on {dataset} is one of condnet')
    how_to_get = how_to_get or (f'allow the download, or get {url}' if url else 'name it with --benchmark')
    path = None if packaged is None else Path(packaged)
    _BENCHMARKS[space, dataset] = Benchmark(space, dataset, reader, names, path, url, sha256, how_to_get)


def find_benchmark(space: str, dataset: str) -> Benchmark | None:
    """What is known of the tables of a space on a data set; None if nothing is."""
    return _BENCHMARKS.get((space, dataset))


def load_benchmark(
    space: str, path: 'str | os.PathLike[str] | None' = None, dataset: str = 'cifar10', download: bool = False
) -> BenchmarkTable:
    """Find, read and check the ground-truth table of a search space.

    Args:
        space: Name of the search space. True accuracies are the columns `cifar10_test_acc` of nb201 and `mean_acc` of
            macro.
        path: The table, or a directory to look for it in; for nb201 also a folder of NATS-Bench records. By default
            the packaged table, or the directory that the environment variable `CONDNET_DATA` names, then the cache of
            earlier downloads.
        dataset: The data set that the predictions were made on: `cifar10`, or for nb201 `glyphs`.
        download: Fetch the table if it is not found and can be (macro).

    Raises:
        CondnetError: If there is no table, or it is broken, incomplete in a row, or of another space or data set.
    """
    search_space = get_space(space)
    benchmark = find_benchmark(space, dataset)
    if benchmark is None:
        known = ', '.join(data for name, data in _BENCHMARKS if name == space) or 'one that was registered'
        raise CondnetError(f'there is no {space} table of the data set {dataset!r}; expected {known}')
    source = Path(path or benchmark.packaged) if benchmark.packaged else _find_table(benchmark, path, download)
    try:
        rows, digest = _read_table(search_space, source, benchmark)
    except OSError as error:
        raise CondnetError(f'cannot read the {space} table {source}: {error.strerror}') from error
    _check_rows(search_space, rows, source, dataset)
    rows.sort(key=lambda row: row.index)
    indices, accuracy = np.array([row.index for row in rows]), np.array([row.accuracy for row in rows])
    columns = [row.params for row in rows], [row.flops for row in rows]
    params, flops = (None if None in column else np.array(column) for column in columns)
    return BenchmarkTable(space, dataset, indices, accuracy, params, flops, path=str(source), sha256=digest)


# Finding a table


def _find_table(benchmark: Benchmark, path: 'str | os.PathLike[str] | None', download: bool) -> Path:
    space, name = benchmark.space, ' or '.join(benchmark.file_names) or 'a table'
    if path is not None:
        if Path(path).is_file():
            return Path(path)
        if not Path(path).is_dir():
            raise CondnetError(f'no such benchmark table: {path}; expected {name} or a directory that holds it')
        found = _look_in(Path(path), benchmark)
        if found is None:
            raise CondnetError(f'no {name} in {path}, nor in its benchmarks folder; {benchmark.how_to_get}')
        return found
    directory = os.environ.get(DATA_VARIABLE)
    found = _look_in(Path(directory), benchmark) if directory else None
    cached = [Path(torch.hub.get_dir(), 'condnet', file) for file in benchmark.file_names]
    found = found or next((file for file in cached if file.is_file()), None)
    if found is not None:
        return found
    if download and benchmark.url:
        return _download(benchmark, cached[0])
    place = f'{directory} ({DATA_VARIABLE}) holds no {name}' if directory else f'{DATA_VARIABLE} is not set'
    raise CondnetError(f'no {space} table: no path given and {place}; {benchmark.how_to_get}')


def holds_table(directory: 'str | os.PathLike[str]', space: str, dataset: str = 'cifar10') -> bool:
    """Whether a directory, or its `benchmarks` folder, holds a table of a space."""
    benchmark = find_benchmark(space, dataset)
    return benchmark is not None and _look_in(Path(directory), benchmark) is not None


def _look_in(directory: Path, benchmark: Benchmark) -> Path | None:
    if benchmark.reader is _read_nb201 and _record_files(directory):
        return directory
    candidates = [folder / name for name in benchmark.file_names for folder in (directory, directory / 'benchmarks')]
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def _download(benchmark: Benchmark, target: Path) -> Path:
    """Fetch a table; torch writes to a temporary file, checks the digest, and only then renames it."""
    url = str(benchmark.url)
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        torch.hub.download_url_to_file(url, str(target), hash_prefix=benchmark.sha256, progress=False)
    except (OSError, RuntimeError) as error:
        raise CondnetError(f'cannot download {url}: {error}') from error
    return target


# Reading a table


def _read_table(space: SearchSpace, source: Path, benchmark: Benchmark) -> tuple[list[BenchmarkRow], str]:
    if benchmark.reader is _read_nb201:
        _refuse_other_forms(source)
        if source.is_dir():
            files = _record_files(source)
            rows = [_nb201_row(space, record, str(file)) for file, record in _read_records(space, files)]
            return rows, _sha256(file.read_bytes() for file in files)
    text, data = read_text(source, f'a table of {space.name} on {benchmark.dataset}')
    try:
        return list(benchmark.reader(space, text, source)), _sha256([data])
    except CondnetError:
        raise
    except (ValueError, KeyError) as error:  # of a reader that leaves it to us to say where
        raise CondnetError(f'{source} is no table of {space.name} on {benchmark.dataset}: {error}') from error


def _sha256(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def _read_nb201(space: SearchSpace, text: str, source: Path) -> list[BenchmarkRow]:
    table = read_csv(text, _NEEDED, source, is_number=_NEEDED[2:].__contains__)
    return [_nb201_row(space, row, where) for row, where in table]


def _nb201_row(space: SearchSpace, row: dict[str, str], where: str) -> BenchmarkRow:
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
    """Rows of a table that `condnet.minibench` made; the accuracy is the mean over the seeds."""
    rows = []
    for row, where in read_csv(text, ('index', 'arch_str', 'accuracy_0', 'params', 'flops'), source, _is_accuracy):
        try:
            accuracies = [to_float(value) for name, value in row.items() if _is_accuracy(name)]
            accuracy = sum(accuracies) / len(accuracies)
            rows.append(
                BenchmarkRow(_official_index(space, row), accuracy, to_int(row['params']), to_int(row['flops']))
            )
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


class _Pairs(list):
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
        return BenchmarkRow(space.index(arch), _number(values['mean_acc']), params, flops)
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


_OWN = {('nb201', 'cifar10'), ('nb201', 'glyphs'), ('macro', 'cifar10')}
register_benchmark(
    'nb201',
    'cifar10',
    _read_nb201,
    'nas-bench-201.csv',
    how_to_get='convert the NATS-Bench topology records (github.com/D-X-Y/NATS-Bench) with '
    'python -m condnet.benchmarks',
)
register_benchmark('nb201', 'glyphs', _read_minibench, packaged=Path(__file__).parent / 'tables' / 'nb201_glyphs.csv')
register_benchmark('macro', 'cifar10', _read_macro, 'nas-bench-macro_cifar10.json', url=MACRO_URL, sha256=MACRO_SHA256)


def _check_rows(space: SearchSpace, rows: list[BenchmarkRow], source: Path, dataset: str = 'cifar10') -> None:
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
            raise CondnetError(f'{source}: {row.index} is no index of {space}')
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
    parser.add_argument('output', help='the table to write, such as nas-bench-201.csv or hw-nas-bench.csv')
    args = parser.parse_args(argv)
    try:
        count = _convert(Path(args.source), Path(args.output))
    except (CondnetError, OSError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    print(f'wrote {count} of {get_space("nb201").size} architectures to {args.output}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
