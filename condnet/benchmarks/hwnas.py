"""HW-NAS-Bench (Li et al., 2021): latency and energy of nb201's networks, made a CSV table of its published pickle.

`condnet-benchmarks HW-NAS-Bench-v1_0.pickle hw-nas-bench.csv`. The pickle is read without running what it
says. What people make of it as JSON, with the same keys, is read as well.
"""

import json
import os
from pathlib import Path
from typing import Any

from condnet.errors import CondnetError, show
from condnet.spaces.registry import get_space
from condnet.utils.csvfile import check_columns, read_text, write_csv
from condnet.utils.filetypes import PICKLE, describe_file
from condnet.utils.unpickle import safe_unpickle

_MAX_SIZE = 256 << 20  # bytes; the official file has about 10 MB
_UNITS = {'_latency': '_ms', '_energy': '_mJ'}
_NUM_CLASSES = 10  # of the networks for CIFAR-10


def is_hw_nas(source: Path) -> bool:
    """Whether a file may be HW-NAS-Bench's, by its kind: a pickle, or text that begins like JSON."""
    kind = describe_file(source)
    if kind is not None:
        return kind == PICKLE
    with source.open('rb') as file:
        return file.read(64).removeprefix(b'\xef\xbb\xbf').lstrip()[:1] in (b'{', b'[')


def convert_hw_nas(source: 'str | os.PathLike[str]', output_csv: 'str | os.PathLike[str]') -> int:
    """Turn HW-NAS-Bench's file into a table of what it measured of NAS-Bench-201's networks for CIFAR-10.

    Args:
        source: `HW-NAS-Bench-v1_0.pickle`, or the same as JSON.
        output_csv: What to write, in one step: it is complete or not there.

    Returns:
        Number of architectures.

    Raises:
        CondnetError: If it is another file, dangerous, or damaged.
    """
    source, space = Path(source), get_space('nb201')
    metrics = _find_metrics(_read(source), source)
    archs = [_arch_str(config, source) for config in metrics['config']]
    columns = _read_columns(metrics, len(archs), source)
    rows: dict[int, dict[str, Any]] = {}
    for position, arch in enumerate(archs):
        try:
            index = space.index(arch)
        except ValueError as error:
            raise CondnetError(f'{source}, config {position}: {error}') from error
        if index in rows:  # its values may differ
            raise CondnetError(f'{source} holds architecture {arch} twice; expected it once')
        rows[index] = {'index': index, 'arch_str': space.format(arch)}
        rows[index] |= {name: values[position] for name, values in columns.items()}
    write_csv(Path(output_csv), ('index', 'arch_str', *columns), [rows[index] for index in sorted(rows)])
    return len(rows)


def _read(source: Path) -> Any:
    if source.stat().st_size > _MAX_SIZE:
        raise CondnetError(f'{source} has more than {_MAX_SIZE >> 20} MB; HW-NAS-Bench has about 10')
    if describe_file(source) == PICKLE:
        try:
            return safe_unpickle(source.read_bytes(), check_memo=True)
        except CondnetError as error:
            raise CondnetError(f'cannot unpickle {source}: {error}') from error
    text, _ = read_text(source, 'HW-NAS-Bench as pickle or JSON')
    try:
        return json.loads(text, object_pairs_hook=_refuse_repeats)
    except (ValueError, RecursionError) as error:
        raise CondnetError(f'{source} is not a JSON file: {error}') from error


def _find_metrics(content: Any, source: Path) -> dict[str, Any]:
    """What was measured of the networks for CIFAR-10."""
    for key in ('nasbench201', 'cifar10'):
        if not isinstance(content, dict) or key not in content:
            keys = ', '.join(map(show, list(content)[:5])) if isinstance(content, dict) else type(content).__name__
            raise CondnetError(f'{source} is not of HW-NAS-Bench: expected the key {key!r}, got {keys[:200]}')
        content = content[key]
    if not isinstance(content, dict):
        raise CondnetError(f'{source} is not of HW-NAS-Bench: cifar10 is a {type(content).__name__}; expected lists')
    check_columns(content, ('config',), f"{source}, ['nasbench201']['cifar10']")
    if not isinstance(content['config'], list) or not content['config']:
        raise CondnetError(f'{source}: config is not a list of architectures')
    return content


def _arch_str(config: Any, source: Path) -> str:
    """The architecture of an entry of `config`: the entry itself, or in a dictionary of arguments of its network."""
    if isinstance(config, dict):
        if config.get('num_classes', _NUM_CLASSES) != _NUM_CLASSES:
            raise CondnetError(
                f'{source} holds networks of {show(config["num_classes"])} classes; expected {_NUM_CLASSES}'
            )
        config = config.get('arch_str')
    if not isinstance(config, str):
        raise CondnetError(f'{source} has {show(config)} in config; expected architecture strings')
    return config


def _read_columns(metrics: dict[str, Any], num: int, source: Path) -> dict[str, list[float]]:
    """What was measured, one value an architecture, by the name of the column."""
    columns: dict[str, list[float]] = {}
    for name, values in metrics.items():
        unit = next((unit for suffix, unit in _UNITS.items() if name.endswith(suffix)), '')
        if name == 'config' or not isinstance(values, list):
            continue
        if len(values) != num:
            raise CondnetError(f'{source} has {len(values)} values of {show(name)} for {num} architectures')
        for value in values:
            if not _is_measure(value):
                raise CondnetError(f'{source} has {show(value)} in {show(name)}; expected positive numbers')
        if name + unit in (*columns, 'index', 'arch_str'):
            raise CondnetError(f'{source} has two lists for the column {show(name + unit)}; expected one')
        columns[name + unit] = values
    if not any(name.endswith('_latency_ms') for name in columns):
        raise CondnetError(f'{source} holds no latencies; expected lists such as raspi4_latency')
    return columns


def _is_measure(value: Any) -> bool:
    return type(value) in (int, float) and 0 < value < 1e18


def _refuse_repeats(members: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(members)
    if len(content) != len(members):
        raise CondnetError('a key is repeated')
    return content
