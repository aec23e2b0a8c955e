"""Drawings of architectures as SVG: the feature maps on a line, the operations between them."""

import html
from typing import Any

from condnet.errors import CondnetError, show
from condnet.models.supernet import Supernet
from condnet.spaces import SearchSpace, get_space, known_spaces

_STEP, _RADIUS, _RISE, _LINE = 120, 11, 34, 14  # pixels: between nodes, of a node, of an arc per step, of a text line
_CHAIN_STEP = 62  # where labels stand above and below the line in turn, so that a chain fits a page
_MARGIN = 26
# By the official number of the operation; Okabe and Ito's colours, which the colour-blind tell apart.
_COLORS = ('#999999', '#56b4e9', '#e69f00', '#d55e00', '#009e73', '#0072b2', '#cc79a7', '#f0e442')


class Drawing:
    """An architecture as SVG; a notebook shows it.

    Args:
        svg: The image, one `<svg>` element that stands for itself or within HTML.
    """

    def __init__(self, svg: str) -> None:
        self.svg = svg

    def _repr_svg_(self) -> str:
        return self.svg

    def __str__(self) -> str:
        return self.svg


def draw(arch: Any, space: SearchSpace | Supernet | str | None = None) -> Drawing:
    """Draw an architecture: a cell (nodes and edges), or a chain of layers.

    Args:
        arch: The architecture, as `SearchSpace.parse` reads it.
        space: Its search space, the name of one, or a super-network. By default the one that an official string can
            only be of.

    Returns:
        The drawing; `str()` of it is the SVG.

    Raises:
        CondnetError: If it is not an architecture of the space, or the space is to be guessed and cannot be.
    """
    found = _find_space(arch, space)
    return Drawing(_svg(found, found.graph(found.parse(arch))))


def _find_space(arch: Any, space: SearchSpace | Supernet | str | None) -> SearchSpace:
    if isinstance(space, Supernet):
        return space.space
    if isinstance(space, SearchSpace):
        return space
    if space is not None:
        return get_space(space)
    known = [get_space(name) for name in known_spaces()]
    found = [candidate for candidate in known if isinstance(arch, str) and arch in candidate]
    if len(found) != 1:
        names = ', '.join(candidate.name for candidate in found or known)
        raise CondnetError(f'cannot tell which search space {show(arch)} is of; give space=, one of {names}')
    return found[0]


def _svg(space: SearchSpace, edges: list[tuple[int, int, str]]) -> str:
    longest = max(target - source for source, target, _ in edges)
    step = _STEP if longest > 1 else _CHAIN_STEP
    top = _LINE + (_RISE * (longest - 1) + _RADIUS if longest > 1 else _LINE)
    num_nodes = 1 + max(target for _, target, _ in edges)
    width, height = 2 * _MARGIN + step * (num_nodes - 1), top + _MARGIN
    parts = [_edge(space, source, target, operation, top, step) for source, target, operation in edges]
    for node in range(num_nodes):
        x = _MARGIN + step * node
        parts.append(f'<circle cx="{x}" cy="{top}" r="{_RADIUS}" fill="#fff" stroke="#333"/>'
                     f'<text x="{x}" y="{top + 4}">{node}</text>')  # fmt: skip
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
            f'height="{height}" font-family="sans-serif" font-size="11" text-anchor="middle" role="img">'
            f'{"".join(parts)}</svg>')  # fmt: skip


def _edge(space: SearchSpace, source: int, target: int, operation: str, y: int, step: int) -> str:
    """A line between neighbours, else an arc above them; what is not there (`none`) is dashed and pale."""
    start, end = _MARGIN + step * source, _MARGIN + step * target
    middle, span = (start + end) // 2, target - source
    color = _COLORS[space.operations.index(operation) % len(_COLORS)]
    if span == 1:
        path, label = f'M{start + _RADIUS} {y}H{end - _RADIUS}', y - 6
        if step == _CHAIN_STEP:  # labels are wider than a step: beyond the nodes
            label = y + _RADIUS + 11 if source % 2 else y - _RADIUS - 5
    else:  # a quadratic curve rises to half the height of its control point
        path = f'M{start} {y - _RADIUS}Q{middle} {y - 2 * _RISE * (span - 1) - _RADIUS} {end} {y - _RADIUS}'
        label = y - _RADIUS - _RISE * (span - 1) - 4
    style = 'stroke-dasharray="3 4" stroke-opacity=".6"' if operation == 'none' else ''
    return (f'<path d="{path}" fill="none" stroke="{color}" stroke-width="2.5" {style}/>'
            f'<text x="{middle}" y="{label}">{html.escape(operation)}</text>')  # fmt: skip
