"""Memory of a process: what glibc does with freed memory, and the most that is in use."""

import ctypes
import sys
from pathlib import Path

import torch

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # numbers in malloc.h


def keep_freed_memory() -> None:
    """Have glibc keep the large buffers that are freed: by default it returns them to the system again and again."""
    if sys.platform == 'linux' and hasattr(libc := ctypes.CDLL(None), 'mallopt'):
        for parameter, value in ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, -1), (_M_TOP_PAD, 500_000_000)):  # -1: never
            libc.mallopt(parameter, value)


def forget_peak(device: torch.device) -> None:
    """Begin to measure peak memory."""
    if device.type == 'cuda':
        torch.cuda.reset_peak_memory_stats(device)
    elif sys.platform == 'linux':
        if hasattr(libc := ctypes.CDLL(None), 'malloc_trim'):
            libc.malloc_trim(0)  # freed memory that is kept is not what is measured
        Path('/proc/self/clear_refs').write_text('5')


def peak_memory_mb(device: torch.device) -> float:
    """Most memory since `forget_peak`, in units of 1e6 bytes: on a GPU, or of the process; NaN where it is unknown."""
    if device.type == 'cuda':
        return torch.cuda.max_memory_allocated(device) / 1e6
    status = Path('/proc/self/status')
    if not status.is_file():
        return float('nan')
    line = next(line for line in status.read_text().splitlines() if line.startswith('VmHWM'))
    return int(line.split()[1]) * 1024 / 1e6
