"""Figures that notebooks show, without a display."""

import io
from pathlib import Path
from typing import TYPE_CHECKING

from condnet.utils.files import write_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def new_figure(width: float, height: float) -> 'Figure':
    """An empty figure, in inches."""
    from matplotlib.figure import Figure  # slow to import, and without pyplot no display is asked for

    class Shown(Figure):
        def _repr_png_(self) -> bytes:  # what notebooks ask for
            return to_png(self)

    return Shown(figsize=(width, height), layout='constrained')


def to_png(figure: 'Figure') -> bytes:
    """The figure as PNG."""
    stream = io.BytesIO()
    figure.savefig(stream, format='png', dpi=110)
    return stream.getvalue()


def save_figure(figure: 'Figure', path: str | Path | None) -> 'Figure':
    """Write a figure as PNG, if there is a path, and return it."""
    if path is not None:
        write_file(Path(path), to_png(figure))
    return figure
