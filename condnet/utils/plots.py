"""Figures that notebooks show, without a display."""

import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

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


def visible_range(values: np.ndarray) -> tuple[float, float]:
    """Axis limits that leave out what is far off, as architectures are that let nothing through."""
    lower, upper = np.quantile(values, (0.25, 0.75))
    far = 4 * (upper - lower) or np.inf
    shown = values[(values >= lower - far) & (values <= upper + far)]
    margin = 0.05 * (shown.max() - shown.min()) or 0.5
    return float(shown.min() - margin), float(shown.max() + margin)
