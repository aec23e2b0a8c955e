"""Work that is done beside the main thread, one piece after another."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


class Background:
    """A thread that does one piece of work at a time. Whoever gives it the next one waits for the one before."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1)
        self._running: Future[None] | None = None

    def start(self, work: Callable[[], None]) -> None:
        """Start a piece of work, when the one before is done.

        Raises:
            Exception: What that one has raised; the new one is not started then.
        """
        self.wait()
        self._running = self._executor.submit(work)

    def wait(self) -> None:
        """Wait for the work.

        Raises:
            Exception: What it has raised, once.
        """
        running, self._running = self._running, None
        if running is not None:
            running.result()

    def end(self) -> None:
        """Wait for the work, whatever comes of it, and end the thread."""
        self._executor.shutdown(wait=True)
