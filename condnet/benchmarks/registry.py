"""The benchmarks, by search space and data set."""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from condnet.errors import CondnetError
from condnet.spaces.base import SearchSpace


@dataclass(frozen=True)
class BenchmarkRow:
    """What a table says of an architecture.

    Args:
        index: Its official index.
        accuracy: Its true test accuracy in percent.
        params: Parameters of its network; None where the table does not say, and then so in every row.
        flops: FLOPs (multiply-adds) of its network for one image; None as for `params`.
        seeds: Its accuracies by single trainings, of which `accuracy` is the mean, if the table has them.
    """

    index: int
    accuracy: float
    params: int | None = None
    flops: int | None = None
    seeds: tuple[float, ...] = ()


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


BENCHMARKS: dict[tuple[str, str], Benchmark] = {}  # by space and data set
_OWN = {('nb201', 'cifar10'), ('nb201', 'glyphs'), ('macro', 'cifar10')}


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
        file_names: What the table is called; it is looked for in the directory that `benchmark` or the environment
            variable `CONDNET_DATA` names and its `benchmarks` folder, and in `data_dir`.
        packaged: A table that comes with the package; no other is looked for unless it is named.
        url: Where the table can be downloaded, with `download`, under the first of `file_names`.
        sha256: Digest of what is there, without which nothing is downloaded.
        how_to_get: What to tell who has no table.

    Raises:
        CondnetError: If a download has no digest or name, or one of `condnet`'s own benchmarks would be replaced.
    """
    names = (file_names,) if isinstance(file_names, str) else tuple(file_names)
    if url and not (sha256 and names):
        raise CondnetError(f'the {space} table of {url} needs a sha256 and file_names')
    if (space, dataset) in _OWN and (space, dataset) in BENCHMARKS:
        raise CondnetError(f'the benchmark of {space} on {dataset} is one of condnet')
    how_to_get = how_to_get or (f'allow the download, or get {url}' if url else 'name it with `benchmark`')
    path = None if packaged is None else Path(packaged)
    BENCHMARKS[space, dataset] = Benchmark(space, dataset, reader, names, path, url, sha256, how_to_get)


def find_benchmark(space: str, dataset: str) -> Benchmark | None:
    """What is known of the tables of a space on a data set; None if nothing is."""
    return BENCHMARKS.get((space, dataset))
