"""Rank means: predictions together with what is known of architectures without them, `accuracy+flops`.

`+` is followed by what is to be high, as the trivial baselines have it (more FLOPs, better rank), `-` by what is to be
low, such as a latency: `accuracy-raspi4_latency_ms`. Every number is replaced by its rank among the architectures that
are compared, equal ones share the mean of their ranks, and the mean of an architecture's ranks is what it is ranked by.
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from condnet.errors import CondnetError, show
from condnet.spaces.base import SearchSpace
from condnet.utils.csvfile import read_csv, read_text, to_float, to_int

_PREDICTED = ('accuracy', 'loss')
_ITEM = re.compile(r'(accuracy|loss)((?:[+-]\w+)*)')


def parse_rank_by(text: str) -> list[str]:
    """The rank means of a list with commas; accuracy and loss by themselves, which are always shown, are left out.

    Raises:
        CondnetError: If one is none.
    """
    items = [item.strip() for item in text.split(',') if item.strip()]
    for item in items:
        if not _ITEM.fullmatch(item):
            raise CondnetError(f'cannot rank by {show(item)}; expected accuracy or loss, with others added (+flops, '
                               '+params) or, if less is better, subtracted (-latency_ms)')  # fmt: skip
    return [item for item in dict.fromkeys(items) if item not in _PREDICTED]


def columns_of(item: str) -> list[tuple[str, int]]:
    """What a rank mean consists of, and 1 if more is better or -1 if less is."""
    found = _ITEM.fullmatch(item)
    if found is None:
        raise CondnetError(f'cannot rank by {show(item)}')
    others = re.findall(r'([+-])(\w+)', found[2])
    return [(found[1], -1 if found[1] == 'loss' else 1), *((name, 1 if sign == '+' else -1) for sign, name in others)]


def mean_ranks(columns: Sequence[tuple[ArrayLike, int]]) -> np.ndarray:
    """Mean rank (N,) of each architecture, higher is better; equal numbers share the mean of their ranks.

    Args:
        columns: Numbers (N,), and 1 if more is better or -1 if less is.
    """
    ranks = [stats.rankdata(sign * np.asarray(values, dtype=np.float64)) for values, sign in columns]
    return np.asarray(np.mean(ranks, axis=0))


def read_columns(path: str | Path, space: SearchSpace, names: Iterable[str]) -> dict[str, dict[int, float]]:
    """Read columns of a table of architectures (CSV), by name and official index.

    Args:
        path: Table with the columns `index`, `arch_str` and those that are asked for.
        space: The search space, as a whole; the table may hold a part of it.
        names: The columns.

    Raises:
        CondnetError: If it lacks one, is of another space, or a number is not finite.
    """
    source, names = Path(path), tuple(names)
    text, _ = read_text(source, 'a table of architectures (CSV)')
    table = read_csv(text, ('index', 'arch_str', *names), source, is_number=lambda name: name in names)
    columns: dict[str, dict[int, float]] = {name: {} for name in names}
    for row, where in table:
        try:
            index = to_int(row['index'])
            if space.index(space.parse(row['arch_str'])) != index:
                raise ValueError(f'{row["arch_str"]} has another index in {space.name}')
            if index in columns[names[0]]:
                raise ValueError(f'{row["arch_str"]} stands there twice')
            for name in names:
                columns[name][index] = to_float(row[name])
                if not np.isfinite(columns[name][index]):
                    raise ValueError(f'{name} is {row[name]}, expected a finite number')
        except ValueError as error:
            raise CondnetError(f'{where}: {error}') from error
    return columns
