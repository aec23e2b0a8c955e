"""How images are augmented in training: timm's settings, by timm's names."""

import dataclasses
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

_ARGUMENTS = {  # of timm's `create_loader`, where they have other names
    'aa': 'auto_augment',
    'reprob': 're_prob',
    'remode': 're_mode',
    'recount': 're_count',
    'train_interpolation': 'interpolation',
}


@dataclass(frozen=True)
class Augmentation:
    """Settings of timm's loader; `condnet-train --help` says what each is. Images in memory know only the first two.

    `hflip` is None where it is not set: 0.5, or 0 for letters.
    """

    no_aug: bool = False
    hflip: float | None = None
    train_crop_mode: str | None = None
    scale: tuple[float, ...] | None = None
    ratio: tuple[float, ...] | None = None
    vflip: float = 0.0
    color_jitter: float = 0.4
    color_jitter_prob: float | None = None
    grayscale_prob: float = 0.0
    gaussian_blur_prob: float = 0.0
    aa: str | None = None
    reprob: float = 0.0
    remode: str = 'pixel'
    recount: int = 1
    train_interpolation: str = 'bilinear'

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> 'Augmentation':
        """That of a training, from all its settings, or from those that a checkpoint has recorded."""
        names = [field.name for field in dataclasses.fields(cls)]
        return cls(**{name: settings[name] for name in names if name in settings})

    def arguments(self) -> dict[str, Any]:
        """Arguments of timm's `create_loader`."""
        given = {_ARGUMENTS.get(name, name): value for name, value in vars(self).items()}
        return given | {'hflip': 0.5 if self.hflip is None else self.hflip}


@contextmanager
def seeded(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """Have what timm's transforms draw come from a seed; the random states are given back afterwards.

    Args:
        seed: The seed, not negative.
        device: A GPU that they draw on as well.
    """
    states = random.getstate(), np.random.get_state()
    on_gpu = device is not None and device.type == 'cuda'
    try:
        with torch.random.fork_rng(devices=[device] if on_gpu else []):
            random.seed(seed)
            np.random.seed(seed % 2**32)
            torch.default_generator.manual_seed(seed)
            if on_gpu:
                with torch.cuda.device(device):
                    torch.cuda.manual_seed(seed)
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
