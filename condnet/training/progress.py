"""How far a training is."""

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Progress:
    """How far a training is.

    Args:
        epoch: The current epoch.
        batch: How many batches of it are trained.
        loss: Sum of the loss over the images in them.
        images: Number of these images.
        seconds: What they took.
        waited: How many of these seconds went into loading and augmenting.
        summary: Rows of `summary.csv`, one for every epoch before; None where nothing was validated.
    """

    epoch: int = 0
    batch: int = 0
    loss: float = 0.0
    images: int = 0
    seconds: float = 0.0
    waited: float = 0.0
    summary: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        # Checkpoints of before have '' where nothing was validated.
        self.summary = [{name: None if value == '' else value for name, value in row.items()} for row in self.summary]
