"""TensorBoard and Weights & Biases: what they are told; their packages are not needed for it."""

import sys
import types

import pytest
import torch
from conftest import train_args

from condnet import CondnetError
from condnet.cli.train import main

FLAGS = {'--tensorboard': 'torch.utils.tensorboard', '--log-wandb': 'wandb'}


class Recorded:
    """Stands in for a writer, or a run: notes what is called."""

    def __init__(self, *args, **kwargs):
        self.calls, self.id = [('open', args, kwargs)], kwargs.get('id', 'new')

    def __getattr__(self, name):
        return lambda *args, **kwargs: self.calls.append((name, args, kwargs))

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        self.calls.append(('close', kind, {}))


@pytest.fixture
def made(monkeypatch):
    """The writers and runs that are made."""
    made = []

    def make(*args, **kwargs):
        made.append(Recorded(*args, **kwargs))
        return made[-1]

    board, wandb = types.ModuleType('torch.utils.tensorboard'), types.ModuleType('wandb')
    board.SummaryWriter, wandb.init, wandb.Error = make, make, type('Error', (Exception,), {})
    monkeypatch.setitem(sys.modules, 'torch.utils.tensorboard', board)
    monkeypatch.setattr(torch.utils, 'tensorboard', board, raising=False)
    monkeypatch.setitem(sys.modules, 'wandb', wandb)
    return made


def test_what_they_are_told(made, tiny_data, tmp_path):
    """After a resume, too; an epoch without validation has no zeros."""
    more = (*FLAGS, '--experiment', 'x', '--eval-interval', '2', '--eval-archs', '1')
    assert main(train_args(tiny_data, tmp_path, *more, '--stop-epoch', '1')) == 0
    assert main(train_args(tiny_data, tmp_path, *more, '--stop-epoch', '2', '--resume', str(tmp_path / 'x'))) == 0
    assert [one.calls[0][1] for one in made] == [(str(tmp_path / 'x'),), ()] * 2
    assert [one.calls[0][2].get('purge_step') for one in made] == [0, None, 1, None]
    run = made[1].calls[0][2]
    assert (run['name'], run['dir'], run['config']['lr']) == ('x', str(tmp_path / 'x'), 0.025)
    again = made[3].calls[0][2]
    assert 'id' not in run and (again['id'], again['resume']) == ('new', 'allow')
    assert [one.calls[-1] for one in made] == [('close', None, {}), ('finish', (0,), {})] * 2
    for epoch, (writer, run) in enumerate((made[:2], made[2:])):
        scalars = {args[0]: args[1] for name, args, _ in writer.calls if name == 'add_scalar'}
        assert {args[2] for name, args, _ in writer.calls if name == 'add_scalar'} == {epoch}
        (logged,) = (call for call in run.calls if call[0] == 'log')
        assert logged[1][0] == scalars | {'epoch': epoch} and logged[2] == {'step': epoch}
        assert scalars.keys() >= {'train_loss', 'lr'} and ('eval_accuracy' in scalars) == (epoch == 1)
        assert scalars['train_loss'] > 1


@pytest.mark.parametrize('flag', FLAGS)
@pytest.mark.parametrize('is_folder', [False, True])
def test_a_missing_package_is_said_before_anything_is_written(
    tiny_data, tmp_path, monkeypatch, capsys, flag, is_folder
):
    """Also where a folder has its name."""
    monkeypatch.setitem(sys.modules, FLAGS[flag], types.ModuleType('x') if is_folder else None)
    assert main(train_args(tiny_data, tmp_path / 'out', flag)) == 2
    extra = FLAGS[flag].rpartition('.')[2]
    error = f"condnet-train: error: {flag} needs the package {extra}: pip install 'condnet[{extra}]'"
    assert capsys.readouterr().err.strip().splitlines()[-1] == error
    assert not list(tmp_path.iterdir())


def test_what_wandb_refuses_is_one_line(made, tiny_data, tmp_path, monkeypatch, capsys):
    def refuse(**kwargs):
        raise sys.modules['wandb'].Error('No API key configured.\n  Use `wandb login`.')

    monkeypatch.setattr(sys.modules['wandb'], 'init', refuse)
    assert main(train_args(tiny_data, tmp_path / 'out', '--log-wandb')) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error == 'condnet-train: error: --log-wandb: No API key configured. Use `wandb login`.'


def test_a_new_training_in_the_folder_is_a_new_run(made, tiny_data, tmp_path):
    (tmp_path / 'x').mkdir()
    (tmp_path / 'x' / 'wandb-run-id.txt').write_text('of another training')
    arguments = train_args(
        tiny_data, tmp_path / 'x', '--log-wandb', '--stop-epoch', '1', '--resume', str(tmp_path / 'x')
    )
    assert main(arguments) == 0
    assert 'id' not in made[0].calls[0][2] and (tmp_path / 'x' / 'wandb-run-id.txt').read_text() == 'new\n'


def test_they_end_with_a_training_that_fails(made, tiny_data, tmp_path):
    assert main(train_args(tiny_data, tmp_path / 'out', *FLAGS, '--lr', '1e14')) == 2
    assert [one.calls[-1][:2] for one in made] == [('close', CondnetError), ('finish', (1,))]
