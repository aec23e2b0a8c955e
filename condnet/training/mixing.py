"""Mixup and CutMix: timm's, with random numbers that depend on nothing but the seed and the step."""

import numpy as np
import torch
from timm.data import Mixup

from condnet.training.config import TrainConfig


class Mixing:
    """Mixes the images of a batch, and their labels; after a resume as it would have without.

    Args:
        config: The settings: `mixup`, `cutmix` and their relatives, `smoothing` and `seed`.
        num_classes: Classes of the model.
        rank: Number of the process, each of which mixes its own share of a batch.
    """

    def __init__(self, config: TrainConfig, num_classes: int, rank: int = 0) -> None:
        self.seed, self.rank, self.off_epoch = config.seed, rank, config.mixup_off_epoch
        self.mixup = Mixup(
            config.mixup,
            config.cutmix,
            config.cutmix_minmax,
            prob=config.mixup_prob,
            switch_prob=config.mixup_switch_prob,
            mode=config.mixup_mode,
            label_smoothing=config.smoothing,
            num_classes=num_classes,
        )

    def set_epoch(self, epoch: int) -> None:
        """From `mixup_off_epoch` on nothing is mixed; labels are smoothed all the same."""
        self.mixup.mixup_enabled = not self.off_epoch or epoch < self.off_epoch

    def __call__(self, images: torch.Tensor, targets: torch.Tensor, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Mix (B, C, H, W) images in place, and (B,) labels to (B, classes) shares. B is even."""
        before = np.random.get_state()  # timm draws from the numbers that all the program shares
        np.random.seed(np.random.SeedSequence((self.seed, step, self.rank)).generate_state(4))
        try:
            mixed: tuple[torch.Tensor, torch.Tensor] = self.mixup(images, targets)
        finally:
            np.random.set_state(before)
        return mixed
