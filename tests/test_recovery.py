"""Trainings that are killed, lose a file, run out of disk or diverge."""

import csv
import random
import resource
import shutil
import zipfile
from collections import Counter

import pytest
import torch
from conftest import SMALL, make_training, random_batch, train_args, train_step
from small import CONVS, tiny_folder  # noqa: F401  # its images are smaller ones

from condnet.checkpoints.folder import save_model
from condnet.checkpoints.loading import load_model, training_of
from condnet.checkpoints.training import LAST, PREVIOUS, find_training_checkpoint, read_training_checkpoint
from condnet.cli.train import main
from condnet.cli.validate import main as validate
from condnet.data import Images, InMemoryLoader
from condnet.models.counts import choices_of, describe_untrained, untrained_choices
from condnet.ranking.evaluate import EvaluationData
from condnet.spaces.registry import get_space
from condnet.training.build import create_training
from condnet.training.config import TrainConfig
from condnet.training.loop import check_losses, evaluate_fixed_archs, train_one_epoch
from condnet.training.progress import Progress
from condnet.training.step import TrainingStep
from condnet.training.task import archs_of_step
from tools.kill_training import die_at, differences, final_state, seconds_of_children, start, wait

RECOVERY = (
    *CONVS,
    '--model-ema',
    '--recovery-interval',
    '1',
    '--keep-epochs',
    '1',
    '--eval-archs',
    '2',
    '--eval-interval',
    '4',
)


@pytest.fixture(scope='module')
def left_alone(tiny_data, tmp_path_factory):
    """Folder, and CPU time in seconds, of a training that nothing happened to."""
    output, before = tmp_path_factory.mktemp('alone') / 'out', seconds_of_children()
    assert not wait(start(train_args(tiny_data, output, *RECOVERY), output.parent / 'alone.log'))
    return output, seconds_of_children() - before


@pytest.fixture(scope='module')
def killed(tiny_data, tmp_path_factory):
    """Folder of a training that was killed while its sixth checkpoint was written, in mid-epoch."""
    output = tmp_path_factory.mktemp('killed') / 'out'
    assert wait(start(train_args(tiny_data, output, *RECOVERY), output.parent / 'log', lambda: die_at('checkpoint', 6)))
    return output


def interrupted(killed, tmp_path):
    return shutil.copytree(killed, tmp_path / 'out')


def resume(tiny_data, output, *more):
    return train_args(tiny_data, output, *RECOVERY, '--resume', str(output), *more)


def error_of(arguments, capsys):
    capsys.readouterr()
    assert main(arguments) == 2
    return capsys.readouterr().err.strip().splitlines()[-1]


def flip_byte(path):
    """Damage a tensor, which torch does not notice."""
    with zipfile.ZipFile(path) as archive:
        tensors = [record for record in archive.infolist() if '/data/' in record.filename]
    largest = max(tensors, key=lambda record: record.file_size)
    content = bytearray(path.read_bytes())
    content[largest.header_offset + largest.file_size // 2] ^= 1  # its header is shorter than half of it
    path.write_bytes(content)


@pytest.mark.slow
def test_killed_five_times(left_alone, tiny_data, tmp_path):
    whole, seconds = left_alone
    output, log = tmp_path / 'out', tmp_path / 'log'
    for point, visits in (('checkpoint', 2), ('renames', 1), ('split', 27), ('summary.csv', 2)):
        prepare = lambda point=point, visits=visits: die_at(point, visits)  # noqa: E731
        assert wait(start(resume(tiny_data, output), log, prepare)), f'it did not come to {point}'
    wait(start(resume(tiny_data, output), log), random.uniform(0, seconds / 4))
    assert not wait(start(resume(tiny_data, output), log))
    end = final_state(output)
    assert end['task_state']['step'] == 16 and [row['epoch'] for row in end['summary.csv']] == ['0', '1', '2', '3']
    assert differences(final_state(whole), end) == []
    assert 'no checkpoint in' in log.read_text()  # the first start was the same command


def test_a_kill_costs_no_more_than_the_batches_since_the_last_checkpoint(killed):
    checkpoint = read_training_checkpoint(killed / LAST)
    assert (checkpoint['progress']['epoch'], checkpoint['progress']['batch']) == (1, 1)  # the fifth of one per batch
    assert checkpoint['task_state']['step'] == 5 and len(checkpoint['progress']['summary']) == 1


@pytest.mark.parametrize(
    'damage',
    [flip_byte, lambda path: path.write_bytes(path.read_bytes()[:5000]), lambda path: path.write_bytes(b'')],
    ids=['flipped', 'cut', 'empty'],
)
def test_the_one_before_a_damaged_checkpoint_is_found(killed, tmp_path, caplog, damage):
    output = interrupted(killed, tmp_path)
    expected = read_training_checkpoint(output / PREVIOUS)
    damage(output / LAST)
    file, checkpoint = find_training_checkpoint(output)
    assert file == output / PREVIOUS and differences(checkpoint, expected) == []
    assert [record.levelname for record in caplog.records] == ['WARNING']
    assert (
        f'{output / LAST}: it is damaged' in caplog.text and f'going on from the one before it, {file}' in caplog.text
    )


@pytest.mark.slow
def test_damaged_checkpoint_does_not_replace_the_good_one(left_alone, killed, tiny_data, tmp_path, caplog):
    output = interrupted(killed, tmp_path)
    flip_byte(output / LAST)
    assert wait(start(resume(tiny_data, output), tmp_path / 'log', lambda: die_at('renames')))
    assert (tmp_path / 'log').read_text().count('it is damaged') == 1
    assert main(resume(tiny_data, output)) == 0
    assert 'it is damaged' not in caplog.text
    assert differences(final_state(left_alone[0]), final_state(output)) == []


def test_two_damaged_checkpoints(killed, tiny_data, tmp_path, capsys):
    output = interrupted(killed, tmp_path)
    for name in (LAST, PREVIOUS):
        flip_byte(output / name)
    error = error_of(resume(tiny_data, output), capsys)
    assert 'no checkpoint to go on from' in error and LAST in error and PREVIOUS in error


def test_resume_that_does_not_fit(killed, tiny_data, tmp_path, capsys):
    """From the middle of an epoch."""
    other = train_args(tiny_data, tmp_path / 'new', *RECOVERY, '--resume')
    assert 'epochs and 1 batches unsplit, it is too late to split at 1' in error_of(
        [*other, str(killed), '--split-epoch', '1'], capsys
    )
    assert 'there is no last.pth.tar' in error_of([*other, str(tmp_path)], capsys)
    assert 'holds a training' in error_of(train_args(tiny_data, killed, *RECOVERY), capsys)
    assert 'holds a training' in error_of(
        train_args(tiny_data, killed, '--resume', str(killed / PREVIOUS), *RECOVERY), capsys
    )
    old = read_training_checkpoint(killed / LAST)
    del old['progress']
    torch.save(old, tmp_path / 'old.pth.tar')
    assert 'another version' in error_of([*other, str(tmp_path / 'old.pth.tar')], capsys)
    assert not (tmp_path / 'new').exists()


def test_another_output_takes_the_summary_with_it(left_alone, tiny_data, tmp_path):
    arguments = train_args(tiny_data, tmp_path, *RECOVERY, '--resume', str(left_alone[0] / 'milestone-1.pth.tar'))
    assert main([*arguments, '--stop-epoch', '1']) == 0
    assert (tmp_path / 'summary.csv').read_bytes() == (left_alone[0] / 'summary.csv').read_bytes()[: len(
        (tmp_path / 'summary.csv').read_bytes())]  # fmt: skip


def test_full_disk_ends_in_one_line(killed, tiny_data, tmp_path, capsys):
    output = interrupted(killed, tmp_path)
    (output / f'{LAST}.tmp').unlink()  # what the kill has left
    before = {path.name: path.read_bytes() for path in output.glob('*.pth.tar*')}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        error = error_of(resume(tiny_data, output), capsys)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert 'cannot write: File too large' in error and f'the last good checkpoint is {output / LAST}' in error
    assert {path.name: path.read_bytes() for path in output.glob('*.pth.tar*')} == before


def test_divergence_stops_with_what_it_takes_to_understand_it(tiny_data, tmp_path, capsys):
    """A learning rate that ruins the weights; every checkpoint holds finite ones."""
    space = get_space('nb201')
    error = error_of(train_args(tiny_data, tmp_path, '--lr', '1e14', '--recovery-interval', '1'), capsys)
    step = read_training_checkpoint(tmp_path / LAST)['task_state']['step']  # counted from 0: the one that failed
    where = f'step {step} (epoch 0, batch {step}, architecture {space.format(archs_of_step(space, 0, step)[0])}'
    assert f'{where}, learning rate 1e+14)' in error and f'the last good checkpoint is {tmp_path / LAST}' in error
    values = read_training_checkpoint(tmp_path / LAST)['state_dict'].values()
    assert all(value.isfinite().all() for value in values)


def test_divergence_before_the_first_checkpoint(tiny_data, tmp_path, capsys):
    error = error_of(train_args(tiny_data, tmp_path, '--lr', '1e14'), capsys)
    assert 'error: the loss is ' in error and 'no checkpoint was written before' in error


def test_the_first_bad_loss_of_several_is_named():
    """On a GPU losses are looked at now and then only."""
    task, optimizer = make_training('nb201_cond_supernet', cells_per_stage=1, channels=(8, 8, 8))
    task.step, losses = 20, torch.tensor([1.0, 2.0, float('inf'), float('nan')]).unbind()
    check_losses(task, optimizer, list(losses[:2]), Progress(1, 10))
    arch = task.model.space.format(archs_of_step(task.model.space, 0, 18)[0])
    with pytest.raises(FloatingPointError) as error:
        check_losses(task, optimizer, list(losses), Progress(1, 10))
    assert f'the loss is inf at step 18 (epoch 1, batch 8, architecture {arch}' in str(error.value)


def test_weights_ruined_by_a_finite_loss_are_not_saved():
    task, optimizer = make_training('nb201_cond_supernet', cells_per_stage=1, channels=(8, 8, 8))
    task.model.head.weight.register_hook(lambda gradient: gradient * float('inf'))
    images = Images(torch.zeros(8, 3, 32, 32, dtype=torch.uint8), torch.arange(8), ())
    batches, saved = InMemoryLoader(images, 4, (0.5,) * 3, (0.5,) * 3), []
    config = TrainConfig(recovery_interval=1)
    with pytest.raises(FloatingPointError, match='head.weight is not finite after step 0'):
        train_one_epoch(TrainingStep(task, optimizer), batches, Progress(), config, saved.append)
    assert not saved


def test_a_validation_loss_that_is_not_finite_ends_no_training():
    """A resume would come to it again and again."""
    task, _ = make_training('nb201_cond_supernet', **SMALL['nb201_cond_supernet'])
    task.model.head.bias.data = torch.tensor([3e38, *[-3e38] * 9])
    images, targets = random_batch(8, pixels=8)
    found = evaluate_fixed_archs(task, [(3,) * 6, (2,) * 6], EvaluationData(images, images, targets))
    assert found['loss'] == float('inf') and found['accuracy'] == 100 * (targets == 0).float().mean()


def test_counts_are_those_of_the_steps(left_alone):
    space = get_space('nb201', 'only_conv')
    steps = [choices_of(space, archs_of_step(space, 0, step)[0]) for step in range(16)]
    expected = Counter(choice for choices in steps for choice in choices)
    since_split = Counter(choice for choices in steps[8:] for choice in choices)
    with (left_alone[0] / 'counts.csv').open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * (1 + 1 + 2 + 1 + 2 + 4)
    for row in rows:
        choice = int(row['decision']), space.operations.index(row['operation']), int(row['context'])
        assert (int(row['steps']), int(row['steps_since_split'])) == (expected[choice], since_split[choice])
    last = next(row for row in rows if row['decision'] == '5' and row['context'] == '2')
    assert last['after'] == 'nor_conv_3x3 nor_conv_1x1'  # on the edges 0->2 and 1->2


def test_untrained_weight_sets_are_reported():
    task, optimizer = make_training('nb201_cond_supernet', cells_per_stage=1, channels=(8, 8, 8))
    space = task.model.space
    train_step(task, optimizer, *random_batch())
    assert untrained_choices(task.model, task.counts_since_split) == []  # before the split all are one
    task.split(optimizer)
    trained = archs_of_step(space, 0, task.step)[0]
    train_step(task, optimizer, *random_batch())
    untrained = task.get_task_state()['untrained']
    assert describe_untrained(space, [trained], untrained) is None
    num_weighted = 3 * (1 + 1 + 5 + 1 + 5 + 25)  # two convolutions and the linear skip
    assert len(untrained) == num_weighted - sum(operation in (1, 2, 3) for operation in trained)
    message = describe_untrained(space, [trained, (3, 2, 2, 2, 2, 2)], [[3, 2, 0], [5, 2, 12], [5, 3, 12]])
    assert (
        message == '2 weight sets have not been trained since the split, first nor_conv_1x1 at decision 3 in context 0'
    )


def test_untrained_contexts_are_warned_of(left_alone):
    log = (left_alone[0].parent / 'alone.log').read_text()
    assert 'of what is validated, 1 weight sets have not been trained since the split, first ' in log
    assert 'weight sets have not been trained since the split, first nor_conv_1x1 at decision 2 in context 1' in log


@pytest.mark.parametrize('folder', [False, True])
def test_untrained_contexts_are_warned_of_when_they_are_ranked(left_alone, tiny_data, tmp_path, caplog, folder):
    """From a training checkpoint, and from the model folder that is made of it."""
    checkpoint = left_alone[0] / LAST
    if folder:
        save_model(load_model(checkpoint), tmp_path / 'model', training_of(checkpoint))
        checkpoint = tmp_path / 'model'
    arguments = ['--checkpoint', str(checkpoint), '--data-dir', str(tiny_data), '--calib-batches', '1']
    assert validate([*arguments, '--archs', '(3, 3, 3, 3, 3, 3)', '--results-file', str(tmp_path / 'one.csv')]) == 0
    assert 'of what is ranked, ' in caplog.text and ' have not been trained since the split' in caplog.text


@pytest.mark.parametrize('first', [False, True])
def test_training_that_another_process_has_gone_on_with_is_refused(
    killed, left_alone, tiny_data, tmp_path, monkeypatch, capsys, first
):
    """It may end between the moment when the checkpoint is read and the one when the folder is locked."""
    output, newer = tmp_path / 'out', (left_alone[0] / LAST).read_bytes()
    output.mkdir()
    if not first:
        shutil.copy(killed / LAST, output)

    def create(*args):
        (output / LAST).write_bytes(newer)
        return create_training(*args)

    monkeypatch.setattr('condnet.training.run.create_training', create)
    assert main(train_args(tiny_data, output, *RECOVERY, '--resume', str(output))) == 2
    assert 'another training has gone on in' in capsys.readouterr().err
    assert (output / LAST).read_bytes() == newer


def test_model_with_dropout_resumes_exactly(tiny_data, tmp_path):
    def arguments(output, *more):
        base = train_args(tiny_data, output, '--model', 'test_resnet', '--split-epoch', '0', '--epochs', '1', *more)
        base[base.index('space=full') : base.index('space=full') + 3] = ['drop_rate=0.5']
        return [*base, '--recovery-interval', '1']

    assert main(arguments(tmp_path / 'whole')) == 0
    assert wait(start(arguments(tmp_path / 'out'), tmp_path / 'log', lambda: die_at('checkpoint', 3)))
    assert main(arguments(tmp_path / 'out', '--resume', str(tmp_path / 'out'))) == 0
    assert differences(final_state(tmp_path / 'whole'), final_state(tmp_path / 'out')) == []
