"""Draw the idea, one weight set per predecessor, for the README: `python -m tools.draw_split` writes docs/split.svg."""

from pathlib import Path

_PREDECESSORS = (('identity', '#d9d9d9'), ('3x3', '#a6cee3'), ('5x5', '#b2df8a'))
_HEIGHT, _GAP, _TOP = 40, 20, 60  # of a box, between two, above the first
_ARROW = (
    '<marker id="arrow" markerWidth="8" markerHeight="8" refX="7" refY="4" orient="auto">'
    '<path d="M0 0L8 4L0 8z" fill="#555"/></marker>'
)


def _text(x: float, y: float, text: str, size: int = 15, weight: str = 'normal') -> str:
    return f'<text x="{x}" y="{y}" font-size="{size}" font-weight="{weight}" text-anchor="middle">{text}</text>'


def _box(x: float, y: float, width: int, text: str, color: str) -> str:
    shape = f'<rect x="{x}" y="{y}" width="{width}" height="{_HEIGHT}" rx="6" fill="{color}" stroke="#555"/>'
    return shape + _text(x + width / 2, y + _HEIGHT / 2 + 5, text)


def _arrow(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="#555" stroke-width="1.5" marker-end="url(#arrow)"/>'


def draw() -> str:
    """The picture, as SVG: left the shared weights of an operation, right its weights after the split."""
    rows = [_TOP + i * (_HEIGHT + _GAP) for i in range(len(_PREDECESSORS))]
    middle = rows[1] + _HEIGHT / 2
    parts = [
        _text(150, 28, 'before the split', 17, 'bold'),
        _text(150, 47, 'one weight set, whatever ran before', 13),
        _text(590, 28, 'after the split', 17, 'bold'),
        _text(590, 47, 'one weight set per predecessor', 13),
        _box(190, rows[1], 110, '5x5, shared', '#fdbf6f'),
        _arrow(315, middle, 425, middle),
        _text(370, middle - 12, 'copy once,', 13),
        _text(370, middle + 22, 'go on training', 13),
    ]
    for (name, color), y in zip(_PREDECESSORS, rows, strict=True):
        start = y + _HEIGHT / 2
        parts += [_box(10, y, 90, name, color), _arrow(100, start, 187, middle + (start - middle) / 5)]
        parts += [_box(440, y, 90, name, color), _arrow(530, start, 577, start)]
        parts += [_box(580, y, 160, f'5x5 after {name}', color)]
    size = f'width="750" height="{rows[-1] + _HEIGHT + _GAP}"'
    body = '\n'.join([_ARROW, '<rect width="100%" height="100%" fill="#fff"/>', *parts])
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif">\n{body}\n</svg>\n'


if __name__ == '__main__':
    Path('docs/split.svg').write_text(draw())
