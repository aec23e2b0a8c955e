"""Trainings that begin with the weights of another one."""

import pytest
import torch
from conftest import ONLY_CONV, train_args
from small import tiny_folder  # noqa: F401  # its images are smaller ones

from condnet.checkpoints.folder import save_model
from condnet.checkpoints.loading import load_model, training_of
from condnet.checkpoints.training import LAST, read_training_checkpoint
from condnet.cli.train import main
from tools.kill_training import die_at, differences, final_state, start, wait

LETTERS = 'nb201_cond_supernet.cond_glyphs'  # split, of one channel and 26 classes


@pytest.fixture(scope='module')
def split_run(tiny_data, tmp_path_factory):
    """A training that ends with a split super-network."""
    output = tmp_path_factory.mktemp('split') / 'out'
    assert main(train_args(tiny_data, output, *ONLY_CONV)) == 0
    return output


def fine_tune(data, output, checkpoint, *more):
    more = ('--initial-checkpoint', str(checkpoint), '--split-epoch', '0', '--epochs', '2', *ONLY_CONV, *more)
    return train_args(data, output, *more)


def training_before(arguments, monkeypatch):
    """A training as it is before its first step."""
    found = []
    monkeypatch.setattr('condnet.training.run.train_epochs', lambda training, *_: found.append(training) or _[1])
    assert main(arguments) == 0
    monkeypatch.undo()
    return found[0]


def weights_before(arguments, monkeypatch):
    """Its model."""
    return training_before(arguments, monkeypatch).step.task.model


@pytest.mark.slow
def test_a_split_one_is_trained_on_and_resumed_exactly(split_run, tiny_data, tmp_path):
    more = ('--model-ema', '--recovery-interval', '1')
    checkpoint = split_run / LAST
    assert main(fine_tune(tiny_data, tmp_path / 'whole', checkpoint, *more)) == 0
    killed = fine_tune(tiny_data, tmp_path / 'out', tmp_path / 'copy.pth.tar', *more)
    (tmp_path / 'copy.pth.tar').write_bytes(checkpoint.read_bytes())
    assert wait(start(killed, tmp_path / 'log', lambda: die_at('checkpoint', 6)))
    (tmp_path / 'copy.pth.tar').unlink()  # what it goes on from has all weights
    assert main([*killed, '--resume', str(tmp_path / 'out')]) == 0
    assert differences(final_state(tmp_path / 'whole'), final_state(tmp_path / 'out')) == []
    model, before = load_model(tmp_path / 'out' / LAST), load_model(checkpoint)
    assert model.is_split
    changed = [not torch.equal(a, b) for a, b in zip(model.parameters(), before.parameters(), strict=True)]
    assert any(changed) and not all(changed)
    optimizer = read_training_checkpoint(tmp_path / 'out' / LAST)['optimizer']
    assert sum(len(group['params']) for group in optimizer['param_groups']) == len(changed)
    assert training_of(tmp_path / 'out' / LAST)['initial_checkpoint'] == str(tmp_path / 'copy.pth.tar')


@pytest.mark.slow
def test_what_was_trained_before_is_not_called_untrained(split_run, tiny_data, tmp_path, monkeypatch, caplog):
    """Only what no training since the split has trained is, after a resume, too."""
    before = {tuple(choice) for choice in training_of(split_run / LAST)['untrained']}
    more = ('--eval-interval', '0', '--stop-epoch')
    arguments = fine_tune(tiny_data, tmp_path / 'out', split_run / LAST, *more)
    assert main([*arguments, '1']) == 0 and main([*arguments, '2', '--resume', str(tmp_path / 'out')]) == 0
    state = read_training_checkpoint(tmp_path / 'out' / LAST)['task_state']
    assert before and {tuple(choice) for choice in state['untrained']} == before - set(state['counts_since_split'])
    assert f'{len(state["untrained"])} weight sets have not been trained since the split' in caplog.messages[-1]
    published = ['--dataset', 'glyphs', '--model', LETTERS, '--pretrained', '--output', str(tmp_path / 'letters')]
    assert training_before(published, monkeypatch).step.task.untrained() == []


@pytest.mark.parametrize('kind', ['checkpoint', 'folder'])
def test_it_begins_with_the_weights(split_run, tiny_data, tmp_path, monkeypatch, kind):
    checkpoint = split_run / LAST
    if kind == 'folder':
        save_model(load_model(checkpoint), checkpoint := tmp_path / 'model', half=False)
    model = weights_before(fine_tune(tiny_data, tmp_path / 'out', checkpoint), monkeypatch)
    assert differences(dict(model.state_dict()), dict(load_model(split_run / LAST).state_dict())) == []


@pytest.mark.parametrize('is_letters', [True, False])
def test_published_weights_for_other_classes_and_channels(tiny_data, tmp_path, monkeypatch, caplog, is_letters):
    if is_letters:
        arguments = ['--dataset', 'glyphs', '--num-classes', '30', '--model', LETTERS, '--pretrained']
    else:
        arguments = ['--data-dir', str(tiny_data), '--initial-checkpoint', LETTERS, '--batch-size', '64',
                     '--eval-interval', '0', '--model-kwargs', 'cells_per_stage=1', 'channels=(8,16,24)']  # fmt: skip
    caplog.set_level('INFO')
    model, published = weights_before([*arguments, '--output', str(tmp_path / 'out')], monkeypatch), load_model(LETTERS)
    assert model.is_split and model.num_classes == (30 if is_letters else 10)
    own, found = dict(model.state_dict()), dict(published.state_dict())
    adapted = {'head.weight', 'head.bias', 'stem.conv.weight'}
    assert {key for key in own if own[key].shape != found[key].shape} <= adapted
    assert all(torch.equal(own[key], found[key]) for key in own.keys() - adapted)
    assert f'split, with a new classifier for {model.num_classes} instead of 26 classes' in caplog.text


def test_the_winner_of_a_search(split_run, tiny_data, tmp_path, monkeypatch):
    """A stand-alone network, from what it has inherited."""
    supernet = load_model(split_run / LAST)
    supernet.set_active_subnet((3, 2, 3, 2, 3, 2))
    supernet.set_calibrated_subnet(supernet.active_subnet)
    winner = supernet.get_active_subnet()
    save_model(winner, tmp_path / 'winner', half=False)
    kwargs = ('arch=(3,2,3,2,3,2)', 'affine=False', 'linear_skip=True', 'cells_per_stage=1', 'channels=(8,8,8)')
    more = ('--model', 'nb201_net', '--model-kwargs', *kwargs)
    arguments = fine_tune(tiny_data, tmp_path / 'out', tmp_path / 'winner', *more)
    model = weights_before(arguments, monkeypatch)
    assert differences(dict(model.state_dict()), dict(winner.state_dict())) == []
    more = ('--epochs', '1', '--batch-size', '64', '--eval-interval', '0', '--model', f'local-dir:{tmp_path}/winner')
    by_name = ['--data-dir', str(tiny_data), '--output', str(tmp_path / 'other'), '--pretrained', *more]
    assert differences(dict(weights_before(by_name, monkeypatch).state_dict()), dict(winner.state_dict())) == []
    assert main(by_name) == 0
    assert load_model(tmp_path / 'other' / LAST).arch == winner.arch


@pytest.mark.parametrize(
    ('more', 'message'),
    [
        (['--initial-checkpoint', LETTERS], 'they are of --model-kwargs'),
        (['--initial-checkpoint', 'nowhere'], 'nowhere'),
        (['--pretrained'], '--pretrained needs the tag of the weights: --model nb201_cond_supernet.'),
        (['--pretrained', '--initial-checkpoint', 'x'], '--pretrained does not go with --initial-checkpoint'),
    ],
)
def test_refused(tiny_data, tmp_path, capsys, more, message):
    assert main(train_args(tiny_data, tmp_path / 'out', '--split-epoch', '0', *more)) == 2
    assert message in capsys.readouterr().err.strip().splitlines()[-1]
    assert not (tmp_path / 'out').exists()


def test_a_split_one_is_not_split_again(split_run, tiny_data, tmp_path, capsys):
    arguments = train_args(tiny_data, tmp_path / 'out', *ONLY_CONV, '--initial-checkpoint', str(split_run / LAST))
    assert main(arguments) == 2
    assert 'is split from the start: use --split-epoch 0' in capsys.readouterr().err
