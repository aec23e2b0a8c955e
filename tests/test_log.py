"""What the log of a training says."""

import fcntl
import io
import os
import re
import struct
import termios
from types import SimpleNamespace

import pytest
import torch
from conftest import train_args

from condnet.cli.train import main
from condnet.training.config import TrainConfig
from condnet.training.log import LogLines, describe_epoch, describe_seconds, epoch_bar
from condnet.training.loop import Epoch
from condnet.training.progress import Progress

ROW = {'epoch': 0, 'train_loss': 3.25, 'train_images_per_second': 320.4, 'eval_loss': 1 / 3, 'eval_accuracy': 61.23456,
       'eval_seconds': 2.0, 'lr': 0.0250001}  # fmt: skip


def test_checkpoints_of_before_say_nothing_in_another_way():
    assert Progress(summary=[{'epoch': 0, 'eval_loss': ''}]).summary == [{'epoch': 0, 'eval_loss': None}]


def test_a_line_is_of_what_came_since_the_last_one():
    """And not of what came before an interruption."""
    progress = Progress(epoch=1, batch=2, loss=2000.0, images=200, seconds=100.0, summary=[ROW])
    log = LogLines(progress, num_batches=10, epochs=3)
    progress.batch, progress.loss, progress.images, progress.seconds = 4, 2400.0, 400, 101.0
    assert log.line(progress) == 'epoch 1 [4/10] loss 2.0000 200 images/s, 0:12 left'  # 16 of 0.5 s, two checks of 2 s
    progress.batch, progress.loss, progress.images, progress.seconds = 5, 2500.0, 500, 101.5
    assert log.line(progress).startswith('epoch 1 [5/10] loss 1.0000 200 images/s, ')


def test_the_time_left_is_that_until_a_training_stops():
    step = SimpleNamespace(task=SimpleNamespace(device=torch.device('cpu')))
    for stop, epochs in ((0, 4), (3, 3)):
        assert Epoch(step, Progress(), TrainConfig(epochs=4, stop_epoch=stop), 10).log.epochs == epochs


@pytest.mark.parametrize(('seconds', 'text'), [(0.4, '0:00'), (75, '1:15'), (3600, '1 h 00 min'), (9000, '2 h 30 min')])
def test_durations(seconds, text):
    assert describe_seconds(seconds) == text


def test_an_epoch_is_a_line_to_read():
    line = ('epoch 0 done, of 4: training loss 3.2500, validation loss 0.3333, accuracy 61.23%, 320 images/s, '
            'learning rate 0.025')  # fmt: skip
    assert describe_epoch(ROW, 4) == line
    assert 'validation' not in describe_epoch({**ROW, 'eval_loss': None, 'eval_accuracy': None}, 4)


def test_log_of_a_training(tiny_data, tmp_path, caplog):
    caplog.set_level('INFO')
    arguments = train_args(tiny_data, tmp_path / 'out', '--eval-archs', '1')
    assert main([*arguments, '--stop-epoch', '1']) == 0
    header = next(text for text in caplog.messages if text.startswith('nb201_cond_supernet, '))
    assert ('parameters; cifar10, 270 images and 30 withheld, 10 classes, 3x32x32; 4 epochs, split after 2, batches of '
            '64, momentum with learning rate 0.025 (cosine); ') in header  # fmt: skip
    assert not any('resumed' in text for text in caplog.messages)
    caplog.clear()
    assert main([*arguments, '--resume', str(tmp_path / 'out'), '--stop-epoch', '3']) == 0
    assert f'resumed from {tmp_path / "out" / "last.pth.tar"}: goes on with epoch 1' in caplog.messages
    split = next(text for text in caplog.messages if text.startswith('split after epoch 2: '))
    assert re.fullmatch(r'split after epoch 2: 36 weight sets become \d+, [\d,]+ parameters', split)
    assert [text[:7] for text in caplog.messages if ' done, of 4: training loss ' in text] == ['epoch 1', 'epoch 2']


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_bar_on_a_terminal(tiny_data, tmp_path, caplog, monkeypatch):
    """In the place of the lines in the log; those of the split and of the epochs stay."""
    caplog.set_level('INFO')
    monkeypatch.setattr('sys.stderr', terminal := Terminal())
    assert main(train_args(tiny_data, tmp_path, '--stop-epoch', '3', '--eval-interval', '0')) == 0
    drawn = re.split(r'[\r\n]', terminal.getvalue())
    number = r'loss \d\.\d{4} \d+ images/s, \d+:\d\d left'
    for epoch in range(3):
        shown = [line for line in drawn if line.startswith(f'epoch {epoch}: ')]
        first = rf'epoch {epoch}: +25%\|.*\| 1/4, rate 0\.\d+, {number} *'
        assert any(re.fullmatch(first, line) for line in shown), shown
        assert re.fullmatch(rf'epoch {epoch}: +100%\|.*\| 4/4, rate 0\.\d+, {number} *', shown[-1])
    assert any(text.startswith('split after epoch 2: ') for text in caplog.messages)
    assert sum(' done, of 4: ' in text for text in caplog.messages) == 3
    assert not any(re.search(number, text) for text in caplog.messages)


@pytest.mark.parametrize('columns', [0, 80])
def test_a_terminal_without_a_width_has_lines(monkeypatch, columns):
    side, terminal = os.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack('HHHH', 24, columns, 0, 0))
    with open(side, 'rb'), open(terminal, 'w') as stderr:
        monkeypatch.setattr('sys.stderr', stderr)
        with epoch_bar(Progress(), 4, is_first=True) as bar:
            assert bar.disable == (columns == 0)
        monkeypatch.undo()
