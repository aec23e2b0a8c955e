"""Files that are there as a whole or not at all."""

import errno
import os
from pathlib import Path

from condnet.errors import CondnetError


def write_file(path: Path, content: bytes | memoryview, keep_as: Path | None = None) -> None:
    """Write a file so that it is there as a whole or not at all, wherever a kill or a power failure interrupts this.

    Args:
        path: The file; what is there is replaced.
        content: What it is to hold.
        keep_as: Where what it held before goes, if there was anything.

    Raises:
        OSError: If it cannot be written, for example because the disk is full. Everything is as it was then.
    """
    temporary = path.with_name(f'{path.name}.tmp')
    try:
        with temporary.open('wb') as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # or a power failure could leave a renamed file without content
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OSError(error.errno, f'cannot write: {error.strerror}', str(path)) from error
    if keep_as is not None and path.exists():
        os.replace(path, keep_as)
    os.replace(temporary, path)
    if os.name == 'posix':  # Windows opens no folder
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # the renaming itself
        finally:
            os.close(folder)


def check_folder_to_write(folder: Path) -> None:
    """Check, without a trace, that files can be written to a folder, which need not exist yet.

    Raises:
        CondnetError: If it is no folder, or is not to be written to.
    """
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(path))
    if not existing.is_dir():
        raise CondnetError(f'cannot write to {folder}: {existing} is not a directory')
    if not os.access(existing, os.W_OK | os.X_OK):
        raise CondnetError(f'cannot write to {folder}: no permission to write to {existing}')
