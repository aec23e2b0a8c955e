"""What the commands refuse, and what they take for a fault of their own."""

import errno
import json
import logging
import os
import signal
from pathlib import Path

import pytest
import timm
import torch
from conftest import in_child, train_args
from PIL import Image

from condnet import CondnetError, get_space
from condnet.checkpoints.folder import save_model
from condnet.cli import hub, search, train, validate
from condnet.cli.common import run, with_flags
from condnet.data import load_images
from condnet.models.trial import check_forward
from condnet.plugins import import_modules
from condnet.searching.problem import Problem
from condnet.searching.storage import open_storage
from condnet.training.config import TrainConfig
from condnet.training.optimization import check_optimizer
from condnet.utils.files import check_folder_to_write
from condnet.utils.interrupt import Interrupted
from condnet.utils.settings import SettingError
from tools import minibench, readme_table


def failing(error):
    def command():
        raise error

    return command


@pytest.mark.parametrize(('command', 'argv', 'message'), [
    (train, ['--epoch', '3'], 'unrecognized arguments: --epoch 3; did you mean --epochs?'),
    (train, ['/data'], 'unrecognized arguments: /data; a directory of images goes with --data-dir'),
    (train, ['--epochs', 'x'], "argument --epochs: invalid int value: 'x'"),
    (validate, ['--checkpoint', 'x', '--calib-batch=3'], 'unrecognized arguments: --calib-batch=3; did you mean --c'),
    (search, [], 'the following arguments are required: checkpoint'),
    (hub, ['publish', 'x', 'y', '--colour'], 'unrecognized arguments: --colour'),
])  # fmt: skip
def test_flags_that_there_are_not_are_told_in_one_line(command, argv, message, capsys):
    with pytest.raises(SystemExit, match='^2$'):
        command.main(argv)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f'{command.make_parser().prog}: error: {message}')
    assert line.endswith('--help lists the flags)')


@pytest.mark.parametrize('error', [
    CondnetError('no data'),
    FileNotFoundError(errno.ENOENT, 'No such file', 'x.csv'),
    OSError(errno.ENOSPC, 'No space left on device'),
    OSError('cannot write x.csv'),
    ConnectionError('no contact'),
    torch.OutOfMemoryError('CUDA out of memory.\nTried to allocate 2 GiB'),
    RuntimeError('[enforce fail] DefaultCPUAllocator: not enough memory'),
    MemoryError('Unable to allocate 2 GiB'),
])  # fmt: skip
def test_what_the_user_can_act_on_is_one_line(error, capsys):
    assert run('condnet-x', failing(error)) == 2
    line = capsys.readouterr().err
    assert line == f'condnet-x: error: {" ".join(str(error).splitlines())}\n'


def test_commands_say_flags_where_the_library_names_settings(capsys):
    for error in (SettingError('max_flops', 'is 0; see `seed`'), CondnetError('`max_flops` is 0; see `seed`')):
        assert run('condnet-x', failing(error)) == 2
        assert capsys.readouterr().err == 'condnet-x: error: --max-flops is 0; see --seed\n'
    with pytest.raises(CondnetError, match='^max_flops is -1, expected more than 0'):
        Problem(get_space('macro'), limits={'flops': -1})
    assert with_flags('use `channels_last=False`') == 'use --no-channels-last'
    text = str(CondnetError('`git lfs pull` fetches it, says `X`'))
    assert with_flags(text) == text


@pytest.mark.parametrize(('refused', 'in_python', 'in_a_command'), [
    (lambda: TrainConfig(checkpoint_hist=2), 'checkpoint_hist does nothing without `eval_metric`',
     '--checkpoint-hist does nothing without --eval-metric'),
    (lambda: TrainConfig(lr=0.1, lr_base=0.1), 'lr_base is 0.1, and `lr` is 0.1: one of them says the rate',
     '--lr-base is 0.1, and --lr is 0.1: one of them says the rate'),
    (lambda: check_optimizer('adahessian'), '`opt` adahessian needs second derivatives',
     '--opt adahessian needs second derivatives'),
    (lambda: load_images('nowhere', train=True), 'expected one with a data set (`download` fetches CIFAR-10)',
     'expected one with a data set (--download fetches CIFAR-10)'),
    (lambda: import_modules(['my_spaec']), '`import` my_spaec: there is no module my_spaec',
     '--import my_spaec: there is no module my_spaec'),
], ids=['does nothing', 'two at once', 'optimizer', 'data', 'import'])  # fmt: skip
def test_messages_name_settings_in_python_and_flags_in_commands(refused, in_python, in_a_command, capsys):
    with pytest.raises(CondnetError) as raised:
        refused()
    assert in_python in str(raised.value) and '--' not in str(raised.value)
    assert run('condnet-x', refused) == 2
    assert in_a_command in (line := capsys.readouterr().err) and '`' not in line


def test_log_lines_name_settings_in_python_and_flags_in_commands(capsys, caplog, monkeypatch):
    def command():
        for name, text in (('condnet.training.build', '`opt` is %s'), ('wandb', '`opt` of another package')):
            logging.getLogger(name).warning(text, *(['adam'] if '%' in text else ()))
        logging.getLogger('condnet.training.run').info('goes on with `resume`')

    root, level = logging.getLogger(), logging.getLogger().level
    caplog.set_level(logging.INFO)
    run('condnet-x', command)  # of a caller whose logging is left alone
    assert caplog.messages == ['`opt` is adam', '`opt` of another package', 'goes on with `resume`']
    monkeypatch.setattr(root, 'handlers', [])
    try:
        run('condnet-x', command)
    finally:
        root.setLevel(level)
    lines = ['WARNING: --opt is adam', 'WARNING: `opt` of another package', 'goes on with --resume']
    assert capsys.readouterr().err.splitlines() == lines


def test_what_a_signal_leaves_is_said_with_flags(capsys):
    stop = Interrupted(signal.SIGTERM, 'x is kept; the same command with `resume` x goes on')
    assert run('condnet-x', failing(stop)) == 128 + signal.SIGTERM
    assert capsys.readouterr().err.endswith(': x is kept; the same command with --resume x goes on\n')


@pytest.mark.parametrize('error', [
    ValueError('too many values to unpack'),
    KeyError('x'),
    RuntimeError('The size of tensor a (15) must match the size of tensor b (16)'),
    OSError(errno.EBADF, 'Bad file descriptor'),
    BlockingIOError(errno.EAGAIN, 'Resource temporarily unavailable'),
])  # fmt: skip
def test_anything_else_is_a_fault_of_the_program(error):
    with pytest.raises(type(error)) as raised:
        run('condnet-x', failing(error))
    assert raised.value is error


@pytest.mark.skipif(not Path('/dev/full').exists(), reason='needs a device that is always full')
def test_output_that_cannot_be_written(tmp_path):
    """Python itself would say so at exit, in several lines."""
    log = tmp_path / 'log'
    assert in_child(lambda: run('x', lambda: print('result')), stdout=Path('/dev/full'), stderr=log) == 2
    assert log.read_text() == 'x: error: [Errno 28] No space left on device\n'


@pytest.fixture
def refuse(capsys, tmp_path):
    """Run a command and expect one line, and nothing in the folder for its files."""

    def run_main(main, *args):
        before = sorted(tmp_path.rglob('*'))
        assert main(list(map(str, args))) == 2
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert ': error: ' in error and sorted(tmp_path.rglob('*')) == before
        return error.partition(': error: ')[2]

    return run_main


def test_numbers_that_are_none(tiny_data, tmp_path, refuse):
    arguments = train_args(tiny_data, tmp_path / 'out')
    for name in ('num-classes', 'batch-size', 'epochs', 'eval-images'):
        assert refuse(train.main, *arguments, f'--{name}', '0') == f'--{name} is 0, expected at least 1'
    for name in ('lr', 'min-lr', 'weight-decay', 'momentum', 'model-ema-decay'):
        for value in ('-1', 'nan', 'inf'):
            assert f'--{name} is {float(value)}, expected at least 0' in refuse(
                train.main, *arguments, f'--{name}', value
            )
    for name in ('momentum', 'model-ema-decay'):
        assert 'and less than 1' in refuse(train.main, *arguments, f'--{name}', '1')
    for name in ('eval-interval', 'workers', 'seed', 'recovery-interval'):
        assert refuse(train.main, *arguments, f'--{name}', '-1') == f'--{name} is -1, expected at least 0'
    assert 'and less than' in refuse(train.main, *arguments, '--seed', 2**63)
    assert 'expected at least 1' in refuse(train.main, *arguments, '--input-size', '3', '0', '32')
    assert 'expected at least 1' in refuse(train.main, *arguments, '--keep-epochs', '2', '-1')
    ranking = ('--checkpoint', 'x', '--results-file', tmp_path / 'r.csv')
    assert '--memory is inf' in refuse(validate.main, *ranking, '--memory', 'inf')
    for value in ('²', '1' * 5000, '-1'):
        assert "expected a number or 'all'" in refuse(validate.main, *ranking, '--num-archs', value)
    assert '--workers is 0' in refuse(minibench.main, '--output', tmp_path / 't.csv', '--workers', '0')
    assert '--seed is -1' in refuse(search.main, 'x', '--output', tmp_path / 'out', '--seed', '-1')


def test_output_that_is_none(tiny_data, tmp_path, refuse):
    (tmp_path / 'file').write_text('mine')
    for folder in (tmp_path / 'file', tmp_path / 'file' / 'a' / 'b'):
        assert 'is not a directory' in refuse(train.main, *train_args(tiny_data, folder))
        assert 'is not a directory' in refuse(search.main, 'x', '--output', folder)
        assert 'is not a directory' in refuse(validate.main, '--checkpoint', 'x', '--results-file', folder / 'r.csv')
    (tmp_path / 'folder.csv').mkdir()
    assert 'the name of a file' in refuse(validate.main, '--checkpoint', 'x', '--results-file', tmp_path / 'folder.csv')


def test_folder_without_permission(tmp_path, monkeypatch):
    monkeypatch.setattr(os, 'access', lambda path, mode: False)
    with pytest.raises(CondnetError, match=f'no permission to write to {tmp_path}$'):
        check_folder_to_write(tmp_path / 'a' / 'b')


def shrunk(data, folder, size):
    """The same data set in another size."""
    for path in data.rglob('*.png'):
        target = folder / path.relative_to(data)
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.open(path).resize(size).save(target)
    return folder


def test_images_that_the_model_cannot_take(tiny_data, tmp_path, refuse):
    data = shrunk(tiny_data, tmp_path / 'data', (30, 30))
    assert 'expected (B, 3, H, W), H and W multiples of 4' in refuse(train.main, *train_args(data, tmp_path / 'out'))
    model = timm.create_model(
        'nb201_cond_supernet', cells_per_stage=1, pretrained_cfg_overlay={'input_size': (3, 30, 30)}
    )
    save_model(model, tmp_path / 'model', {'data_name': 'other'})
    ranking = ('--checkpoint', tmp_path / 'model', '--data-dir', data, '--results-file', tmp_path / 'r.csv')
    assert 'multiples of 4' in refuse(validate.main, *ranking)


def test_model_is_left_as_it_is_by_the_check_of_its_input():
    model = timm.create_model('macro_cond_supernet', num_classes=3)
    before, state = {k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state()
    statistics = model.statistics
    check_forward(model, (3, 12, 12), 2, torch.device('cpu'))
    with pytest.raises(CondnetError, match='cannot take 2 images of size 1x12x12'):
        check_forward(model, (1, 12, 12), 2, torch.device('cpu'))
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state) and model.statistics == statistics


def test_images_of_a_wrong_shape_are_named():
    for name, multiple in (('nb201_net', ', H and W multiples of 4'), ('macro_net', '')):
        model = timm.create_model(name, in_chans=3).eval()
        with pytest.raises(CondnetError) as error:
            model(torch.zeros(2, 1, 32, 32))
        assert str(error.value) == f'images are of shape (2, 1, 32, 32), expected (B, 3, H, W){multiple}'
        assert model(torch.zeros(2, 3, 12, 20)).shape == (2, 10)
        assert model(x=torch.zeros(2, 3, 12, 20)).shape == (2, 10)


@pytest.mark.parametrize('setting', ['channels=(0,8,8)', 'channels=8', 'cells_per_stage=x', 'linear_skip=no',
                                     'global_pool=foo', 'foo=1', 'device=foo'])  # fmt: skip
def test_arguments_that_the_model_does_not_take(setting, tiny_data, tmp_path, refuse):
    arguments = train_args(tiny_data, tmp_path / 'out')
    start = arguments.index('--model-kwargs')
    error = refuse(train.main, *arguments[:start], *arguments[start + 4 :], '--model-kwargs', setting)
    assert error.startswith(
        ('cannot build the model', 'the model cannot take', 'cells_per_', 'channels are', 'linear_skip is', 'global_')
    )


def test_journals_that_are_none(tmp_path):
    """A device has no end, and a folder no lines; nothing is left beside what is not a journal."""
    (tmp_path / 'note').write_text('mine')
    for storage in ('/dev/full', '/dev/zero', tmp_path, tmp_path / 'note'):
        if Path(storage).exists():
            with pytest.raises(CondnetError, match='expected a journal of Optuna|no journal of Optuna'):
                open_storage(str(storage))
    with pytest.raises(CondnetError, match='cannot open the database'):
        open_storage('postgresql://user@host:port/name')
    assert [path.name for path in tmp_path.iterdir()] == ['note']


def test_results_that_are_none(tmp_path, refuse):
    readme = tmp_path / 'README.md'
    readme.write_text(f'{readme_table.TABLE_START}\nkeep\n{readme_table.TABLE_END}')
    arguments = ('--readme', readme, '--results', tmp_path / 'results')
    assert 'holds no summary' in refuse(readme_table.main, *arguments)
    (tmp_path / 'results').mkdir()
    for content in (b'[]', b'\xff', json.dumps({'accuracy': {}, 'training': {}}).encode()):
        (tmp_path / 'results' / 'a.json').write_bytes(content)
        assert 'a.json' in refuse(readme_table.main, *arguments)
    assert 'keep' in readme.read_text()


def test_a_data_set_without_its_directory(capsys):
    for name, hint in (('glyph', 'where it is, or is it glyphs?'), ('cifar10', 'where it is')):
        assert train.main(['--model', 'nb201_cond_supernet', '--dataset', name]) == 2
        line = f"condnet-train: error: --dataset is '{name}', one of timm's, which needs --data-dir, {hint}\n"
        assert capsys.readouterr().err == line
