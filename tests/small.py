"""Less of what conftest has, for tests in which the size of images and networks shows nothing."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from condnet.data import CIFAR10_CLASSES

# A quarter of the weight sets of the whole space: a split, a checkpoint and a copy take as much less.
CONVS = ('--model-kwargs', 'space=only_conv', 'cells_per_stage=1', 'channels=(8,8,8)')


@pytest.fixture(scope='session')
def tiny_folder(tmp_path_factory) -> Path:
    """As conftest's, which it takes the place of where it is imported, of 16x16 pixels: a quarter of the work."""
    root = tmp_path_factory.mktemp('small')
    generator = np.random.default_rng(0)
    for label, name in enumerate(CIFAR10_CLASSES):
        folder = root / 'train' / name
        folder.mkdir(parents=True)
        for i in range(30):
            pixels = generator.integers(0, 128, (16, 16, 3)) + (np.array([label, 9 - label, label // 2]) * 12)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f'{i:04}.png')
    return root
