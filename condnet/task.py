"""The training task: timm's classification task, plus the architecture of each step and the split."""

from collections import Counter
from typing import Any, cast

import numpy as np
import torch
from timm.task import ClassificationTask
from torch import nn

from condnet.choice import split_supernet
from condnet.counts import Choice, choices_of
from condnet.models.supernet import Supernet
from condnet.spaces import Arch, SearchSpace


def arch_of_step(space: SearchSpace, seed: int, step: int) -> Arch:
    """The architecture that a step trains, drawn uniformly (SPOS).

    It depends on nothing but the seed and the step: it is the same on every rank, and after a resume.
    """
    mixed = int(np.random.SeedSequence((seed, step)).generate_state(1, np.uint64)[0] >> 1)
    return space.sample(torch.Generator().manual_seed(mixed))


class SupernetTask(ClassificationTask):
    """Trains one uniformly sampled sub-network per step. An ordinary network is trained as it is.

    Args:
        model: Super-network, or stand-alone network.
        seed: Seed of the architectures.
        device: Where the model is.
    """

    def __init__(self, model: nn.Module, seed: int = 0, device: torch.device | None = None) -> None:
        super().__init__(model, criterion=nn.CrossEntropyLoss(), device=device, verbose=False)
        self.seed = seed
        self.step = 0  # steps begun so far
        self.counts: Counter[Choice] = Counter()  # how many of them trained an operation in a context
        self.counts_since_split: Counter[Choice] = Counter()

    @property
    def model(self) -> Any:
        """The super-network or stand-alone network (timm's models have no common type)."""
        return self.trainable_module

    def forward(self, input: torch.Tensor, target: torch.Tensor) -> dict[str, torch.Tensor]:
        """Loss and logits of the step's sub-network, for images (B, C, H, W) and labels (B,)."""
        if isinstance(self.model, Supernet):
            arch = arch_of_step(self.model.space, self.seed, self.step)
            self.model.set_active_subnet(arch)
            choices = choices_of(self.model.space, arch)
            self.counts.update(choices)
            if self.model.is_split:
                self.counts_since_split.update(choices)
        self.step += 1
        return super().forward(input, target)

    def split(self, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Split the super-network, its optimizer's state and its averaged weights.

        Raises:
            ValueError: If the model is no super-network, or split already.
        """
        if not isinstance(self.model, Supernet):
            raise ValueError(f'only a super-network can be split, not {type(self.model).__name__}')
        ema = self.get_trainable_module(ema=True)
        split_supernet(self.model, optimizer, None if ema is None else cast(Supernet, ema.module))

    def get_task_state(self, module: nn.Module | None = None, ema: bool = False) -> dict[str, Any]:
        if ema:
            return {}
        return {
            'step': self.step,
            'seed': self.seed,
            'split': isinstance(self.model, Supernet) and self.model.is_split,
            'counts': dict(self.counts),
            'counts_since_split': dict(self.counts_since_split),
        }

    def load_task_state(
        self, state: dict[str, Any] | None, strict: bool = True, module: nn.Module | None = None, ema: bool = False
    ) -> None:
        if state and not ema:
            self.step = state['step']
            self.counts = Counter(state['counts'])
            self.counts_since_split = Counter(state['counts_since_split'])
