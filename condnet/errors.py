"""The error that a user can act on, and how it shows a value."""

import reprlib
from typing import Any


class CondnetError(ValueError):
    """Bad input: data, settings, files or architectures that do not fit, told in one line.

    A setting is named in backticks, as `max_flops`, and the commands say its flag instead. They end with that line. Any
    other exception is a fault of the program, and keeps its traceback.
    """


class _Short(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxtuple = self.maxlist = 12  # enough for an architecture
        self.maxstring = self.maxother = 120

    def repr_int(self, x: int, level: int) -> str:
        if x.bit_length() > 64:  # Python refuses to print thousands of digits
            return f'an integer of {x.bit_length()} bits'
        return super().repr_int(x, level)


def first_line(error: BaseException) -> str:
    """The first line of what an exception says, or its kind where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def show(value: Any) -> str:
    """One line of a value, whatever it is, for an error message."""
    return ' '.join(_Short().repr(value).split())
