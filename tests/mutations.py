"""Mutations for `test_fuzz.py`: what editors, spreadsheets, other programs and bad disks make of files.

Every function takes what there is and a generator of random numbers, and gives something that may have changed.
"""

import csv
import io
import json
import math
from random import Random
from typing import Any

CHARACTERS = ',;\t"\' \n\r.-+_eExXyYnN~|()[]{}:#&*!%@`0123456789\0\x0b\x1c\x85\xa0²٣\u2028\ufeffé'
WORDS = (
    'nan',
    'inf',
    'null',
    'true',
    '1e3',
    '1_0',
    '010',
    '0x1F',
    '1,234',
    '1.234,5',
    '12:30',
    '--',
    'yes',
    '~',
    '1e999',
)
ODD_VALUES = (
    None,
    None,
    None,
    True,
    False,
    0,
    1,
    -1,
    3,
    1.5,
    1e300,
    10**30,
    math.nan,
    math.inf,
    '',
    '1',
    '1_0',
    'x',
    'x\ny',
    '٣',
)


def chance(rng: Random, probability: float) -> bool:
    return rng.randrange(1000) < 1000 * probability


def mutate_sequence(rng: Random, content, elements):
    """Insert, delete, replace, repeat, move and cut off parts of bytes or text."""
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        start = rng.randrange(len(content) + 1)
        end = min(len(content), start + rng.choice((1, 1, 1, 2, 8, 64)))
        kind = rng.randrange(8)
        if kind == 0:
            content = content[:start] + content[end:]
        elif kind == 1:
            content = content[:end] + content[start:]
        elif kind == 2:
            content = content[:start]
        elif kind == 3:
            other = rng.randrange(len(content) + 1)
            content = content[:other] + content[start:end] + content[other:]
        elif kind < 6:
            content = content[:start] + rng.choice(elements) + content[start:]
        else:
            content = content[:start] + rng.choice(elements) + content[start + 1 :]
    return content


def mutate_text(rng: Random, text: str) -> str:
    return mutate_sequence(rng, text, (*CHARACTERS, *WORDS))


def mutate_bytes(rng: Random, data: bytes) -> bytes:
    if data and chance(rng, 0.4):
        position = rng.randrange(len(data))
        return data[:position] + bytes([data[position] ^ 1 << rng.randrange(8)]) + data[position + 1 :]
    return mutate_sequence(rng, data, [bytes([rng.randrange(256)]), b'\0', b'\xff', bytes(8), b'\xff' * 4])


def encode(rng: Random, text: str) -> bytes:
    """Text as an editor saves it, and what then may happen to the bytes."""
    if chance(rng, 0.2):
        text = text.replace('\n', rng.choice(('\r\n', '\r', '\n\n')))
    if chance(rng, 0.3):
        text = mutate_text(rng, text)
    encoding = rng.choice(('utf-8',) * 6 + ('utf-8-sig', 'utf-16', 'utf-32', 'utf-16-le', 'latin-1'))
    data = text.encode(encoding, 'replace')
    return mutate_bytes(rng, data) if chance(rng, 0.2) else data


# Tables


def _restyle(rng: Random, grid: list[list[str]]) -> None:
    """Write numbers in another way: all of them, or one."""

    def thousands(value: float) -> str:
        return f'{value:,.3f}'

    def comma(value: float) -> str:
        return repr(value).replace('.', ',')

    def short(value: float) -> str:
        return f'{value:.3f}'.replace('.', ',')

    style = rng.choice(
        (comma, short, short, thousands, '{:.3f}'.format, '{:e}'.format, '{:.0f}'.format, '{:,.0f}'.format)
    )
    row = rng.choice((None, rng.randrange(len(grid))))
    for fields in grid if row is None else [grid[row]]:
        for i, field in enumerate(fields):
            if '.' in field and field.replace('.', '', 1).isdecimal():
                fields[i] = style(float(field))


def mutate_grid(rng: Random, grid: list[list[str]]) -> list[list[str]]:
    """Drop, repeat and move rows, columns and fields of a table whose first row is the header."""
    grid = [list(row) for row in grid]
    for _ in range(rng.choice((0, 0, 1, 1, 2))):
        row, other = rng.randrange(len(grid)), rng.randrange(len(grid))
        column, second = rng.randrange(len(grid[0])), rng.randrange(len(grid[0]))
        kind = rng.randrange(14)
        if kind == 0:
            grid.insert(other, list(grid[row]))
        elif kind == 1:
            grid[row], grid[other] = grid[other], grid[row]
        elif kind == 2:
            grid = [grid[0], *rng.sample(grid[1:], len(grid) - 1)]
        elif kind == 3 and len(grid) > 2:
            del grid[row]
        elif kind == 4:
            grid = [[field for i, field in enumerate(fields) if i != column] or [''] for fields in grid]
        elif kind == 5:
            grid = [[*fields, fields[column] if column < len(fields) else ''] for fields in grid]
        elif kind == 6:
            for fields in grid:
                if max(column, second) < len(fields):
                    fields[column], fields[second] = fields[second], fields[column]
        elif kind == 7 and column < min(len(grid[row]), len(grid[other])):
            grid[row][column], grid[other][column] = grid[other][column], grid[row][column]
        elif kind == 8 and column < len(grid[row]):
            grid[row][column] = rng.choice((*WORDS, '', mutate_text(rng, grid[row][column])))
        elif kind == 9:
            grid[0] = [rng.choice((name, name.upper(), f' {name}')) for name in grid[0]]
        elif kind == 10:
            grid[row] = rng.choice((grid[row][:-1], [*grid[row], ''], [*grid[row], 'x'], ['']))
        else:
            _restyle(rng, grid)
    return grid


def write_table(rng: Random, grid: list[list[str]]) -> bytes:
    """A mutated table as a program saves it."""
    text = io.StringIO()
    quoting = csv.QUOTE_ALL if chance(rng, 0.2) else csv.QUOTE_MINIMAL
    separator = rng.choice(',,,;\t')
    csv.writer(text, delimiter=separator, quoting=quoting, lineterminator='\n').writerows(mutate_grid(rng, grid))
    start = rng.choice(('',) * 6 + (f'sep={separator}\n', '\n', ' '))
    return encode(rng, start + text.getvalue())


# JSON and what else is a tree


def _containers(tree: Any) -> list[Any]:
    children = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ()
    return [inner for child in children for inner in _containers(child)] + ([tree] if children else [])


def mutate_tree(rng: Random, tree: Any) -> Any:
    """Change values, their types, keys and the shape of dictionaries and lists; in place, what is inside."""
    for _ in range(rng.choice((0, 1, 1, 1, 2))):
        containers = _containers(tree)
        if not containers or chance(rng, 0.02):
            return rng.choice(([], {}, None, 'x', [tree]))
        inside = rng.choice(containers)
        keys = list(inside) if isinstance(inside, dict) else list(range(len(inside)))
        key, other, kind = rng.choice(keys), rng.choice(keys), rng.randrange(8)
        value = inside[key]
        if kind == 0:
            del inside[key]
        elif kind == 1:
            inside[key], inside[other] = inside[other], inside[key]
        elif kind == 2 and isinstance(inside, dict):
            inside[rng.choice((f'{key}_', str(key).upper(), 'x', ''))] = inside.pop(key)
        elif kind == 3:
            inside[key] = rng.choice(([value], {'a': value}, str(value), [], {}, [value] * 3))
        elif kind == 4 and isinstance(value, str):
            inside[key] = mutate_text(rng, value)
        elif kind == 5 and type(value) in (int, float):
            inside[key] = rng.choice((value + 1, -value, value * 1.0, value * 10, str(value), value == 1))
        else:
            inside[key] = rng.choice(ODD_VALUES)
    return tree


def write_json(rng: Random, tree: Any) -> bytes:
    """A mutated tree as JSON; a member may be repeated."""
    text = json.dumps(mutate_tree(rng, tree), indent=rng.choice((None, 2)))
    members = text.splitlines()
    if len(members) > 3 and chance(rng, 0.1):
        member = rng.randrange(1, len(members) - 1)
        members.insert(member, members[member].rstrip(',') + ',')
        text = '\n'.join(members)
    return encode(rng, text) if chance(rng, 0.4) else text.encode()
