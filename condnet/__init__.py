"""One-shot NAS super-networks with conditional weights. Importing it registers the models with timm."""

from condnet.calibration import calibrate
from condnet.choice import split_supernet
from condnet.errors import CondnetError
from condnet.models import MacroNet, MacroSupernet, NB201Net, NB201Supernet, Supernet
from condnet.models.pretrained import list_pretrained
from condnet.spaces import Arch, Cost, SearchSpace, get_space

__version__ = '0.1.0'

__all__ = [
    'Arch',
    'CondnetError',
    'Cost',
    'MacroNet',
    'MacroSupernet',
    'NB201Net',
    'NB201Supernet',
    'SearchSpace',
    'Supernet',
    '__version__',
    'calibrate',
    'get_space',
    'list_pretrained',
    'split_supernet',
]
