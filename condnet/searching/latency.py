"""Latency of networks: of the benchmark's in a published table, of those of a search measured on this machine."""

import math
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from condnet.benchmarks.hwnas import is_hw_nas
from condnet.errors import CondnetError, show
from condnet.models import Supernet
from condnet.spaces.base import Arch, SearchSpace
from condnet.spaces.registry import get_space
from condnet.utils.csvfile import read_csv, read_text, to_float, to_int
from condnet.utils.settings import SettingError

_SUFFIX = '_latency_ms'  # of the columns of HW-NAS-Bench that are latencies
_WARMUPS, _REPEATS = 5, 25


def read_latency_table(path: str | Path, space: SearchSpace, device: str | None) -> dict[Arch, float]:
    """Read latencies in milliseconds of every architecture of a space, as HW-NAS-Bench has them (CSV).

    Args:
        path: Table with the columns `index`, `arch_str` and `<device>_latency_ms`.
        space: The space; other architectures of the table are left out.
        device: Which of the table's devices.

    Raises:
        CondnetError: If it is of another space, lacks architectures or the device, or is damaged.
    """
    source = Path(path)
    if is_hw_nas(source):
        raise CondnetError(f'{path} is no CSV table; make one by condnet-benchmarks {source.name} '
                           "hw-nas-bench.csv, if it is HW-NAS-Bench's")  # fmt: skip
    text, _ = read_text(source, 'a latency table (CSV)')
    table = read_csv(text, ('index', 'arch_str'), source, is_number=lambda name: name.endswith(_SUFFIX))
    column = _find_column(path, table.columns, device)
    rows = [(row['index'], row['arch_str'], row[column]) for row, _ in table]
    if not space.is_enumerable:
        raise CondnetError(f'{space} has {space.size} architectures, too many for a table of all their latencies')
    latencies: dict[Arch, float] = {}
    for index, arch_str, latency in rows:
        arch = _read_arch(path, space, index, arch_str)
        if arch in latencies:
            raise CondnetError(f'{path} holds architecture {arch_str} twice; expected it once')
        latencies[arch] = _read_latency(path, arch_str, latency)
    missing = [arch for arch in space if arch not in latencies]
    if missing:
        raise CondnetError(
            f'{path} lacks {len(missing)} of the {space.size} architectures of {space}: {space.format(missing[0])}, ...'
        )
    return {arch: latencies[arch] for arch in space}


def _find_column(path: str | Path, columns: Sequence[str], device: str | None) -> str:
    devices = [column.removesuffix(_SUFFIX) for column in columns if column.endswith(_SUFFIX)]
    if not devices:
        raise CondnetError(f'{path} is no latency table; expected columns index, arch_str and <device>{_SUFFIX}')
    if device is None or device.lower() not in devices:
        raise SettingError('latency_device', f'is {device!r}, expected one of {", ".join(map(show, devices))}')
    return f'{device.lower()}{_SUFFIX}'


def _read_arch(path: str | Path, space: SearchSpace, index: str, text: str) -> Arch:
    whole = get_space(space.name)  # the table may cover more than this subset
    try:
        arch = whole.parse(text)
        if whole.index(arch) == to_int(index):
            return arch
        reason = f'its index in {space.name} is {whole.index(arch)}'
    except ValueError as error:
        reason = str(error)
    raise CondnetError(f'{path} is no latency table of {space.name}: index {show(index)}, {show(text)}: {reason}')


def _read_latency(path: str | Path, arch: str, text: str) -> float:
    try:
        latency = to_float(text)
    except ValueError:
        latency = math.nan
    if not 0 < latency < math.inf:
        raise CondnetError(f'{path}: latency {text!r} of {arch}; expected milliseconds')
    return latency


class MeasuredLatency:
    """Measures the stand-alone network of an architecture: median time in milliseconds of one image.

    Args:
        model: The super-network that makes it.
        input_size: Channels, height and width of the image.
        device: Where to measure.

    Raises:
        CondnetError: If it makes none.
    """

    def __init__(self, model: Supernet, input_size: tuple[int, ...], device: torch.device) -> None:
        self.model, self.input_size, self.device = model, input_size, device
        if type(model).make_standalone is Supernet.make_standalone:
            raise CondnetError(f'the latency of architectures of {model.space.name} cannot be measured: its '
                               'super-network makes no stand-alone networks')  # fmt: skip

    @torch.inference_mode()
    def __call__(self, arch: Arch) -> float:
        with torch.random.fork_rng(devices=[]):  # new weights are drawn for it
            net = self.model.new_subnet(arch)
        net.to(self.device).eval()
        image = torch.zeros(1, *self.input_size, device=self.device)
        seconds = [self.time_once(net, image) for _ in range(_WARMUPS + _REPEATS)]
        return 1000 * statistics.median(seconds[_WARMUPS:])

    def time_once(self, net: torch.nn.Module, image: torch.Tensor) -> float:
        started = time.perf_counter()
        net(image)
        if self.device.type == 'cuda':
            torch.cuda.synchronize(self.device)
        return time.perf_counter() - started
