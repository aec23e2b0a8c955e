"""Where a search is kept: the storages of Optuna, shared by several processes."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
import sqlalchemy.exc
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend

from condnet.errors import CondnetError, first_line
from condnet.utils.files import check_folder_to_write
from condnet.utils.locks import Lock, lock_file


class _Journal(JournalStorage):
    """A journal file, and the lock that whoever writes to it holds.

    Optuna's own lock, a symbolic link, stays when a process is killed: for 30 seconds, and where the path is relative,
    so that the link leads nowhere, for ever.
    """

    def __init__(self, path: Path) -> None:
        self.lock = Lock(lock_file(path))
        super().__init__(JournalFileBackend(str(path), self.lock))  # type: ignore[arg-type]  # its base class is private


class SharedStudy(optuna.Study):
    """A study that several processes may work on.

    Args:
        study: The study.
        storage: Where it is kept.
    """

    def __init__(self, study: optuna.Study, storage: BaseStorage) -> None:
        super().__init__(study.study_name, storage, study.sampler, study.pruner)
        self._shared = storage

    def alone(self) -> AbstractContextManager[Any]:
        """Keep the other processes from evaluations of theirs that would count."""
        if isinstance(self._shared, _Journal):
            return self._shared.lock
        return _database_lock(self._shared, self._study_id) if isinstance(self._shared, RDBStorage) else nullcontext()


@contextmanager
def _database_lock(storage: RDBStorage, study_id: int) -> Iterator[None]:
    """Hold a lock on a study in a database: on its row, or of SQLite, which locks no rows, on all."""
    if storage.engine.name == 'sqlite':
        with _sqlite_lock(storage.engine.url):
            yield
        return
    table = sqlalchemy.table('studies', sqlalchemy.column('study_id'))  # meanwhile nothing can be added to the study
    with storage.engine.begin() as connection:
        connection.execute(sqlalchemy.select(table).where(table.c.study_id == study_id).with_for_update())
        yield


def _sqlite_lock(url: sqlalchemy.URL) -> AbstractContextManager[Any]:
    """A lock on the file of an SQLite database; nothing for one in memory, or another database."""
    file = (url.database or '').removeprefix('file:')
    if url.get_backend_name() != 'sqlite' or file in ('', ':memory:') or Path(file).is_dir():
        return nullcontext()
    return Lock(lock_file(Path(file)))


def open_storage(storage: str) -> BaseStorage:
    """Open a storage of Optuna: a database by its URL, else a journal file, which is created.

    Raises:
        CondnetError: If it is no such thing.
    """
    if '://' not in storage:
        return _open_journal(Path(storage))
    try:
        with _sqlite_lock(sqlalchemy.make_url(storage)):  # two processes would make its tables at once, and one fail
            return RDBStorage(storage)
    except (OSError, ValueError, optuna.exceptions.OptunaError, sqlalchemy.exc.SQLAlchemyError, ImportError) as error:
        raise CondnetError(f'cannot open the database of `storage`: {first_line(error)}') from error


def _open_journal(path: Path) -> _Journal:
    """Open a journal, and drop the half line that a full disk or a killed process may have left at its end."""
    check_folder_to_write(path.parent)
    if path.exists() and not path.is_file():  # a device may have no end
        raise CondnetError(f'{path} is no file, expected a journal of Optuna, or a name for one')
    if path.exists() and (content := path.read_bytes()) and b'\n' not in content:
        raise CondnetError(f'{path} is no journal of Optuna')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CondnetError(f'cannot make the folder {path.parent}: {error.strerror}') from error
    try:
        storage = _Journal(path)
    except (ValueError, LookupError, TypeError) as error:
        raise CondnetError(f'{path} is no journal of Optuna, or is damaged: {first_line(error)}') from error
    with storage.lock:
        content = path.read_bytes()
        complete = content.rfind(b'\n') + 1
        if complete < len(content):
            with path.open('r+b') as file:
                file.truncate(complete)
    return storage


@contextmanager
def storage_errors() -> Iterator[None]:
    """Say what became of the search where its storage fails.

    Raises:
        OSError: Instead of what Optuna and SQLAlchemy raise.
    """
    try:
        yield
    except (OSError, optuna.exceptions.OptunaError, sqlalchemy.exc.SQLAlchemyError) as error:
        raise OSError(
            f'the storage of the search failed: {first_line(error)}; what it holds is kept, and the same command '
            'goes on from there'
        ) from error
