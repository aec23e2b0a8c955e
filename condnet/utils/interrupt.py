"""Ctrl-C and SIGTERM: a command ends at once, a training at the next step from which it can go on."""

import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_AT_ONCE = 1.0  # seconds in which a signal that comes again is the same: torchrun and a terminal both send one
_SWALLOWED = 0.01  # seconds after which a signal is sent again whose exception went nowhere


class Interrupted(KeyboardInterrupt):
    """SIGINT or SIGTERM has come.

    Args:
        number: Which.
        kept: What is kept, and how to go on with it; None if nothing is to be said.
    """

    def __init__(self, number: int, kept: str | None = '') -> None:
        super().__init__(number)
        self.number, self.kept = number, kept


class _State:
    """What of the signals the process remembers: handlers have no other place for it."""

    depth = 0  # of `deferred`
    asked = 0  # the signal that waits for the next step
    asked_at = 0.0


@contextmanager
def handled() -> Iterator[None]:
    """Have the signals raise `Interrupted`, as long as this is entered; in the main thread, which alone gets them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _State.depth = _State.asked = 0
    before = {number: signal.signal(number, _handle) for number in _SIGNALS}
    hook = sys.unraisablehook

    def send_again(unraisable: Any) -> None:
        if not isinstance(unraisable.exc_value, Interrupted):
            hook(unraisable)
            return
        _State.asked = 0
        again = threading.main_thread().ident, unraisable.exc_value.number
        threading.Timer(_SWALLOWED, signal.pthread_kill, again).start()

    # What is raised in a finalizer, or in what Python does around a fork, is swallowed, and the signal would be lost.
    sys.unraisablehook = send_again
    try:
        yield
    finally:
        sys.unraisablehook = hook
        for number, handler in before.items():
            signal.signal(number, handler)
        _State.asked = 0


def _handle(number: int, frame: Any) -> None:
    if _State.asked and time.monotonic() - _State.asked_at < _AT_ONCE:
        return
    is_first, _State.asked, _State.asked_at = not _State.asked, number, time.monotonic()
    if _State.depth and is_first:
        return
    raise Interrupted(number)


@contextmanager
def deferred() -> Iterator[None]:
    """Have the first signal wait until `asked` is looked at; a second one raises at once."""
    _State.depth += 1
    try:
        yield
    finally:
        _State.depth -= 1


def asked() -> int:
    """Number of the signal that waits; 0 if none does."""
    return _State.asked
