"""`glyphs`: the 26 letters under random distortions, small and grey. A data set that needs no download.

The letters are drawn once from the font that Pillow carries, large; each image is a letter under its own rotation,
scale, shear and shift, dimmed and noisy. All of that comes from a seed. Only how Pillow draws the letters may differ,
slightly, between its versions.
"""

import functools
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont, features

from condnet.data import GLYPH_CLASSES, Images
from condnet.errors import CondnetError

MEAN, STD = (0.083,), (0.149,)  # of the training set, in units where white is 1
IMAGES_PER_CLASS = {True: 260, False: 200}  # of the training set, of the test set
_SEEDS = {True: 0, False: 1}
_SIZE = 16  # pixels of an image along a side
_CANVAS = 64  # pixels of the drawing that it is made of
_SUPERSAMPLING = 2  # against aliasing, the distorted letter is drawn so many times larger and averaged
_MAX_ROTATION = 0.5  # radians
_MAX_SHEAR = 0.5
_MAX_LOG_SCALE = 0.35  # height and width of a letter each change by up to exp of it
_MAX_SHIFT = 0.2  # of half the width of an image
_BRIGHTNESS = (90.0, 220.0)  # of a letter, of 255
_NOISE = 20.0  # standard deviation of each pixel


def render_glyphs(train: bool = True) -> Images:
    """Render the data set, the same images every time.

    Args:
        train: The training set of 6,760 images, or else the test set of 5,200, from another seed.

    Returns:
        Images (N, 1, 16, 16) in canonical order: sorted by class, equally many of each.

    Raises:
        CondnetError: If Pillow was built without FreeType, and so cannot draw its font at this size.
    """
    pixels, targets = _render(_SEEDS[train], IMAGES_PER_CLASS[train], draw_letters)
    return Images(pixels.clone(), targets.clone(), GLYPH_CLASSES)


@functools.cache  # half a second, and every ranking of a session asks for them
def _render(seed: int, per_class: int, draw: Callable[[], torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    targets = torch.arange(len(GLYPH_CLASSES)).repeat_interleave(per_class)
    generator = torch.Generator().manual_seed(seed)
    distortions = _draw_distortions(len(targets), generator)
    large = [len(targets), 1, _SIZE * _SUPERSAMPLING, _SIZE * _SUPERSAMPLING]
    grid = F.affine_grid(distortions, large, align_corners=False)
    glyphs = F.avg_pool2d(F.grid_sample(draw()[targets], grid, align_corners=False), _SUPERSAMPLING)
    low, high = _BRIGHTNESS
    brightness = low + (high - low) * torch.rand(len(targets), 1, 1, 1, generator=generator)
    pixels = brightness * glyphs + _NOISE * torch.randn(glyphs.shape, generator=generator)
    return pixels.round().clamp(0, 255).byte(), targets


def draw_letters() -> torch.Tensor:
    """The undistorted letters, as float32 (26, 1, 64, 64), 1 where there is ink."""
    if not features.check('freetype2'):
        raise CondnetError('this Pillow has no FreeType, which draws the letters of glyphs; expected one that has')
    font = ImageFont.load_default(size=_CANVAS * 0.8)
    drawings = []
    for letter in GLYPH_CLASSES:
        drawing = Image.new('L', (_CANVAS, _CANVAS))
        ImageDraw.Draw(drawing).text((_CANVAS / 2, _CANVAS / 2), letter, fill=255, font=font, anchor='mm')
        drawings.append(np.asarray(drawing, np.float32) / 255)
    return torch.from_numpy(np.stack(drawings))[:, None]


def _draw_distortions(num: int, generator: torch.Generator) -> torch.Tensor:
    """Affine maps (N, 2, 3) from places in an image to places in a drawing, in units of half their width."""

    def uniform(limit: float) -> torch.Tensor:
        return limit * (2 * torch.rand(num, generator=generator) - 1)

    angle, shear = uniform(_MAX_ROTATION), uniform(_MAX_SHEAR)
    width, height = uniform(_MAX_LOG_SCALE).exp(), uniform(_MAX_LOG_SCALE).exp()
    cos, sin = angle.cos(), angle.sin()
    # rotation @ shear @ scale
    rows = [
        torch.stack([cos * width, (shear * cos - sin) * height, uniform(_MAX_SHIFT)], dim=1),
        torch.stack([sin * width, (shear * sin + cos) * height, uniform(_MAX_SHIFT)], dim=1),
    ]
    return torch.stack(rows, dim=1)
