"""Training in several processes: the same as in one, also after the split, and what happens when one is lost."""

import logging
import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess as Process
from pathlib import Path

import pytest
import torch
from conftest import train_args
from small import CONVS, tiny_folder  # noqa: F401  # its images are smaller ones
from train_worker import train, work

from condnet.checkpoints.training import LAST, read_training_checkpoint
from condnet.cli.train import main
from condnet.utils.distributed import Group

pytestmark = pytest.mark.slow

# Of this process, which has imported everything. Beside a GPU it has threads, and a server that has none is forked.
PROCESSES = multiprocessing.get_context('forkserver' if torch.cuda.is_available() else 'fork')
PROCESSES.set_forkserver_preload(['condnet.cli.train'])

CASES = [
    ('train', 'nb201_cond_supernet'),
    ('eval', 'nb201_cond_supernet'),
    ('float16', 'nb201_cond_supernet'),
    ('train', 'macro_cond_supernet'),
    ('eval', 'macro_cond_supernet'),
]


def start(folder: Path, run: Callable[[list[str]], int | None], arguments: list[str], size: int = 2) -> list[Process]:
    """Start processes as torchrun does, but let nobody end the others when one is lost; logs are in the folder."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    shared = {'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': str(port), 'WORLD_SIZE': str(size)}
    processes = []
    for rank in range(size):
        environment = shared | {'RANK': str(rank), 'LOCAL_RANK': str(rank)}
        log = folder / f'stderr{len(list(folder.glob("stderr*")))}.txt'
        log.touch()
        processes.append(PROCESSES.Process(target=_run, args=(environment, log, run, arguments), name=str(log)))
        processes[-1].start()
    return processes


def _run(environment: dict[str, str], log: Path, run: Callable[[list[str]], int | None], arguments: list[str]) -> None:
    os.environ.update(environment)
    logging.getLogger().handlers.clear()  # pytest's
    sys.stderr = log.open('w', buffering=1)
    os.dup2(sys.stderr.fileno(), 2)
    sys.exit(run(arguments))


def finish(processes: list[Process], timeout: float = 120) -> list[tuple[int | None, str]]:
    """Exit status and standard error of each."""
    for process in processes:
        process.join(timeout)
    for process in processes:
        process.kill()
        process.join()
    return [(process.exitcode, Path(process.name).read_text()) for process in processes]


def assert_close(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], tolerance: float) -> None:
    """Norms of the differences are compared, as every tensor has numbers that are almost zero."""
    assert one.keys() == other.keys()
    errors = {key: float((value - other[key]).norm() / (other[key].norm() + 1e-30)) for key, value in one.items()}
    assert {key: error for key, error in errors.items() if not error <= tolerance} == {}


@pytest.fixture(scope='module')
def trained(tmp_path_factory) -> Path:
    """Folder of what two processes have written that trained each of the cases."""
    folder = tmp_path_factory.mktemp('trained')
    ends = finish(start(folder, work, [str(folder), *(f'{mode}:{name}' for mode, name in CASES)]))
    assert [status for status, _ in ends] == [0, 0], ends
    return folder


@pytest.mark.parametrize(('mode', 'name'), CASES)
def test_two_ranks_equal_one_process(trained, name, mode):
    """In training mode, one that normalises the two halves of a batch for themselves; else one with whole batches."""
    (first, *first_statistics), (second, *second_statistics) = (
        torch.load(trained / f'{mode}:{name}.{i}.pt') for i in range(2)
    )
    assert all(torch.equal(value, second[key]) for key, value in first.items())
    assert all(value.isfinite().all() for value in first.values())
    for key, value in first_statistics[1].items():
        assert torch.equal(value, second_statistics[1][key])
        torch.testing.assert_close(value, (first_statistics[0][key] + second_statistics[0][key]) / 2)
    if mode == 'float16':  # no process made the step of which one had a gradient that was not finite
        assert first['scale'] <= 2**15
    else:
        assert_close(first, train(name, mode, Group(), num_parts=2 if mode == 'train' else 1)[0], 1e-9)


def read_run(output: Path) -> dict[str, torch.Tensor]:
    """Weights, momentum and losses that a training ends with."""
    checkpoint = read_training_checkpoint(output / LAST)
    tensors = {f'{kind}.{key}': value for kind in ('state_dict', 'state_dict_ema')
               for key, value in checkpoint[kind].items()
               if 'running' not in key and 'num_batches' not in key}  # fmt: skip
    tensors |= {f'momentum.{i}': state['momentum_buffer'] for i, state in checkpoint['optimizer']['state'].items()}
    losses = [[row['train_loss'], row['eval_loss']] for row in checkpoint['progress']['summary']]
    return tensors | {'losses': torch.tensor(losses)}


def test_the_command_in_two_processes_and_resumed_in_one(tiny_folder, tmp_path, caplog):  # noqa: F811
    """The split, averaged weights and the summary, and a resume with another number."""
    caplog.set_level('INFO')
    more, in_one = (*CONVS, '--model-ema', '--model-ema-decay', '0.9'), ('--grad-accum-steps', '2')
    assert main(train_args(tiny_folder, tmp_path / 'alone', *more, *in_one)) == 0
    ends = finish(start(tmp_path, main, train_args(tiny_folder, tmp_path / 'both', *more, '--keep-epochs', '3')))
    assert [status for status, _ in ends] == [0, 0], ends
    assert 'epoch 3 done' in ends[0][1] and 'epoch' not in ends[1][1]  # one of them logs
    whole = read_run(tmp_path / 'alone')
    assert_close(read_run(tmp_path / 'both'), whole, 1e-4)
    caplog.clear()
    resume = ('--resume', str(tmp_path / 'both' / 'milestone-3.pth.tar'))
    assert main(train_args(tiny_folder, tmp_path / 'resumed', *more, *in_one, *resume)) == 0
    assert 'epoch 3 done' in caplog.text and 'epoch 2 done' not in caplog.text
    assert_close(read_run(tmp_path / 'resumed'), whole, 1e-4)


def test_a_lost_process_ends_the_others(tiny_folder, tmp_path):  # noqa: F811
    output = tmp_path / 'output'
    command = train_args(
        tiny_folder, output, *CONVS, '--epochs', '2000', '--eval-interval', '0', '--recovery-interval', '1'
    )
    processes = start(tmp_path, main, command)
    try:
        while not (output / LAST).exists():
            assert processes[0].is_alive(), finish(processes)
            time.sleep(0.1)
        processes[1].kill()
        status, error = finish(processes, timeout=30)[0]
    finally:
        for process in processes:
            process.kill()
    assert status == 2
    assert 'error: no contact with the other processes of the training: ' in error
    assert error.rstrip().endswith(f'the last good checkpoint is {output / LAST}')
    read_training_checkpoint(output / LAST)


@pytest.mark.parametrize('rank', [0, 1])
def test_a_signal_to_one_process_stops_all(tiny_folder, tmp_path, rank):  # noqa: F811
    """After the same step, with one checkpoint and one line."""
    output = tmp_path / 'output'
    command = train_args(
        tiny_folder, output, *CONVS, '--epochs', '2000', '--eval-interval', '0', '--recovery-interval', '3'
    )
    processes = start(tmp_path, main, command)
    try:
        while not (output / LAST).exists():
            assert all(process.is_alive() for process in processes), finish(processes)
            time.sleep(0.05)
        os.kill(processes[rank].pid or 0, signal.SIGTERM)
        ends = finish(processes, timeout=30)
    finally:
        for process in processes:
            process.kill()
    assert [status for status, _ in ends] == [128 + signal.SIGTERM] * 2, ends
    said = (
        f'condnet-train: stopped by SIGTERM: {output / LAST} is kept; the same command with --resume {output} goes on'
    )
    assert ends[0][1].splitlines()[-1] == said and 'stopped' not in ends[1][1]
    assert not any('Traceback' in error for _, error in ends)
    before = read_training_checkpoint(output / LAST)['progress']
    ends = finish(start(tmp_path, main, [*command, '--resume', str(output), '--stop-epoch', str(before['epoch'] + 1)]))
    assert [status for status, _ in ends] == [0, 0], ends
    assert f'goes on with epoch {before["epoch"]}' in ends[0][1]


def test_what_the_first_process_finds_wrong_ends_all(tiny_folder, tmp_path):  # noqa: F811
    command = train_args(tiny_folder, tmp_path / 'output')
    ends = finish(start(tmp_path, main, [*command, '--resume', str(tmp_path / 'no.tar')]))
    assert [status for status, _ in ends] == [2, 2]
    assert all('error: no checkpoint file at ' in error for _, error in ends)
    ends = finish(start(tmp_path, main, [*command, '--batch-size', '63']))
    assert [status for status, _ in ends] == [2, 2]
    assert all('--batch-size is 63, expected a multiple of the 2 processes' in error for _, error in ends)
