"""NAS-Bench-201: the super-network with conditional weights, and the benchmark's stand-alone networks.

Papers:
* `Conditional super-network weights` - https://arxiv.org/abs/2104.11522, the super-network
* `NAS-Bench-201: Extending the Scope of Reproducible Neural Architecture Search` - https://arxiv.org/abs/2001.00326
* `SCARLET-NAS: Bridging the Gap between Stability and Scalability` - https://arxiv.org/abs/1908.06022, the linear
  transform on the skip connection
"""

from typing import Any, cast

import torch
from timm.models import create_model, generate_default_cfgs, register_model
from torch import nn

from condnet.choice import ChoiceBlock
from condnet.errors import CondnetError
from condnet.models.build import build_network, build_supernet
from condnet.models.nb201_cell import Cell, EdgeFactory, ReductionBlock, cell_steps, make_operation
from condnet.models.network import Network, base_cfg
from condnet.models.pretrained import HUB_ORGANIZATION, Tag, register_tags
from condnet.models.supernet import Step, Supernet, check_switch
from condnet.spaces.base import Arch
from condnet.spaces.registry import get_space

__all__ = ['NB201Net', 'NB201Supernet']

_MOST_CELLS = 1000  # in a stage; a damaged number would build them until memory ends


class _NB201(Network):
    """The macro skeleton: stem, three stages of cells with reduction blocks between them, classifier."""

    multiple = 4  # what reduction blocks add must agree
    last_block = 'norm'

    def __init__(
        self,
        make_edge: EdgeFactory,
        num_classes: int,
        in_chans: int,
        cells_per_stage: int,
        channels: tuple[int, int, int],
        global_pool: str,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> None:
        if type(cells_per_stage) is not int or not 1 <= cells_per_stage <= _MOST_CELLS:
            raise CondnetError(f'cells_per_stage is {cells_per_stage!r}, expected 1..{_MOST_CELLS}')
        if not isinstance(channels, tuple | list) or [type(n) is int and n > 0 for n in channels] != [True] * 3:
            raise CondnetError(f'channels are {channels!r}, expected 3 numbers')
        super().__init__(in_chans, channels[-1])
        dd: dict[str, Any] = {'device': device, 'dtype': dtype}
        self.stem = nn.Sequential()
        self.stem.add_module('conv', nn.Conv2d(in_chans, channels[0], 3, padding=1, bias=False, **dd))
        self.stem.add_module('bn', nn.BatchNorm2d(channels[0], **dd))
        stages = []
        for i, chs in enumerate(channels):
            cells = [Cell(chs, make_edge, dd) for _ in range(cells_per_stage)]
            stages.append(nn.Sequential(*([ReductionBlock(channels[i - 1], chs, dd)] if i else []), *cells))
        self.set_stages(stages, channels)
        self.norm = nn.BatchNorm2d(channels[-1], **dd)
        self.act = nn.ReLU()
        self.set_head(num_classes, global_pool, dd)

    def final(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.act(self.norm(x))
        return output


class NB201Supernet(Supernet, _NB201):
    """Super-network of NAS-Bench-201 with conditional weights.

    Args:
        space: Subset of the search space: `full`, `no_zero` or `only_conv`.
        split: Whether every operation has one weight set per context from the start.
        linear_skip: Whether skip connections carry a 1x1 convolution during super-network training.
        num_classes: Number of classes; 0 for none.
        in_chans: Image channels.
        cells_per_stage: Cells in each of the three stages; all of them share one architecture.
        channels: Channels of the three stages.
        global_pool: Pooling before the classifier, by timm's name for it; '' for none, where there are no classes.
        active_subnet: The sub-network that is active from the start, and whose BatchNorm statistics the weights come
            with; by default the model is over-complete.

    Raises:
        CondnetError: If the subset is unknown, or `active_subnet` is not an architecture of it.
    """

    def __init__(
        self,
        space: str = 'full',
        split: bool = False,
        linear_skip: bool = True,
        num_classes: int = 10,
        in_chans: int = 3,
        cells_per_stage: int = 2,
        channels: tuple[int, int, int] = (16, 32, 64),
        global_pool: str = 'avg',
        active_subnet: 'str | int | Arch | None' = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        search_space = get_space('nb201', space)
        check_switch('linear_skip', linear_skip)

        def make_edge(decision: int, chs: int, dd: dict[str, Any]) -> nn.Module:
            return ChoiceBlock(search_space, decision, lambda o: make_operation(o, chs, False, linear_skip, dd))

        super().__init__(make_edge, num_classes, in_chans, cells_per_stage, channels, global_pool, device, dtype)
        self.space = search_space
        self.cells_per_stage, self.channels, self.linear_skip = cells_per_stage, channels, linear_skip
        self.set_up(split, active_subnet)

    def forward_steps(self) -> list[Step]:
        self.check_active()
        arch, steps = cast(Arch, self.active_subnet), [Step.of(self.stem)]
        for stage in cast(list[nn.Sequential], self.stages):
            for block in stage:
                steps += cell_steps(block, arch) if isinstance(block, Cell) else [Step.of(block)]
        norm = Step(self.norm, (self.norm,), lambda state: (self.final(state[0]),))
        return [*steps, norm, self.head_step()]

    def make_standalone(self, arch: Arch, common: dict[str, Any]) -> nn.Module:
        common |= {'cells_per_stage': self.cells_per_stage, 'channels': self.channels}
        return create_model('nb201_net', arch=arch, affine=False, linear_skip=self.linear_skip, **common)


class NB201Net(_NB201):
    """Stand-alone network of NAS-Bench-201. The defaults are the benchmark's own.

    Args:
        arch: Architecture as tuple, official string or official index; by default all convolutions 3x3.
        num_classes: Number of classes; 0 for none.
        in_chans: Image channels.
        cells_per_stage: Cells in each of the three stages.
        channels: Channels of the three stages.
        affine: Whether the cells' BatchNorm has weights.
        linear_skip: Whether skip connections carry a 1x1 convolution, as in the super-network.
        global_pool: Pooling before the classifier, by timm's name for it; '' for none, where there are no classes.

    Raises:
        CondnetError: If `arch` is not an architecture of the space.
    """

    def __init__(
        self,
        arch: 'str | int | Arch' = (3, 3, 3, 3, 3, 3),
        num_classes: int = 10,
        in_chans: int = 3,
        cells_per_stage: int = 5,
        channels: tuple[int, int, int] = (16, 32, 64),
        affine: bool = True,
        linear_skip: bool = False,
        global_pool: str = 'avg',
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        parsed = get_space('nb201').parse(arch)
        check_switch('linear_skip', linear_skip)
        check_switch('affine', affine)

        def make_edge(decision: int, chs: int, dd: dict[str, Any]) -> nn.Module:
            return make_operation(parsed[decision], chs, affine, linear_skip, dd)

        super().__init__(make_edge, num_classes, in_chans, cells_per_stage, channels, global_pool, device, dtype)
        self.arch = parsed


def _cfg(**kwargs: Any) -> Any:
    return base_cfg(**{'pool_size': (8, 8), **kwargs})


_GLYPHS = {'cells_per_stage': 1, 'channels': (8, 16, 24)}
_ONE_CELL = {'cells_per_stage': 1, 'linear_skip': False}  # the recipe nb201_cond1, made to rank well
_TAGS = {
    'cond1_cifar10': Tag(
        {'split': True, **_ONE_CELL}, '9c688896cd8a798bbbfbe4bc87db4c28fd0eec01c72104e4ffbd4e262e23497f'
    ),
    'spos1_cifar10': Tag(_ONE_CELL, 'e02f8a310cb163d67b04ef46c91ca83dc6bbe66e35a9d6df5d31cbbf02a99ffc'),
    'cond1_only_conv_cifar10': Tag(
        {'split': True, 'space': 'only_conv', **_ONE_CELL},
        '92dc68c8fbed5aee3ff4a6f3680d0a3ed0a46642b2d068723f22fb96a0cdb015',
    ),
    'cond_cifar10': Tag({'split': True}),  # the paper's protocol
    'spos_cifar10': Tag(),
    'cond_glyphs': Tag({'split': True, **_GLYPHS}, 'f8e96ecb3bb37e667eb7b1c6c75088a2ac958276d7f82fad8b53bd24471eb629'),
    'spos_glyphs': Tag(_GLYPHS, '46b056ebc3c99468b50548332f69265b67be66d7e230803fb22e25da9bea7cf4'),
}
register_tags('nb201_cond_supernet', _TAGS)


def _supernet_cfg(tag: str) -> Any:
    glyphs = {'num_classes': 26, 'input_size': (1, 16, 16), 'pool_size': (4, 4), 'mean': (0.083,), 'std': (0.149,)}
    hub = f'{HUB_ORGANIZATION}/nb201_cond_supernet.{tag}'
    return _cfg(hf_hub_id=hub, paper_ids='arXiv:2104.11522', **(glyphs if tag.endswith('glyphs') else {}))


default_cfgs = generate_default_cfgs(
    {f'nb201_cond_supernet.{tag}': _supernet_cfg(tag) for tag in _TAGS} | {'nb201_net.untrained': _cfg()}
)


@register_model
def nb201_cond_supernet(pretrained: bool = False, **kwargs: Any) -> NB201Supernet:
    """NAS-Bench-201 super-network, see `NB201Supernet`."""
    return build_supernet(NB201Supernet, 'nb201_cond_supernet', pretrained, **kwargs)


@register_model
def nb201_net(pretrained: bool = False, **kwargs: Any) -> NB201Net:
    """NAS-Bench-201 stand-alone network, see `NB201Net`."""
    return build_network(NB201Net, 'nb201_net', pretrained, **kwargs)
