"""Keyword arguments that all of timm's models take, and that a training script may pass to any model."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from condnet.errors import CondnetError, show


@dataclass(frozen=True)
class TimmOptions:
    """What they are; without them a model is as its constructor makes it.

    Args:
        drop_rate: Share of the classifier's inputs that is dropped in training.
        drop_path_rate: 0, as there is no such thing here.
        bn_momentum: Momentum of every BatchNorm; None for torch's.
        bn_eps: What every BatchNorm adds to the variance; None for torch's.

    Raises:
        CondnetError: If one makes no sense.
    """

    drop_rate: float = 0.0
    drop_path_rate: float = 0.0
    bn_momentum: float | None = None
    bn_eps: float | None = None

    def __post_init__(self) -> None:
        if not _is_number(self.drop_rate) or not 0 <= self.drop_rate < 1:
            raise CondnetError(f'drop_rate is {show(self.drop_rate)}, expected at least 0 and less than 1')
        if self.drop_path_rate != 0:
            raise CondnetError(f'drop_path_rate is {show(self.drop_path_rate)}, expected 0: which paths run is what an '
                               'architecture says, and its statistics are those of all of them')  # fmt: skip
        if self.bn_momentum is not None and not (_is_number(self.bn_momentum) and 0 <= self.bn_momentum <= 1):
            raise CondnetError(f'bn_momentum is {show(self.bn_momentum)}, expected 0 to 1')
        if self.bn_eps is not None and not (_is_number(self.bn_eps) and 0 < self.bn_eps < float('inf')):
            raise CondnetError(f'bn_eps is {show(self.bn_eps)}, expected a number above 0')

    def set_in(self, model: nn.Module) -> None:
        """Give them to a model.

        Raises:
            CondnetError: If it has no dropout, and there is to be some.
        """
        if hasattr(model, 'drop_rate'):
            model.drop_rate = self.drop_rate  # type: ignore[assignment]
        elif self.drop_rate:
            raise CondnetError(f'drop_rate is {self.drop_rate}, but {type(model).__name__} has no dropout')
        for module in model.modules():
            if isinstance(module, _BatchNorm):
                module.momentum = module.momentum if self.bn_momentum is None else self.bn_momentum
                module.eps = module.eps if self.bn_eps is None else self.bn_eps

    def as_arguments(self) -> dict[str, float]:
        """Those that differ from their defaults."""
        return {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if getattr(self, field.name) != field.default
        }


NAMES = frozenset(field.name for field in dataclasses.fields(TimmOptions))


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)
