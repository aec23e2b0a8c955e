"""What the commands share: errors in one line, devices, and arguments of models."""

import argparse
import ast
import logging
import os
import platform
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from timm.utils import setup_default_logging

from condnet.data import Images, load_images
from condnet.errors import CondnetError
from condnet.glyphs import render_glyphs
from condnet.memory import keep_freed_memory


def run(name: str, command: Callable[[], Any]) -> int:
    """Run a command; bad input ends it with one line on standard error.

    Returns:
        The exit status: 0, or 2 after an error.
    """
    if not logging.getLogger().handlers:  # a caller's logging is left alone
        setup_default_logging()
        logging.getLogger('httpx').setLevel(logging.WARNING)  # the Hub's client reports every request
    keep_freed_memory()
    try:
        command()
    except (ValueError, OSError, torch.OutOfMemoryError) as error:
        print(f'{name}: error: {error}', file=sys.stderr)
        return 2
    return 0


def find_device(name: str) -> torch.device:
    """The device of a name; of several processes on a machine (torchrun), each has a GPU of its own.

    Raises:
        CondnetError: If this machine does not have it.
    """
    try:
        device = torch.device(
            f'cuda:{os.environ["LOCAL_RANK"]}' if name == 'cuda' and 'LOCAL_RANK' in os.environ else name
        )
        torch.empty(1, device=device)
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
