"""What the commands share: errors in one line, devices, and arguments of models."""

import argparse
import ast
import copy
import errno
import logging
import math
import os
import platform
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from timm.utils import setup_default_logging
from torch import nn

from condnet.data import Images, load_images
from condnet.errors import CondnetError
from condnet.glyphs import render_glyphs
from condnet.memory import keep_freed_memory


def run(name: str, command: Callable[[], Any]) -> int:
    """Run a command; what the user can act on ends it with one line on standard error.

    That is a `CondnetError`, a file or disk that does not serve, another process that is lost, and memory that is too
    small. Anything else is a fault of the program, and raised.

    Returns:
        The exit status: 0, or 2 after an error.
    """
    if not logging.getLogger().handlers:  # a caller's logging is left alone
        setup_default_logging()
        logging.getLogger('httpx').setLevel(logging.WARNING)  # the Hub's client reports every request
    keep_freed_memory()
    try:
        command()
        sys.stdout.flush()  # at exit it would be too late to say that it failed
    except (CondnetError, OSError, MemoryError, RuntimeError) as error:
        if not _is_the_users(error):
            raise
        print(f'{name}: error: {" ".join(str(error).splitlines())}', file=sys.stderr)
        _drop_output()
        return 2
    return 0


_OF_FILES = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.EPIPE, errno.EMFILE, errno.ENFILE}


def _is_the_users(error: Exception) -> bool:
    """Whether an error tells of the user's input, files or machine, and not of a fault of the program."""
    if isinstance(error, OSError):
        # An error of the system names the file, or has one of these numbers where a file is open; ours has a text only.
        ours = type(error) in (OSError, ConnectionError) and error.errno is None
        return ours or error.filename is not None or error.errno in _OF_FILES or isinstance(error, ConnectionError)
    if isinstance(error, RuntimeError):  # torch has no type of its own for the memory of the CPU
        return isinstance(error, torch.OutOfMemoryError) or 'DefaultCPUAllocator' in str(error)
    return True


def _drop_output() -> None:
    """Forget output that cannot be written, which Python would try again at exit."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def check_forward(model: nn.Module, input_size: Sequence[int], num_images: int, device: torch.device) -> Any:
    """Check that a model can be trained on images, before anything is written. The model is left as it is.

    Args:
        model: The model, on the device.
        input_size: Channels, height and width of the images.
        num_images: Images of a forward pass.
        device: Where the model is.

    Returns:
        What it gives for black images.

    Raises:
        CondnetError: If it cannot.
    """
    images = torch.zeros(num_images, *input_size, device=device)
    with torch.random.fork_rng([device] if device.type == 'cuda' else []), torch.no_grad():
        try:
            return copy.deepcopy(model).train()(images)
        except Exception as error:  # models raise whatever a size that they were not made for leads them to
            if isinstance(error, torch.OutOfMemoryError):
                raise
            reason = ' '.join(str(error).split()) or type(error).__name__
            size = 'x'.join(map(str, input_size))
            raise CondnetError(f'the model cannot take {num_images} images of size {size}: {reason}') from error


def check_numbers(args: argparse.Namespace, least: float, *names: str, below: float = math.inf) -> None:
    """Check the values of flags; those that are not given pass.

    Args:
        args: The flags.
        least: What they must be at least.
        *names: Their names, as attributes.
        below: What they must be less than; no number is infinite, and no whole one has more than 64 bits.

    Raises:
        CondnetError: If one is something else.
    """
    for name in names:
        value = getattr(args, name)
        if value is None:
            continue
        end = min(below, 2**63) if isinstance(value, int) else below
        if not least <= value < end:
            more = f' and less than {end:g}' if below < math.inf or value >= end else ''
            raise CondnetError(f'--{name.replace("_", "-")} is {value}, expected at least {least:g}{more}')


def check_folder_to_write(folder: Path) -> None:
    """Check, without a trace, that files can be written to a folder, which need not exist yet.

    Raises:
        CondnetError: If it is no folder, or is not to be written to.
    """
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(path))
    if not existing.is_dir():
        raise CondnetError(f'cannot write to {folder}: {existing} is no directory')
    if not os.access(existing, os.W_OK | os.X_OK):
        raise CondnetError(f'cannot write to {folder}: no permission to write to {existing}')


def find_device(name: str) -> torch.device:
    """The device of a name; of several processes on a machine (torchrun), each has a GPU of its own.

    Raises:
        CondnetError: If this machine does not have it.
    """
    try:
        device = torch.device(
            f'cuda:{os.environ["LOCAL_RANK"]}' if name == 'cuda' and 'LOCAL_RANK' in os.environ else name
        )
        torch.zeros(1, device=device).item()  # the device 'meta' holds no numbers
    except (AssertionError, NotImplementedError, RuntimeError) as error:
        raise CondnetError(f'--device {name} is not to be had: {str(error).splitlines()[0]}') from error
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


DATASET_HELP = "glyphs, or a data set by timm's name for it; default: small images in --data-dir, kept in memory"


def open_images(args: argparse.Namespace) -> Images | None:
    """The training set in memory that the flags `--dataset`, `--data-dir` and `--download` name.

    Returns:
        The images; None for a data set that goes through timm.

    Raises:
        CondnetError: If the directory is missing or holds no data set.
    """
    if args.dataset == 'glyphs':
        return render_glyphs()
    if not args.data_dir:
        raise CondnetError(
            '--data-dir is missing: a directory with the data set; --download fetches CIFAR-10 into it '
            '(only models of the letters, --dataset glyphs, need none)'
        )
    return None if args.dataset else load_images(args.data_dir, train=True, download=args.download)


ARCHITECTURES = ('arch', 'active_subnet')  # arguments of models that are text as they stand


class ModelKwargs(argparse.Action):
    """`key=value` arguments of a model.

    An architecture stays text, even where it looks like a number, and `false` is no text, which would be true.
    """

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        texts = [str(value) for value in values or ()]
        for text in texts:
            if '=' not in text:
                raise argparse.ArgumentError(self, f'expected key=value, got {text!r}')
        pairs = (text.split('=', 1) for text in texts)
        setattr(namespace, self.dest, {key: parse_model_argument(key, value) for key, value in pairs})


def parse_model_argument(key: str, text: str) -> Any:
    """What the text of a model's argument means: a Python literal, or else itself."""
    if key in ARCHITECTURES:
        return text
    if text.lower() in ('true', 'false'):
        return text.lower() == 'true'
    try:
        return ast.literal_eval(text)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):  # all that it is documented to raise
        return text
