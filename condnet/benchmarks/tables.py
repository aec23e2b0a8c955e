"""Ground-truth tables: what every architecture of a space reaches when it is trained alone.

`load_benchmark` reads the published tables, and trusts nothing in them. NAS-Bench-Macro (Su et al., 2021) is one JSON
file. NATS-Bench (Dong et al., 2021), the home of NAS-Bench-201, publishes a folder of pickles; convert it once with
`condnet-benchmarks NATS-tss-v1_0-3ffb9-simple nas-bench-201.csv`. A pickle can run any program when it is
loaded, so these are read by an unpickler that knows a few harmless names and refuses all others. The table of nb201 on
`glyphs` is our own and comes with the package, see `tools/minibench.py`. Others are made known by `register_benchmark`.
"""

import hashlib
import operator
import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from condnet.benchmarks.nats import read_records, record_files, refuse_other_forms
from condnet.benchmarks.readers import check_rows, nb201_row, read_nb201
from condnet.benchmarks.registry import BENCHMARKS, Benchmark, BenchmarkRow, find_benchmark
from condnet.errors import CondnetError
from condnet.spaces.base import SearchSpace
from condnet.spaces.registry import get_space
from condnet.utils.csvfile import read_text

DATA_VARIABLE = 'CONDNET_DATA'  # environment variable: a directory to look for tables in
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
        seeds: (N, S) accuracies by single trainings, of which `accuracy` is the mean; None if the table has none.
    """

    space: str
    dataset: str
    indices: np.ndarray
    accuracy: np.ndarray
    params: np.ndarray | None
    flops: np.ndarray | None
    path: str
    sha256: str
    seeds: np.ndarray | None = None

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
            seeds=None if self.seeds is None else self.seeds[order],
        )


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
        download: Fetch the table if it is not found and can be (macro): into the directory that `path` names, or else
            into the cache.

    Raises:
        CondnetError: If there is no table, or it is broken, incomplete in a row, or of another space or data set.
    """
    search_space = get_space(space)
    benchmark = find_benchmark(space, dataset)
    if benchmark is None:
        known = ', '.join(data for name, data in BENCHMARKS if name == space) or 'one that was registered'
        raise CondnetError(f'there is no {space} table of the data set {dataset!r}; expected {known}')
    source = benchmark.packaged if benchmark.packaged and not path else _find_table(benchmark, path, download)
    try:
        rows, digest = _read_table(search_space, source, benchmark)
    except OSError as error:
        raise CondnetError(f'cannot read the {space} table {source}: {error.strerror}') from error
    check_rows(search_space, rows, source, dataset)
    rows.sort(key=lambda row: row.index)
    indices, accuracy = np.array([row.index for row in rows]), np.array([row.accuracy for row in rows])
    columns = [row.params for row in rows], [row.flops for row in rows]
    params, flops = (None if None in column else np.array(column) for column in columns)
    numbers = {len(row.seeds) for row in rows}
    seeds = np.array([row.seeds for row in rows]) if len(numbers) == 1 and min(numbers) > 1 else None
    return BenchmarkTable(space, dataset, indices, accuracy, params, flops, str(source), digest, seeds)


def _find_table(benchmark: Benchmark, path: 'str | os.PathLike[str] | None', download: bool) -> Path:
    if path is not None and benchmark.packaged and not benchmark.file_names:  # one that is named is called the same
        benchmark = replace(benchmark, file_names=(benchmark.packaged.name,))
    space, name = benchmark.space, ' or '.join(benchmark.file_names) or 'a table'
    if path is not None:
        if Path(path).is_file():
            return Path(path)
        if not Path(path).is_dir():
            raise CondnetError(f'no such benchmark table: {path}; expected {name} or a directory that holds it')
        found = _look_in(Path(path), benchmark)
        if found is None and download and benchmark.url:
            return _download(benchmark, Path(path, benchmark.file_names[0]))
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
    if benchmark.reader is read_nb201 and record_files(directory):
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


def _read_table(space: SearchSpace, source: Path, benchmark: Benchmark) -> tuple[list[BenchmarkRow], str]:
    if benchmark.reader is read_nb201:
        refuse_other_forms(source)
        if source.is_dir():
            files = record_files(source)
            rows = [nb201_row(space, record, str(file)) for file, record in read_records(space, files)]
            return rows, _sha256(file.read_bytes() for file in files)
    text, data = read_text(source, f'a table of {space.name} on {benchmark.dataset}')
    try:
        return list(benchmark.reader(space, text, source)), _sha256([data])
    except CondnetError:
        raise
    except (ValueError, KeyError) as error:  # of a reader that leaves it to us to say where
        raise CondnetError(f'{source} is not a table of {space.name} on {benchmark.dataset}: {error}') from error


def _sha256(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()
