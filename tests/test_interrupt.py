"""Ctrl-C and SIGTERM: one line, and a training that goes on as if nothing had happened."""

import os
import signal
import sys
import time

import pytest
from conftest import in_child, train_args

from condnet.checkpoints.training import LAST, read_training_checkpoint
from condnet.cli.common import run
from condnet.cli.train import main
from condnet.training.step import TrainingStep
from tools.kill_training import differences, final_state, start

STEPS = 4  # of an epoch


def signalled(at, number):
    """Have this process send itself a signal in the middle of a step, counted from 0."""

    def prepare():
        step = TrainingStep.__call__

        def stepping(self, input, target):
            if self.task.step == at:
                os.kill(os.getpid(), number)
            return step(self, input, target)

        TrainingStep.__call__ = stepping

    return prepare


def status_of(process):
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


@pytest.fixture(scope='module')
def whole(tiny_data, tmp_path_factory):
    output = tmp_path_factory.mktemp('whole') / 'out'
    assert main(train_args(tiny_data, output, '--model-ema')) == 0
    return output


@pytest.mark.slow
@pytest.mark.parametrize(
    ('number', 'at', 'left'),
    [(signal.SIGINT, 1, (0, 2)), (signal.SIGTERM, STEPS + 2, (1, 3)), (signal.SIGTERM, 2 * STEPS - 1, (2, 0))],
    ids=['ctrl-c', 'term', 'last step of an epoch'],
)
def test_stopped_training_goes_on_to_the_same_end(whole, tiny_data, tmp_path, number, at, left):
    output, log = tmp_path / 'out', tmp_path / 'log'
    arguments = train_args(tiny_data, output, '--model-ema', '--checkpoint-seconds', '1000')
    assert status_of(start(arguments, log, signalled(at, number))) == 128 + number
    last_line = log.read_text().splitlines()[-1]
    assert last_line == (f'condnet-train: stopped by {number.name}: {output / LAST} is kept; the same command with '
                         f'--resume {output} goes on')  # fmt: skip
    assert 'Traceback' not in log.read_text()
    progress = read_training_checkpoint(output / LAST)['progress']
    assert (progress['epoch'], progress['batch']) == left
    assert main([*train_args(tiny_data, output, '--model-ema'), '--resume', str(output)]) == 0
    assert differences(final_state(whole), final_state(output)) == []


def test_training_that_was_continued_names_the_same_command(tiny_data, tmp_path):
    arguments = [*train_args(tiny_data, tmp_path / 'out'), '--resume', str(tmp_path / 'out')]
    assert status_of(start(arguments, tmp_path / 'log', signalled(1, signal.SIGINT))) == 130
    assert (tmp_path / 'log').read_text().splitlines()[-1].endswith(f'{LAST} is kept; the same command goes on')


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_any_command_ends_with_one_line(number, tmp_path):
    def command():
        os.kill(os.getpid(), number)
        time.sleep(60)

    assert in_child(lambda: run('condnet-search', command), stderr=tmp_path / 'log') == 128 + number
    assert (tmp_path / 'log').read_text() == (
        f'condnet-search: stopped by {number.name}: what was evaluated is kept in --storage, or in --output; the '
        'same command goes on with it\n'
    )


def test_signal_that_comes_in_a_finalizer_is_not_lost(tmp_path):
    class Finalized:
        def __del__(self):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0)  # here its handler raises, and Python prints what a finalizer raises, and goes on

    def command():
        Finalized()
        time.sleep(20)

    assert in_child(lambda: run('condnet-x', command), stderr=tmp_path / 'log') == 128 + signal.SIGTERM
    assert (tmp_path / 'log').read_text().splitlines()[0].startswith('condnet-x: stopped by SIGTERM')


def test_handlers_are_those_of_before():
    def handlers():
        return sys.unraisablehook, *(signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM))

    before = handlers()
    assert run('condnet-x', lambda: None) == 0
    assert handlers() == before
