"""Locks between processes: who is kept out, until when, and where there are none."""

import fcntl
import threading
import time

import pytest
from conftest import FORK, killed_at_the_end

from condnet import CondnetError
from condnet.utils.locks import Lock


def hold_with_child(path, held):
    """Hold a lock, in a process that has a child which outlives it."""
    lock = Lock(path)
    lock.acquire()
    FORK.Process(target=time.sleep, args=(3,)).start()
    held.set()
    time.sleep(60)


def test_killed_process_holds_nothing_and_neither_does_its_child(tmp_path):
    lock = Lock(tmp_path / '.lock', 'somebody is there')
    with killed_at_the_end(hold_with_child, lock.path):
        with pytest.raises(CondnetError, match='somebody is there'):
            lock.acquire()
    with lock, lock:  # the child lives on, as the workers of a loader may
        pass


def test_others_wait_until_it_is_given_back_for_good(tmp_path):
    order, lock = [], Lock(tmp_path / '.lock')

    def second():
        with Lock(tmp_path / '.lock'):
            order.append('second')

    with lock:
        with lock:
            pass
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.1)
        order.append('first')
    thread.join()
    assert order == ['first', 'second']


def test_file_system_without_locks(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(37, 'No locks available')

    monkeypatch.setattr(fcntl, 'flock', no_locks)
    with Lock(tmp_path / '.lock'), Lock(tmp_path / '.lock', 'somebody is there'):
        pass


def test_folder_that_is_missing_is_not_made(tmp_path):
    with pytest.raises(FileNotFoundError, match='missing'):
        Lock(tmp_path / 'missing' / '.lock').acquire()
    assert not list(tmp_path.iterdir())
