"""Check that a wheel holds what is in `condnet/`, all of it and nothing else: no tool, no test, no page."""

import sys
from pathlib import Path
from zipfile import ZipFile

REPO = Path(__file__).parents[1]


def main(wheel: str) -> str | None:
    names = {name for name in ZipFile(wheel).namelist() if '.dist-info/' not in name}
    files = (f for f in (REPO / 'condnet').rglob('*') if f.is_file() and '__pycache__' not in f.parts)
    expected = {file.relative_to(REPO).as_posix() for file in files}
    lines = [f'{wheel} lacks {name}' for name in sorted(expected - names)]
    lines += [f'{wheel} should not hold {name}' for name in sorted(names - expected)]
    return '\n'.join(lines) or None


if __name__ == '__main__':
    sys.exit(main(*sys.argv[1:]))
