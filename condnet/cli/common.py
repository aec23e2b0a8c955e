"""What the commands share: errors in one line, devices, and arguments of models."""

import errno
import logging
import os
import re
import signal
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from timm.utils import setup_default_logging
from timm.utils.log import FormatterNoInfo

from condnet.errors import CondnetError
from condnet.utils.interrupt import Interrupted, handled
from condnet.utils.memory import keep_freed_memory
from condnet.utils.settings import SettingError


def run(name: str, command: Callable[[], Any]) -> int:
    """Run a command; what the user can act on ends it with one line on standard error.

    That is a `CondnetError`, a file or disk that does not serve, another process that is lost, and memory that is too
    small. Anything else is a fault of the program, and raised.

    Ctrl-C and SIGTERM end it with one line as well, which says what is kept.

    Returns:
        The exit status: 0, or 2 after an error, or 128 and the number of the signal.
    """
    if not logging.getLogger().handlers:  # a caller's logging is left alone
        setup_default_logging()
        for handler in logging.getLogger().handlers:
            handler.setFormatter(_Formatter())
        logging.getLogger('httpx').setLevel(logging.WARNING)  # the Hub's client reports every request
    keep_freed_memory()
    try:
        with handled():
            command()
            sys.stdout.flush()  # at exit it would be too late to say that it failed
    except KeyboardInterrupt as stop:
        return _interrupted(name, stop if isinstance(stop, Interrupted) else Interrupted(signal.SIGINT))
    except (CondnetError, OSError, MemoryError, RuntimeError) as error:
        if not _is_the_users(error):
            raise
        text = f'`{error.name}` {error.problem}' if isinstance(error, SettingError) else str(error)
        print(f'{name}: error: {with_flags(" ".join(text.splitlines()))}', file=sys.stderr)
        _drop_output()
        return 2
    return 0


def with_flags(text: str) -> str:
    """A message of the library as a command says it: with flags for the settings that it names.

    These are in backticks: `epochs` becomes --epochs, and `channels_last=False` becomes --no-channels-last.
    """

    def flag(found: re.Match[str]) -> str:
        return f'--{"no-" if found[2] else ""}{found[1].replace("_", "-")}'

    return re.sub('`([a-z][a-z_]*)(=False)?`', flag, text)


class _Formatter(logging.Formatter):
    """Log lines as timm formats them; those of the library with flags."""

    timms: logging.Formatter = FormatterNoInfo()

    def format(self, record: logging.LogRecord) -> str:
        text = self.timms.format(record)
        return with_flags(text) if record.name.partition('.')[0] == 'condnet' else text


def say_written(files: Iterable[Path | str]) -> None:
    """Name each file that a command wrote, which is how it ends."""
    print('wrote ' + ', '.join(map(str, files)))


# What is kept of a command that did not say so itself.
_KEPT = {
    'condnet-train': 'no checkpoint was written; the same command starts again',
    'condnet-validate': 'what was evaluated is kept in --results-file; the same command goes on with it',
    'condnet-search': 'what was evaluated is kept in --storage, or in --output; the same command goes on with it',
    'condnet-study': 'what is finished is kept, and the checkpoints of the rest; the same command goes on with it',
}


def _interrupted(name: str, stop: Interrupted) -> int:
    """Say, in one line, what a signal has left; returns the exit status."""
    if stop.kept is not None:
        kept = stop.kept or _KEPT.get(name, 'nothing is left half-written; the same command does it again')
        print(f'{name}: stopped by {signal.Signals(stop.number).name}: {with_flags(kept)}', file=sys.stderr)
    _drop_output()
    return 128 + stop.number


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
