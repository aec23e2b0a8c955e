"""Runs the steps of a study as processes, some side by side, until all that can be done is done.

A step is done when its record says so, which is written after its process has ended well. A kill loses at most what
the commands themselves lose: a training goes on from its last checkpoint, a ranking from its last architecture.
"""

import contextlib
import csv
import ctypes
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from condnet.checkpoints.training import training_checkpoints
from condnet.errors import CondnetError
from condnet.utils.files import write_file

_logger = logging.getLogger(__name__)


POLL_SECONDS = 0.1
_PR_SET_PDEATHSIG = 1
LAUNCH = (sys.executable, '-m')  # what runs a module


@dataclass(frozen=True)
class Step:
    """A training or a ranking.

    Args:
        name: Name within the study.
        kind: `train` or `rank`.
        command: Module to run, and its arguments.
        folder: Of the seed that it belongs to; records and logs of its steps are in it.
        file: Name of its record and its log.
        identity: What it is made with. A record of something else is refused.
        start: The checkpoint that it starts from; None for a training from the beginning.
        epochs: Epochs that a training has to do.
        output: Folder of a training.
        after: Name of the step that must be done before; None where the checkpoint alone decides.
    """

    name: str
    kind: str
    command: tuple[str, ...]
    folder: Path
    file: str
    identity: dict[str, Any]
    start: Path | None = None
    epochs: int = 0
    output: Path | None = None
    after: str | None = None

    @property
    def record(self) -> Path:
        return self.folder / 'done' / f'{self.file}.json'

    @property
    def log(self) -> Path:
        return self.folder / 'logs' / f'{self.file}.log'

    def is_done(self) -> bool:
        """Whether its record is there.

        Raises:
            CondnetError: If that is of other settings, or no record.
        """
        return self._read_record() is not None

    def _read_record(self) -> dict[str, Any] | None:
        try:
            content: dict[str, Any] = json.loads(self.record.read_bytes())
            before = content['identity']
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, KeyError) as error:
            raise CondnetError(f'{self.record} is damaged ({error}); delete it to do {self.name} again') from error
        if before != json.loads(json.dumps(self.identity)):
            raise CondnetError(f'{self.folder} holds {self.file} made with {before}, not {self.identity}; choose '
                               f'another `output`, or delete {self.record} and what it describes')  # fmt: skip
        return content

    def finish(self, seconds: float) -> None:
        """Write the record."""
        self.record.parent.mkdir(exist_ok=True)
        content = {'identity': self.identity, 'seconds': round(seconds, 1)}
        write_file(self.record, (json.dumps(content, indent=2) + '\n').encode())

    def seconds(self) -> list[float]:
        """What it took, if it is done."""
        record = self._read_record()
        return [] if record is None else [record['seconds']]

    def epochs_left(self) -> int:
        """Epochs that a training still has to do."""
        if self.output is None or not training_checkpoints(self.output):
            return self.epochs
        rows = read_rows(self.output / 'summary.csv')
        before = self._epochs_before()
        return max(self.epochs - max(len(rows) - before, 0), 0)

    def seconds_per_epoch(self) -> list[float]:
        """What the epochs of its own took, the checks after them included."""
        rows = [] if self.output is None else read_rows(self.output / 'summary.csv')[self._epochs_before() :]
        return [float(row['train_seconds']) + float(row['eval_seconds'] or 0) for row in rows]

    def _epochs_before(self) -> int:
        """Epochs of the trunk, which a training that starts from it has in its summary."""
        return 0 if self.start is None else int(self.start.name.removeprefix('milestone-').partition('.')[0])

    def arguments(self) -> list[str]:
        """The command as it has to be called now: a training starts, or goes on."""
        if self.output is None:
            return list(self.command)
        is_begun = self.start is None or training_checkpoints(self.output)
        return [*self.command, '--resume', str(self.output if is_begun else self.start)]


def read_rows(path: Path) -> list[dict[str, str]]:
    """Rows of a CSV file that condnet wrote; none where it is missing."""
    if not path.is_file():
        return []
    with path.open(newline='') as file:
        return list(csv.DictReader(file))


def run_steps(steps: list[Step], output: Path, jobs: int) -> list[str]:
    """Run what is not done, as soon as what it needs is there, in the order given.

    Args:
        steps: All steps of the study.
        output: Folder of the study.
        jobs: How many processes at a time.

    Returns:
        Steps that failed, each with the reason, and those that could not start without them.
    """
    done = {step.name for step in steps if step.is_done()}
    waiting = [step for step in steps if step.name not in done]
    failed: list[str] = []
    running: dict[subprocess.Popen[bytes], tuple[Step, float]] = {}
    is_gpu = any('cuda' in argument for step in waiting for argument in step.command)
    with _killed_at_the_end(running), shared_gpu(is_gpu and jobs > 1):
        while waiting or running:
            for step in [step for step in waiting if _is_ready(step, done)][: jobs - len(running)]:
                waiting.remove(step)
                _logger.info(f'{len(steps) - len(waiting)} of {len(steps)}: {step.name}')
                running[start_step(step, jobs)] = step, time.monotonic()
            if not running:
                return failed + [step.name for step in waiting]
            time.sleep(POLL_SECONDS)
            for process in [process for process in running if process.poll() is not None]:
                step, started = running.pop(process)
                if process.returncode == 0:
                    step.finish(time.monotonic() - started)
                    done.add(step.name)
                else:
                    failed.append(f'{step.name} ({_last_line(step.log) or f"status {process.returncode}"})')
                    _logger.error(f'failed: {failed[-1]}; see {step.log}')
    return failed


def _is_ready(step: Step, done: set[str]) -> bool:
    if step.after is not None:
        return step.after in done
    is_begun = step.output is not None and bool(training_checkpoints(step.output))
    return step.start is None or is_begun or step.start.is_file()


def start_step(step: Step, jobs: int) -> subprocess.Popen[bytes]:
    """Start a step as a process that does not outlive this one."""
    step.log.parent.mkdir(parents=True, exist_ok=True)
    environment = {'OMP_WAIT_POLICY': 'PASSIVE', 'PYTHONUNBUFFERED': '1', **os.environ}
    if jobs > 1:
        environment.setdefault('OMP_NUM_THREADS', str(max(1, (os.cpu_count() or 1) // jobs)))
    with step.log.open('ab') as log:
        return subprocess.Popen(
            [*LAUNCH, *step.arguments()],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            preexec_fn=_die_with_parent if _LIBC is not None else None,
        )


_LIBC = ctypes.CDLL(None) if sys.platform == 'linux' else None  # loaded here: a forked child should do little


def _die_with_parent() -> None:
    """Have the system kill this process when its parent ends, however that comes (Linux)."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


@contextlib.contextmanager
def _killed_at_the_end(running: dict[subprocess.Popen[bytes], Any]) -> Iterator[None]:
    try:
        yield
    finally:
        for process in running:
            process.kill()
        for process in running:
            process.wait()


@contextlib.contextmanager
def shared_gpu(is_needed: bool) -> Iterator[None]:
    """Run NVIDIA's MPS, which lets the kernels of several processes run at once, where it is there and not running."""
    program = shutil.which('nvidia-cuda-mps-control') if is_needed else None
    if program is None or 'CUDA_MPS_PIPE_DIRECTORY' in os.environ:
        yield
        return
    with tempfile.TemporaryDirectory(prefix='mps', ignore_cleanup_errors=True) as folder:  # sockets need short paths
        os.environ |= {'CUDA_MPS_PIPE_DIRECTORY': folder, 'CUDA_MPS_LOG_DIRECTORY': folder}
        try:
            if subprocess.run([program, '-d'], stdin=subprocess.DEVNULL, capture_output=True).returncode:
                _logger.warning('NVIDIA MPS does not start; the processes take turns on the GPU')
                del os.environ['CUDA_MPS_PIPE_DIRECTORY']
            yield
        finally:
            if os.environ.pop('CUDA_MPS_PIPE_DIRECTORY', None):
                environment = {**os.environ, 'CUDA_MPS_PIPE_DIRECTORY': folder}
                subprocess.run([program], input=b'quit\n', env=environment, capture_output=True)
            os.environ.pop('CUDA_MPS_LOG_DIRECTORY', None)


def _last_line(log: Path) -> str:
    """What a command said last, which for bad input is the error, without its own name."""
    lines = log.read_text(errors='replace').strip().splitlines()
    return lines[-1].partition(': error: ')[2] or lines[-1] if lines else ''
