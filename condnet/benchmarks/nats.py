"""NATS-Bench: a table from its published files, whose pickles are read without running what they say."""

import bz2
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from condnet.benchmarks.readers import check_rows, nb201_row
from condnet.errors import CondnetError, show
from condnet.spaces.base import SearchSpace
from condnet.spaces.registry import get_space
from condnet.utils.csvfile import write_csv
from condnet.utils.filetypes import BZIP2, LEGACY_TORCH, PICKLE, TAR, TORCH, describe_file
from condnet.utils.unpickle import HoldsTensors, safe_unpickle

MAX_RECORD = 16 << 20  # bytes of a decompressed record; the official ones have about 0.3 MB
_RECORD_NAME = re.compile(r'[0-9]+\.pickle\.pbz2')
_THE_WAY = 'convert the folder NATS-tss-v1_0-3ffb9-simple by condnet-benchmarks'
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
    refuse_other_forms(source)
    files = record_files(source)
    if not files:
        inner = next((path.parent for path in source.glob('*/[0-9]*.pickle.pbz2')), None)
        found = 'expected a folder of files like 000000.pickle.pbz2' if inner is None else f'they are in {inner}'
        raise CondnetError(f'no NATS-Bench records in {source_dir}; {found}')
    space, rows, records = get_space('nb201'), [], []
    for file, record in read_records(space, files):
        rows.append(nb201_row(space, record, str(file)))
        records.append(record)
    check_rows(space, rows, Path(source_dir))
    write_csv(Path(output_csv), _NB201_COLUMNS, records)
    return len(files)


def refuse_other_forms(source: Path) -> None:
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


def record_files(directory: Path) -> list[Path]:
    return sorted(directory.glob('[0-9]*.pickle.pbz2'))


def read_records(space: SearchSpace, files: list[Path]) -> Iterator[tuple[Path, dict[str, str]]]:
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
            data = stream.read(MAX_RECORD + 1)
    except (OSError, EOFError) as error:
        raise CondnetError(f'cannot decompress {file}: {error}') from error
    if len(data) > MAX_RECORD:
        raise CondnetError(f'{file} decompresses to more than {MAX_RECORD} bytes; a NATS-Bench record without weights '
                           f'has less; {_THE_WAY}')  # fmt: skip
    try:
        return safe_unpickle(data)
    except HoldsTensors as error:
        raise CondnetError(f'{file} holds weights, as those of NATS-tss-v1_0-3ffb9-full do, which are not read; '
                           f'{_THE_WAY}, which has the same results without them') from error  # fmt: skip
    except CondnetError as error:
        raise CondnetError(f'cannot unpickle {file}: {error}') from error
