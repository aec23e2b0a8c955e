"""Locks between processes, of one kind for training, ranking and search."""

from pathlib import Path
from types import TracebackType
from typing import IO, Any

from filelock import FileLock, Timeout, lock_descriptor

from condnet.errors import CondnetError


class Lock:
    """Keeps other processes out; a process that holds it may take it again.

    The system lifts it when the process ends, however that comes, and no child of the process holds it. On a file
    system without locks it keeps nobody out.

    Args:
        path: A file that nothing else is kept in. It is created, and stays.
        busy: What to say where another process holds the lock; None to wait for it instead.
    """

    def __init__(self, path: Path, busy: str | None = None) -> None:
        self.path, self._busy = path, busy
        # filelock's own way without locks is a file that a killed process on another machine would leave locked.
        self._lock = FileLock(path, timeout=-1 if busy is None else 0, poll_interval=0.01, fallback_to_soft=False)

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            CondnetError: If another process holds it, and this one is not to wait.
            OSError: If the file cannot be created.
        """
        self.path.parent.stat()  # filelock would create a folder that is missing
        try:
            self._lock.acquire()
        except Timeout as error:
            raise CondnetError(self._busy) from error
        except OSError:
            self.path.touch()  # says what is wrong with file or folder; if nothing is, the file system has no locks

    def release(self) -> None:
        """Give the lock back; nothing happens where it is not held."""
        self._lock.release()

    def __enter__(self) -> 'Lock':
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()


def lock_open_file(file: IO[Any], busy: str) -> None:
    """Keep other processes that do the same out of an open file, until it is closed.

    Args:
        file: The file; a process that is forked would hold the lock too.
        busy: What to say where another process holds it.

    Raises:
        CondnetError: If another process holds it.
    """
    try:
        is_free = lock_descriptor(file.fileno(), blocking=False)
    except OSError:  # a file system without locks
        return
    if not is_free:
        raise CondnetError(busy)


def lock_file(path: Path) -> Path:
    """Where the lock of a file is: beside it, hidden, and not under the name of Optuna's own locks."""
    return path.with_name(f'.{path.name}.lock')
