"""Less of what conftest has, for tests in which the size of images and networks shows nothing."""

from pathlib import Path

import pytest
from conftest import write_noise

# A quarter of the weight sets of the whole space: a split, a checkpoint and a copy take as much less.
CONVS = ('--model-kwargs', 'space=only_conv', 'cells_per_stage=1', 'channels=(8,8,8)')


@pytest.fixture(scope='session')
def tiny_folder(tmp_path_factory) -> Path:
    """As conftest's, which it takes the place of where it is imported, of 16x16 pixels: a quarter of the work."""
    return write_noise(tmp_path_factory.mktemp('small'), 16)
