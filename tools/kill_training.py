"""Kill a training again and again, continue it each time, and compare its end with that of one that was left alone.

`python -m tools.kill_training --kills 50` does it with the full-size super-network of NAS-Bench-201 on images of noise.
Trainings are forked from this process, so that a start does not take seconds.
"""

import argparse
import csv
import logging
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import condnet.choice
from condnet.checkpoints.training import LAST, PREVIOUS, read_training_checkpoint
from condnet.cli.train import main as train_main

POINTS = ('checkpoint', 'renames', 'summary.csv', 'counts.csv', 'milestone-1.pth.tar', 'split')
TIMINGS = ('seconds', 'loader_share', 'images_per_second', 'peak_memory_mb', 'waited')


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_at(point: str, visits: int = 1) -> None:
    """Have this process killed when it comes to a point for the n-th time.

    Args:
        point: `renames`, between the renames of a checkpoint; `split`, with half of the choice blocks split; or a
            file, of which half is written then (`checkpoint` for `last.pth.tar`).
        visits: The n.
    """
    left = [visits]

    def is_due() -> bool:
        left[0] -= 1
        return left[0] == 0

    replace, fsync, split = os.replace, os.fsync, condnet.choice.ChoiceBlock.split

    def killing_replace(source: Any, target: Any) -> None:
        replace(source, target)
        if Path(target).name == PREVIOUS and is_due():
            die()

    def killing_fsync(file: int) -> None:
        if (
            os.readlink(f'/proc/self/fd/{file}').endswith(f'/{ {"checkpoint": LAST}.get(point, point) }.tmp')
            and is_due()
        ):
            os.ftruncate(file, os.fstat(file).st_size // 2)
            die()
        fsync(file)

    def killing_split(block: condnet.choice.ChoiceBlock) -> condnet.choice.Copies:
        if is_due():
            die()
        return split(block)

    if point == 'renames':
        os.replace = killing_replace
    elif point == 'split':
        condnet.choice.ChoiceBlock.split = killing_split  # type: ignore[method-assign]
    else:
        os.fsync = killing_fsync


def start(arguments: list[str], log: Path, prepare: Callable[[], None] = lambda: None) -> int:
    """Fork a process that trains; returns its number."""
    process = os.fork()
    if process:
        return process
    status = 1
    try:  # nothing of the parent may run on in the child
        sys.stdout = sys.stderr = log.open('a', buffering=1)
        logging.getLogger().handlers.clear()  # pytest's; the command now sets up its own
        torch.set_num_threads(1)
        prepare()
        status = train_main(arguments)
    finally:
        os._exit(status)


def wait(process: int, seconds: float | None = None) -> bool:
    """Wait for the end of a process, or kill it after some seconds of its CPU time; whether it was killed.

    Wall time would say little about how far it is on a machine that has other things to do.
    """
    while seconds is not None and _seconds_used(process) < seconds:
        number, status = os.waitpid(process, os.WNOHANG)
        if number:
            return _was_killed(status)
        time.sleep(0.002)
    if seconds is not None:
        os.kill(process, signal.SIGKILL)  # without effect if it has just ended
    return _was_killed(os.waitpid(process, 0)[1])


def _seconds_used(process: int) -> float:
    """CPU time of a process that is not waited for yet."""
    fields = Path(f'/proc/{process}/stat').read_text().rpartition(')')[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK')


def seconds_of_children() -> float:
    """CPU time of all processes that were waited for."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _was_killed(status: int) -> bool:
    code = os.waitstatus_to_exitcode(status)
    if code not in (0, -signal.SIGKILL):
        raise RuntimeError(f'a training ended with status {code}')
    return code != 0


def final_state(output: Path) -> dict[str, Any]:
    """Everything that a training leaves behind, except what it took in time and memory."""
    checkpoint = read_training_checkpoint(output / LAST)
    state = {key: value for key, value in checkpoint.items() if key not in ('args', 'sha256')}  # they name the output
    state['progress'] = {**state['progress'], 'summary': [_untimed(row) for row in state['progress']['summary']]}
    for path in output.glob('*.csv'):
        with path.open(newline='') as file:
            state[path.name] = [_untimed(row) for row in csv.DictReader(file)]
    state['files'] = sorted(path.name for path in output.iterdir() if not path.name.endswith('.tmp'))
    return state


def _untimed(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if not key.endswith(TIMINGS)}


def differences(one: Any, other: Any, name: str = '') -> list[str]:
    """Where two states are not the same to the last bit."""
    if type(one) is not type(other):
        return [name]
    if isinstance(one, torch.Tensor):
        return [] if torch.equal(one, other) else [name]
    if isinstance(one, dict):
        if one.keys() != other.keys():
            return [name]
        return [found for key in one for found in differences(one[key], other[key], f'{name}/{key}')]
    if isinstance(one, list | tuple):
        if len(one) != len(other):
            return [name]
        pairs = enumerate(zip(one, other, strict=True))
        return [found for i, (a, b) in pairs for found in differences(a, b, f'{name}/{i}')]
    return [] if one == other else [name]


def noise_images(folder: Path, per_class: int = 6, num_classes: int = 10) -> Path:
    """Class folders with images of noise, 32x32 pixels."""
    generator = np.random.default_rng(0)
    for label in range(num_classes):
        (folder / 'train' / f'{label}').mkdir(parents=True)
        for i in range(per_class):
            pixels = generator.integers(0, 256, (32, 32, 3), np.uint8)
            Image.fromarray(pixels).save(folder / 'train' / f'{label}' / f'{i:04}.png')
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--kills', type=int, default=50)
    parser.add_argument('--seed', type=int, default=0, help='seed of the moments')
    args = parser.parse_args()
    torch.set_num_threads(1)
    moments = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        data = noise_images(work / 'data')
        arguments = ['--data-dir', str(data), '--batch-size', '8', '--epochs', '3', '--split-epoch', '1', '--model-ema',
                     '--keep-epochs', '1', '--recovery-interval', '2', '--eval-interval', '0']  # fmt: skip
        started = time.monotonic()
        wait(start([*arguments, '--output', str(work / 'whole')], work / 'log'))
        duration = seconds_of_children()
        expected = final_state(work / 'whole')
        print(f'left alone: {duration:.1f} s of CPU time, {expected["task_state"]["step"]} steps', flush=True)
        kills: Counter[str] = Counter()
        while kills.total() < args.kills:
            before = kills.copy()
            output = work / 'killed'
            resumed = [*arguments, '--output', str(output), '--resume', str(output)]
            while train_and_kill(resumed, work / 'log', moments, duration, kills, args.kills):
                pass
            found = differences(expected, final_state(output))
            print(f'{(kills - before).total()} kills ({dict(kills - before)}): {found or "bit-identical"}', flush=True)
            if found:
                sys.exit(1)
            shutil.rmtree(output)
        print(f'{kills.total()} kills ({dict(kills)}), every end bit-identical; {time.monotonic() - started:.0f} s')


def train_and_kill(
    arguments: list[str], log: Path, moments: random.Random, duration: float, kills: Counter[str], most: int
) -> bool:
    """Train until the end, or until a kill at a random moment or point; whether there was one."""
    if kills.total() == most:
        return wait(start(arguments, log))
    point = moments.choice((*POINTS, *['random moment'] * len(POINTS)))
    if point == 'random moment':
        was_killed = wait(start(arguments, log), moments.uniform(0, duration / 2))
    else:
        visits = {'split': moments.randint(1, 72), 'milestone-1.pth.tar': 1}.get(point, moments.randint(1, 3))
        was_killed = wait(start(arguments, log, lambda: die_at(point, visits)))
    kills[point] += was_killed
    return was_killed


if __name__ == '__main__':
    main()
