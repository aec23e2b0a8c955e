"""The checkpoints of the best epochs, and the folder of an experiment."""

import math
import shutil

import pytest
import torch
from conftest import train_args
from small import CONVS, tiny_folder  # noqa: F401  # its images are smaller ones

import condnet
from condnet import CondnetError, TrainConfig
from condnet.checkpoints.training import LAST, PREVIOUS, read_training_checkpoint
from condnet.cli.train import main
from condnet.cli.validate import main as validate
from condnet.training.best import BEST, best_epochs
from tools.kill_training import die_at, differences, final_state, start, wait

BY_LOSS = (*CONVS, '--eval-metric', 'loss', '--checkpoint-hist', '2', '--eval-archs', '1')


def rows(*losses):
    return [{'epoch': i, 'eval_loss': loss, 'eval_accuracy': loss if loss is None else -loss}
            for i, loss in enumerate(losses)]  # fmt: skip


@pytest.mark.parametrize('metric', ['loss', 'accuracy'])
@pytest.mark.parametrize(
    ('losses', 'settings', 'expected'),
    [
        ((3.0, 2.0, 2.5), {}, [1]),
        ((3.0, 2.0, 2.5, 2.0), {'checkpoint_hist': 3}, [1, 3, 2]),  # of equally good ones the earlier, as in timm
        ((None, 2.0, None, 1.0), {'checkpoint_hist': 3}, [3, 1]),
        ((math.nan, 9.0, math.inf), {'checkpoint_hist': 3}, [1, 0, 2]),
        ((3.0, 1.0, 2.0), {'split_epoch': 2, 'checkpoint_hist': 2}, [2, 1]),  # split ones first
        ((None,), {}, []),
    ],
)
def test_which_epochs_are_the_best(metric, losses, settings, expected):
    assert best_epochs(rows(*losses), TrainConfig(eval_metric=metric, **settings)) == expected
    assert best_epochs(rows(*losses), TrainConfig()) == []


def checkpoints(folder):
    """Epochs of the checkpoints of the best epochs, by name."""
    return {path.name: read_training_checkpoint(path)['epoch'] for path in folder.glob('*.pth.tar')
            if path.name not in (LAST, PREVIOUS)}  # fmt: skip


def expected_of(folder, **settings):
    """What is to be there, by the history alone."""
    history = read_training_checkpoint(folder / LAST)['progress']['summary']
    best = best_epochs(history, TrainConfig(**settings))
    return {f'checkpoint-{epoch}.pth.tar': epoch for epoch in best} | {BEST: best[0]}


@pytest.fixture(scope='module')
def whole(tiny_data, tmp_path_factory):
    """Of its epochs only those are written that have to be."""
    output = tmp_path_factory.mktemp('whole') / 'out'
    assert main(train_args(tiny_data, output, *BY_LOSS, '--checkpoint-seconds', '1000')) == 0
    return output


def test_best_epochs_are_kept(whole, tiny_data, tmp_path):
    found = checkpoints(whole)
    assert found == expected_of(whole, eval_metric='loss', checkpoint_hist=2, split_epoch=2) and len(found) == 3
    numbered = whole / f'checkpoint-{found[BEST]}.pth.tar'
    assert (whole / BEST).read_bytes() == numbered.read_bytes()
    more = ['--archs', '(3, 3, 3, 3, 3, 3)', '--calib-batches', '1', '--eval-images', '10']
    arguments = ['--checkpoint', str(whole / BEST), '--data-dir', str(tiny_data), *more]
    assert validate([*arguments, '--results-file', str(tmp_path / 'ranking.csv')]) == 0


@pytest.mark.parametrize('is_best', [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_best_checkpoint_goes_on_elsewhere(whole, tiny_data, tmp_path, caplog, is_best):
    """And is the best one there, too; one that was not is none."""
    best = checkpoints(whole)[BEST]
    source = whole / BEST if is_best else whole / f'checkpoint-{5 - best}.pth.tar'  # of the two after the split
    read = read_training_checkpoint(source)
    stop = str(read['epoch'] + 1)
    resume = (*CONVS, '--eval-metric', 'loss', '--eval-archs', '1', '--resume', str(source), '--stop-epoch', stop)
    assert main(train_args(tiny_data, tmp_path / 'out', *resume)) == 0
    if best_epochs(read['progress']['summary'], TrainConfig(eval_metric='loss', split_epoch=2)) == [read['epoch']]:
        assert (tmp_path / 'out' / BEST).read_bytes() == source.read_bytes()
    else:
        assert not is_best and not (tmp_path / 'out' / BEST).exists()
        assert f'the best epoch so far is {best}, of which there is no checkpoint' in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize('kill', [('model_best.pth.tar', 1), ('checkpoint', 7), ('checkpoint-3.pth.tar', 1)])
def test_killed_trainings_end_with_the_same(whole, tiny_data, tmp_path, kill):
    """While a best checkpoint is written, and in mid-epoch."""
    output = tmp_path / 'out'
    killed = train_args(tiny_data, output, *BY_LOSS, '--recovery-interval', '2')
    assert wait(start(killed, tmp_path / 'log', lambda: die_at(*kill)))
    assert wait(start([*killed, '--resume', str(output)], tmp_path / 'log')) is False
    assert differences(final_state(whole), final_state(output)) == []
    for name in checkpoints(whole):
        ends = [read_training_checkpoint(folder / name) for folder in (whole, output)]
        assert all(torch.equal(value, ends[1]['state_dict'][key]) for key, value in ends[0]['state_dict'].items())


def test_a_best_checkpoint_of_another_epoch_is_removed(whole, tiny_data, tmp_path, caplog):
    """As after a damaged last checkpoint; what can be made again is."""
    output, best = shutil.copytree(whole, tmp_path / 'out'), checkpoints(whole)[BEST]
    resumed = [*train_args(tiny_data, output, *BY_LOSS), '--resume', str(output)]
    (other,) = (path for path in whole.glob('checkpoint-*') if path.name != f'checkpoint-{best}.pth.tar')
    shutil.copy(other, output / BEST)
    assert main(resumed) == 0
    if best == 3:  # it is in the last checkpoint
        assert checkpoints(output) == checkpoints(whole)
    else:
        assert BEST not in checkpoints(output) and f'the best epoch so far is {best}, of which there is' in caplog.text


@pytest.mark.parametrize(
    ('more', 'message'),
    [
        (['--eval-metric', 'loss', '--eval-interval', '0'], '--eval-metric does nothing with --eval-interval 0'),
        (['--checkpoint-hist', '2'], '--checkpoint-hist does nothing without --eval-metric'),
        *[
            (['--experiment', name], f'--experiment is {name!r}, expected the name of a folder in --output')
            for name in ('..', '.', 'a/b', '/tmp', '..\\b')
        ],
    ],
)
def test_refused(tiny_data, tmp_path, capsys, more, message):
    assert main(train_args(tiny_data, tmp_path / 'out', *more)) == 2
    assert message in capsys.readouterr().err.strip().splitlines()[-1]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('settings', [{'eval_metric': 'loss'}, {'experiment': 'a'}])
def test_there_must_be_a_folder(settings):
    with pytest.raises(CondnetError, match=f'{next(iter(settings))} is .*, and there is no folder .*: set `output`'):
        condnet.train(TrainConfig(dataset='glyphs', **settings))


def test_an_experiment_has_a_folder_of_its_own(tiny_data, tmp_path, capsys, caplog):
    caplog.set_level('INFO')
    more = (*CONVS, '--experiment', 'a b', '--eval-interval', '0')
    arguments, folder = train_args(tiny_data, tmp_path, *more), tmp_path / 'a b'
    resumed = [*arguments, '--resume', str(folder)]
    assert main([*resumed, '--stop-epoch', '1']) == 0  # started: there is none yet
    assert f'there is no checkpoint in {folder} yet' in caplog.text
    assert {path.name for path in tmp_path.iterdir()} == {'a b'}
    assert {'.lock', LAST, 'args.yaml', 'summary.csv', 'counts.csv'} == {path.name for path in folder.iterdir()}
    assert main([*arguments, '--stop-epoch', '1']) == 2
    assert f'{folder} holds a training; continue it with --resume {folder}' in capsys.readouterr().err
    assert main([*resumed, '--stop-epoch', '2']) == 0
    assert read_training_checkpoint(folder / LAST)['epoch'] == 1
