"""One-shot NAS super-networks with conditional weights. Importing it registers the models with timm.

Packages that bring their own search spaces are imported as well, if they say so, see `condnet.plugins`.
"""

from condnet.benchmarks.registry import BenchmarkRow, register_benchmark
from condnet.choice import ChoiceBlock, split_supernet
from condnet.errors import CondnetError
from condnet.models import MacroNet, MacroSupernet, NB201Net, NB201Supernet, Supernet
from condnet.models.pretrained import Tag, build_supernet, list_pretrained, register_tags
from condnet.models.supernet import Step, checkpoint_filter_fn
from condnet.plugins import load_entry_points
from condnet.ranking.calibration import calibrate
from condnet.spaces.base import Arch, SearchSpace
from condnet.spaces.costs import Cost
from condnet.spaces.registry import get_space, register_space
from condnet.version import __version__

__all__ = [
    'Arch',
    'BenchmarkRow',
    'ChoiceBlock',
    'CondnetError',
    'Cost',
    'MacroNet',
    'MacroSupernet',
    'NB201Net',
    'NB201Supernet',
    'SearchSpace',
    'Step',
    'Supernet',
    'Tag',
    '__version__',
    'build_supernet',
    'calibrate',
    'checkpoint_filter_fn',
    'get_space',
    'list_pretrained',
    'register_benchmark',
    'register_space',
    'register_tags',
    'split_supernet',
]

load_entry_points()
