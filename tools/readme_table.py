"""Write the results table of the README from results/*.json."""

import argparse
import math
import sys
from pathlib import Path
from typing import Any

from condnet.cli.common import run
from condnet.errors import CondnetError
from condnet.ranking.metrics import SHOWN, ranked_by
from condnet.ranking.results import describe_training, read_summary
from condnet.utils.csvfile import read_text
from condnet.utils.files import write_file

TABLE_START, TABLE_END = '<!-- results: start -->', '<!-- results: end -->'


def format_table(folder: str | Path) -> str:
    """The results table of the README (Markdown), from all summaries in a folder."""
    rows = [
        f'| results | trained | archs | ranked by | {" | ".join(SHOWN.values())} |',
        '|---' * (4 + len(SHOWN)) + '|',
    ]
    paths = sorted(Path(folder).glob('*.json'))
    if not paths:
        raise CondnetError(f'{folder} holds no summary of a ranking (.json)')
    for path in paths:
        summary = read_summary(path)
        if 'accuracy' not in summary:
            raise CondnetError(f'{path} holds no metrics: its architectures were not compared with a table')
        try:
            rows += _format_rows(f'[{path.stem}]({folder}/{path.name})', summary)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise CondnetError(f'{path} is not a summary of a ranking, or damaged: {error!r}') from error
    return '\n'.join(rows)


def _format_rows(link: str, summary: dict[str, Any]) -> list[str]:
    rows, first = [], [link, describe_training(summary['training']), str(summary['num_archs'])]
    for name in (name for name in ranked_by(summary) if name != 'params'):
        row = summary[name]
        rows.append('| ' + ' | '.join([*first, name, *(_number(row[metric]) for metric in SHOWN)]) + ' |')
        first = ['', '', '']
    return rows


def _number(value: float | None) -> str:
    return '-' if value is None or math.isnan(value) else f'{value:.2f}'


def update_readme(readme: Path, folder: Path) -> bool:
    """Put the results table between its marks in the README; whether it changed anything.

    Raises:
        CondnetError: If the marks are missing, or there are no results.
    """
    text, _ = read_text(readme, 'text')
    start, end = text.find(TABLE_START), text.find(TABLE_END)
    if start < 0 or end < start:
        raise CondnetError(f'{readme} lacks the marks {TABLE_START} and {TABLE_END}')
    updated = f'{text[:start]}{TABLE_START}\n{format_table(folder)}\n{text[end:]}'
    if updated != text:
        write_file(readme, updated.encode())
    return updated != text


def main(argv: list[str] | None = None) -> int:
    """Write the README's results table (`python -m tools.readme_table`)."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument('--readme', type=Path, default=Path('README.md'))
    parser.add_argument('--results', type=Path, default=Path('results'))
    args = parser.parse_args(argv)

    def command() -> None:
        changed = update_readme(args.readme, args.results)
        print(f'{args.readme}: {"updated" if changed else "up to date"}')

    return run('readme_table', command)


if __name__ == '__main__':
    sys.exit(main())
