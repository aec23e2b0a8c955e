"""The models, one file per search space. Importing this registers them with timm."""

from condnet.models.macro import MacroNet, MacroSupernet
from condnet.models.nb201 import NB201Net, NB201Supernet
from condnet.models.supernet import Supernet

__all__ = ['MacroNet', 'MacroSupernet', 'NB201Net', 'NB201Supernet', 'Supernet']
