"""The machine: devices, and what results were computed on."""

import os
import platform
from pathlib import Path

import torch

from condnet.errors import first_line
from condnet.utils.settings import SettingError


def find_device(name: str) -> torch.device:
    """The device of a name; of several processes on a machine (torchrun), each has a GPU of its own.

    Raises:
        SettingError: If this machine does not have it.
    """
    try:
        device = torch.device(
            f'cuda:{os.environ["LOCAL_RANK"]}' if name == 'cuda' and 'LOCAL_RANK' in os.environ else name
        )
        torch.zeros(1, device=device).item()  # the device 'meta' holds no numbers
    except (AssertionError, NotImplementedError, RuntimeError) as error:
        raise SettingError('device', f'{name} is not available: {first_line(error)}') from error
    return device


def hardware_name(device: torch.device) -> str:
    """What a result was computed on: the GPU, or the CPU and the number of threads."""
    if device.type == 'cuda':
        return torch.cuda.get_device_name(device)
    cpuinfo = Path('/proc/cpuinfo')
    lines = cpuinfo.read_text().partition('\n\n')[0].splitlines() if cpuinfo.is_file() else []
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(':') for line in lines)}
    name = facts.get('model name', platform.machine())
    if {'cpu family', 'model'} <= facts.keys():  # virtual machines often give only the manufacturer's name
        name += f' (family {facts["cpu family"]}, model {facts["model"]})'
    return f'{name}, {torch.get_num_threads()} threads'
