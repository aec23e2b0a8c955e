"""What the networks cost that a super-network's architectures become on their own: measured, not looked up."""

import itertools
from functools import cached_property
from typing import Any

import torch
from torch import nn

from condnet.models.supernet import Supernet
from condnet.spaces.base import Arch
from condnet.spaces.costs import Cost

NUM_CHECKED = 16  # random architectures that costs are tested on before they are added up


@torch.no_grad()
def measure_cost(net: nn.Module, image: torch.Tensor) -> Cost:
    """Parameters of a network, and multiply-adds of its layers' products for one image (1, C, H, W)."""
    from torch.utils.flop_counter import FlopCounterMode  # it brings half of torch's compiler

    counter = FlopCounterMode(display=False)
    with counter:
        net.eval()(image)
    return Cost(sum(parameter.numel() for parameter in net.parameters()), counter.get_total_flops() // 2)


class NetworkCosts:
    """Costs of the stand-alone networks of a super-network, as it makes them: with its channels, cells and classes.

    Of most spaces the cost of an architecture is that of what all have and of each operation. A few networks are built
    to find these, and more at random to see whether they add up; if not, the network of each architecture that is asked
    for is built.

    Args:
        model: The super-network.
        input_size: Channels, height and width of the images.
    """

    def __init__(self, model: Supernet, input_size: tuple[int, ...]) -> None:
        self._model, self._image = model, torch.zeros(1, *input_size)
        self._measured: dict[Arch, Cost] = {}

    @classmethod
    def of(cls, model: Supernet, input_size: Any) -> 'NetworkCosts | None':
        """The costs; None of a super-network that makes no stand-alone networks."""
        makes_networks = type(model).make_standalone is not Supernet.make_standalone
        return cls(model, tuple(input_size)) if makes_networks else None

    def __call__(self, arch: Arch) -> Cost:
        """Cost of the network of an architecture."""
        if 'is_sum' not in vars(self) and len(self._measured) < NUM_CHECKED:
            return self._measure(arch)  # to see whether costs add up, more networks are built than that
        return self._add_up(arch) if self.is_sum else self._measure(arch)

    @cached_property
    def is_sum(self) -> bool:
        """Whether costs add up, so that they are known of all architectures."""
        checked = itertools.islice(self._model.space.shuffled(), NUM_CHECKED)
        return all(self._add_up(arch) == self._measure(arch) for arch in checked)

    @cached_property
    def _parts(self) -> tuple[Cost, list[dict[int, Cost]]]:
        """Cost of one architecture, and what each operation at each decision costs more than the one there."""
        choices = [self._model.space.choices_of(decision) for decision in range(len(self._model.space.predecessors))]
        base = tuple(options[0] for options in choices)
        cost, rows = self._measure(base), []
        for decision, options in enumerate(choices):
            changed = {choice: self._measure((*base[:decision], choice, *base[decision + 1 :])) for choice in options}
            rows.append({choice: Cost(its.params - cost.params, its.flops - cost.flops)
                         for choice, its in changed.items()})  # fmt: skip
        return cost, rows

    def _measure(self, arch: Arch) -> Cost:
        if arch not in self._measured:
            with torch.random.fork_rng(devices=[]):  # new weights are drawn for it
                self._measured[arch] = measure_cost(self._model.new_subnet(arch), self._image)
        return self._measured[arch]

    def _add_up(self, arch: Arch) -> Cost:
        cost, rows = self._parts
        return sum((row[choice] for row, choice in zip(rows, arch, strict=True)), start=cost)
