"""Tables as CSV files, the way scripts and spreadsheets save them.

Encoding, byte order mark, line ends, separator, quotes, the header's case, further columns, empty lines and decimal
commas may differ, as long as only one reading is possible.
"""

import codecs
import csv
import io
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from condnet.errors import CondnetError, show
from condnet.utils.files import write_file
from condnet.utils.filetypes import describe_file

_WIDE = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_COMMA = re.compile(r'[+-]?[0-9]+,[0-9]+([eE][+-]?[0-9]+)?')
_THOUSANDS = re.compile(r'[+-]?[1-9][0-9]{0,2},[0-9]{3}')  # or a decimal comma
_NUMBER = re.compile(r'[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?')
_NO_NUMBERS = (
    'nan',
    'inf',
    '+inf',
    '-inf',
    'infinity',
    '-infinity',
)  # as scripts write them; whoever reads them decides


@dataclass
class Table:
    """Rows of a CSV file.

    Args:
        columns: Names; those that were asked for as they were asked for, others in lower case.
        rows: Fields by column, numbers with a decimal point.
        lines: Where each row ends, from 1.
        source: The file.
    """

    columns: list[str]
    rows: list[dict[str, str]]
    lines: list[int]
    source: Path

    def __iter__(self) -> Iterator[tuple[dict[str, str], str]]:
        """Rows, and where each stands."""
        return ((row, f'{self.source}, line {line}') for row, line in zip(self.rows, self.lines, strict=True))


def read_text(source: Path, expected: str) -> tuple[str, bytes]:
    """Read a text file, in UTF-8, or in UTF-16 or UTF-32 if it begins with their byte order mark.

    Returns:
        The text, and the bytes it was read from.

    Raises:
        CondnetError: If it is not text; `expected` says what should have been there.
        OSError: If it cannot be read.
    """
    if kind := describe_file(source):
        raise CondnetError(f'{source} is {kind}; expected {expected}')
    data = source.read_bytes()
    encoding = 'utf-8-sig'
    if data.startswith(_WIDE) and len(data) > len(codecs.BOM_UTF16):
        encoding = 'utf-32' if data.startswith(_WIDE[:2]) else 'utf-16'
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise CondnetError(f'{source} is not a text file in UTF-8; expected {expected}') from error
    if '\0' in text:  # as in UTF-16 that does not say so
        raise CondnetError(f'{source} is not a text file in UTF-8; expected {expected}')
    return text, data


def read_csv(text: str, required: tuple[str, ...], source: Path, is_number: Callable[[str], bool]) -> Table:
    """Read a table.

    Args:
        text: The file's text.
        required: Columns that it must have; it may have others, and all in any order.
        source: The file, for messages.
        is_number: Which columns hold numbers; decimal commas in them become points.

    Raises:
        CondnetError: If it lacks a column, is no CSV file, or can be read in more than one way.
    """
    separator = max(',;\t', key=lambda separator: _count_known(text, separator, required))
    try:
        records = list(_records(text, separator))
    except csv.Error as error:
        raise CondnetError(f'{source} is not a CSV file: {error}') from error
    known = {name.casefold(): name for name in required}
    columns = [known.get(name.casefold(), name.casefold()) for name in (records[0][1] if records else [])]
    check_columns(columns, required, source)
    for name in columns:
        if name and columns.count(name) > 1:
            raise CondnetError(f'{source} has the column {show(name)} {columns.count(name)} times; expected it once')
    table = Table(columns, [], [], source)
    for line, fields in records[1:]:
        if any(fields[len(columns) :]):
            raise CondnetError(
                f'{source}, line {line}: {len(fields)} fields for {len(columns)} columns; decimal commas need quotes '
                'or another separator'
            )
        padded = fields[: len(columns)] + [''] * (len(columns) - len(fields))
        table.rows.append(dict(zip(columns, padded, strict=True)))
        table.lines.append(line)
    _use_decimal_points(table, [name for name in columns if is_number(name)])
    return table


def write_csv(path: Path, columns: Iterable[str], rows: Iterable[dict[str, Any]]) -> None:
    """Write a table whole or not at all.

    Raises:
        OSError: If it cannot be written.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, tuple(columns), lineterminator='\n')
    writer.writeheader()
    writer.writerows(rows)
    write_file(path, text.getvalue().encode())


def check_columns(present: Iterable[str], expected: tuple[str, ...], where: 'str | Path') -> None:
    """Refuse a table, or an entry of one, that lacks a column.

    Raises:
        CondnetError: If it does.
    """
    missing = [name for name in expected if name not in present]
    if missing:
        raise CondnetError(f'{where} lacks {", ".join(missing)}; expected columns {", ".join(expected)}')


def _count_known(text: str, separator: str, names: tuple[str, ...]) -> int:
    """How many of some columns the header has, if this is the separator."""
    try:
        _, header = next(_records(text, separator), (0, []))
    except csv.Error:
        return -1
    return len({name.casefold() for name in header} & {name.casefold() for name in names})


def _records(text: str, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Lines that are not empty, with their numbers; not the line that names the separator for a spreadsheet."""
    reader = csv.reader(io.StringIO(text, newline=''), delimiter=separator, skipinitialspace=True, strict=True)
    for record in reader:
        fields = [field.strip() for field in record]
        if any(fields) and fields != ['sep=', '']:
            yield reader.line_num, fields


def _use_decimal_points(table: Table, columns: list[str]) -> None:
    """Turn decimal commas into points.

    Raises:
        CondnetError: If it is not certain that the commas are decimal ones.
    """
    fields = [row[name] for row in table.rows for name in columns]
    with_comma = [field for field in fields if _COMMA.fullmatch(field)]
    if not with_comma:
        return
    with_point = next((field for field in fields if '.' in field), None)
    if with_point is not None or all(_THOUSANDS.fullmatch(field) for field in with_comma):
        example = with_comma[0] if with_point is None else f'{with_comma[0]} beside {with_point}'
        raise CondnetError(
            f'{table.source} has numbers such as {example}, where the comma may be of decimals or of thousands; save '
            'it with decimal points'
        )
    for row in table.rows:
        row.update({name: row[name].replace(',', '.') for name in columns if _COMMA.fullmatch(row[name])})


def to_float(text: str) -> float:
    """Read a number in decimal notation; nan and inf are some.

    Raises:
        ValueError: If it is none.
    """
    if not _NUMBER.fullmatch(text) and text.lower() not in _NO_NUMBERS:
        raise ValueError(f'could not convert {text!r} to a number')
    return float(text)


def to_int(text: str) -> int:
    """Read an integer in decimal notation; some tools write `5.0` for 5.

    Raises:
        ValueError: If it is none.
    """
    if not re.fullmatch(r'-?[0-9]{1,999}(\.0)?', text):
        raise ValueError(f'could not convert {text!r} to an integer')
    return int(text.removesuffix('.0'))
