"""Whose BatchNorm statistics a super-network has, and the warning where they are used for others."""

import os
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

import timm
import torch

from condnet.spaces.base import Arch

_Active = tuple[Arch | None]  # what is active, in a tuple of its own: None within is over-complete


@dataclass(frozen=True)
class Statistics:
    """What is known of a super-network's BatchNorm statistics: by that the use of others' is noticed.

    Args:
        fit: What they fit; None for nothing in particular, as where training has mixed several sub-networks.
        may_be_initial: Whether they may be those of a new network, which nobody expects anything of.
        trained: What was trained last.
        passes: How many forward passes in training this was at a stretch.
    """

    fit: _Active | None = None
    may_be_initial: bool = True
    trained: _Active | None = None
    passes: int = 0

    @classmethod
    def of(cls, arch: Arch | None) -> 'Statistics':
        """Those of a calibrated sub-network, or of the calibrated over-complete state."""
        return cls((arch,), may_be_initial=False)

    def after_training(self, arch: Arch | None, are_initial: bool, momentum: float | None = 0.1) -> 'Statistics':
        """After one more forward pass in training; what a single sub-network has made is as good as calibrated.

        Args:
            arch: The sub-network.
            are_initial: Whether the statistics were those of a new network.
            momentum: That of BatchNorm: the share of the pass in the statistics. None for the mean over all passes,
                which never forgets those of before.
        """
        if momentum == 0:  # nothing has changed
            return self
        active = (arch,)
        passes = self.passes + 1 if active == self.trained else 1
        left = 1 if momentum is None else (1 - momentum) ** passes
        fit = are_initial or active == self.fit or left <= FORGOTTEN
        return Statistics(active if fit else None, False, active, passes)


MIXED = Statistics(may_be_initial=False)
FORGOTTEN = 0.0052  # share of what was before that no longer counts: 50 passes with BatchNorm's usual momentum of 0.1


_LIBRARIES = tuple(f'{Path(file).parent}{os.sep}' for file in (Path(__file__).parent, torch.__file__, timm.__file__))


def warn_user(text: str) -> None:
    """Warn, as of the line outside of the libraries that has led here."""
    frame = sys._getframe(1)
    while frame.f_code.co_filename.startswith(_LIBRARIES) and frame.f_back is not None:
        frame = frame.f_back
    # `warnings.warn` would show it for one model of each line of the program only.
    warnings.warn_explicit(text, UserWarning, frame.f_code.co_filename, frame.f_lineno)
