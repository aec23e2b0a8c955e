"""The training command on a small data set: resume, trunks, and what it refuses."""

import csv
import dataclasses
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from conftest import hold_lock, killed_at_the_end, train_args
from PIL import Image, ImageOps
from small import CONVS, tiny_folder  # noqa: F401  # its images are smaller ones

import condnet
from condnet import CondnetError, TrainConfig, recipes
from condnet.checkpoints.loading import load_model
from condnet.checkpoints.training import SCHEDULE_FLAGS, TIMM_FLAGS, read_training_checkpoint
from condnet.cli.train import main, parse_args
from condnet.recipes import find_recipe
from condnet.training.config import recorded_args, recorded_settings

EMA = (*CONVS, '--model-ema')


@pytest.fixture(scope='module')
def whole_run(tiny_data, tmp_path_factory):
    """An uninterrupted training, which keeps its checkpoints after every epoch."""
    output = tmp_path_factory.mktemp('whole')
    assert main(train_args(tiny_data, output, *EMA, '--keep-epochs', '1', '2', '3')) == 0
    return output


def assert_same_state(one, other):
    """Everything a checkpoint holds, to the last bit."""
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same_state(one[key], other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_same_state(a, b)
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    else:
        assert one == other


def read_summary(output):
    with (output / 'summary.csv').open() as file:
        rows = list(csv.DictReader(file))
    timings = ('seconds', 'loader', 'images_per_second', 'memory')
    return [{k: v for k, v in row.items() if not any(word in k for word in timings)} for row in rows]


@pytest.mark.parametrize('epoch', [1, 2, 3])
def test_resumed_run_ends_bit_identical(whole_run, tiny_data, tmp_path, epoch):
    """Before the split, at it, and after it."""
    for name in (f'milestone-{epoch}.pth.tar', 'summary.csv'):
        shutil.copy(whole_run / name, tmp_path / name)
    resume = str(tmp_path / f'milestone-{epoch}.pth.tar')
    assert main(train_args(tiny_data, tmp_path, *EMA, '--resume', resume)) == 0
    ends = [read_training_checkpoint(output / 'last.pth.tar') for output in (whole_run, tmp_path)]
    for key in ('epoch', 'state_dict', 'state_dict_ema', 'optimizer', 'task_state'):
        assert_same_state(ends[0][key], ends[1][key])
    assert read_summary(whole_run) == read_summary(tmp_path)


def test_summary_has_what_is_promised(whole_run):
    rows = read_summary(whole_run)
    assert [row['epoch'] for row in rows] == ['0', '1', '2', '3']
    assert float(rows[0]['lr']) == 0.025 and float(rows[-1]['lr']) < 0.01
    assert all(float(row['train_loss']) > 0 and 0 <= float(row['eval_accuracy']) <= 100 for row in rows)
    with (whole_run / 'summary.csv').open() as file:
        assert all(float(row['train_peak_memory_mb']) > 50 for row in csv.DictReader(file))


def test_split_and_unsplit_share_one_trunk(whole_run, tiny_data, tmp_path):
    trunk = str(whole_run / 'milestone-2.pth.tar')
    assert main(train_args(tiny_data, tmp_path, *EMA, '--resume', trunk, '--split-epoch', '0')) == 0
    assert not load_model(tmp_path / 'last.pth.tar').is_split
    assert load_model(whole_run / 'last.pth.tar').is_split
    assert read_training_checkpoint(tmp_path / 'last.pth.tar')['task_state']['step'] == 16


def test_stop_epoch_is_the_whole_schedule_cut_short(whole_run, tiny_data, tmp_path):
    assert main(train_args(tiny_data, tmp_path, *EMA, '--stop-epoch', '3')) == 0
    stopped = read_training_checkpoint(tmp_path / 'last.pth.tar')
    kept = read_training_checkpoint(whole_run / 'milestone-3.pth.tar')
    assert_same_state(stopped['state_dict'], kept['state_dict'])
    assert_same_state(stopped['optimizer'], kept['optimizer'])


def test_standalone_network_trains(tiny_data, tmp_path):
    arguments = train_args(tiny_data, tmp_path, '--model', 'nb201_net', '--split-epoch', '0', '--epochs', '1')
    start = arguments.index('--model-kwargs')
    arguments[start + 1 : start + 2] = ['arch=(3,3,3,3,3,3)']
    assert main(arguments) == 0
    assert load_model(tmp_path / 'last.pth.tar').arch == (3, 3, 3, 3, 3, 3)


def test_any_other_data_set_goes_through_timm(tiny_data, tmp_path, capsys):
    folder = shutil.copytree(tiny_data / 'train', tmp_path / 'data' / 'train').parent
    for path in (tiny_data / 'train').glob('*/*.png'):
        other = folder / 'validation' / path.parent.name / path.name
        other.parent.mkdir(parents=True, exist_ok=True)
        ImageOps.mirror(Image.open(path)).save(other)
    more = [*CONVS, '--dataset', 'ImageFolder', '--input-size', '3', '8', '8', '--epochs', '1', '--split-epoch', '0']
    arguments = train_args(folder, tmp_path / 'out', *more)
    start = arguments.index('--eval-images')
    del arguments[start : start + 2]  # there are fewer than it takes by default
    assert main(arguments) == 0
    files = sorted(file for file in (tmp_path / 'out').iterdir() if file.name != '.lock')
    assert capsys.readouterr().out.splitlines()[-1] == f'wrote {", ".join(map(str, files))}'
    model = load_model(tmp_path / 'out' / 'last.pth.tar')
    assert model.pretrained_cfg['input_size'] == (3, 8, 8)
    ranking = condnet.rank(model, [(3,) * 6], dataset='folder', data_dir=folder, calib_batches=1)
    assert ranking.settings['eval_images'] == 300
    assert read_training_checkpoint(tmp_path / 'out' / 'last.pth.tar')['task_state']['step'] == 4


def test_flags_override_the_recipe(tmp_path):
    args = parse_args(['-c', 'nb201_no_zero', '--data-dir', 'x', '--split-epoch', '140', '--lr', '0.1'])
    assert (args.epochs, args.split_epoch, args.lr, args.model_kwargs) == (250, 140, 0.1, {'space': 'no_zero'})
    bad = {
        'epoch: 3': "unknown setting 'epoch'",
        'epochs: 2.0': 'epochs is 2.0',
        'keep_epochs: 2': 'keep_epochs is 2',
        'epochs: [2': 'is not YAML',
        'just text': 'expected settings',
        'sampling: unfair': "sampling is 'unfair', expected one of uniform, fair",
        'channels_last: 1': 'channels_last is 1',
    }
    for text, message in bad.items():
        (tmp_path / 'bad.yaml').write_text(text)
        with pytest.raises(ValueError, match=message):
            parse_args(['-c', str(tmp_path / 'bad.yaml'), '--data-dir', 'x'])


def test_resumed_with_its_own_args_yaml(whole_run, tiny_data, tmp_path):
    """And with the tuple of a model's argument, of which YAML makes a list."""
    more = ['--resume', str(whole_run / 'milestone-3.pth.tar'), '--output', str(tmp_path), '--eval-interval', '0']
    assert main(['-c', str(whole_run / 'args.yaml'), *more]) == 0
    ends = [read_training_checkpoint(output / 'last.pth.tar') for output in (whole_run, tmp_path)]
    assert_same_state(ends[0]['state_dict'], ends[1]['state_dict'])


def test_checkpoint_from_before_the_flags_of_schedules_resumes(whole_run, tiny_data, tmp_path):
    checkpoint = torch.load(whole_run / 'milestone-3.pth.tar', weights_only=False)
    del checkpoint['scheduler']
    for name in (*SCHEDULE_FLAGS, *TIMM_FLAGS):
        delattr(checkpoint['args'], name)
    torch.save(checkpoint, tmp_path / 'old.pth.tar')
    arguments = train_args(tiny_data, tmp_path / 'out', *EMA, '--resume', str(tmp_path / 'old.pth.tar'))
    assert main(arguments) == 0
    ends = [read_training_checkpoint(output / 'last.pth.tar') for output in (whole_run, tmp_path / 'out')]
    assert_same_state(ends[0]['state_dict'], ends[1]['state_dict'])
    assert_same_state(ends[0]['optimizer'], ends[1]['optimizer'])


def test_architecture_on_the_command_line_stays_text():
    for arch in ('22222222', '(3,3,3,3,3,3)', '6111'):
        assert parse_args(['--data-dir', 'x', '--model-kwargs', f'arch={arch}']).model_kwargs == {'arch': arch}
    given = ['--data-dir', 'x', '--model-kwargs', 'active_subnet=12101201', 'split=1']
    assert parse_args(given).model_kwargs == {'active_subnet': '12101201', 'split': 1}


def test_architecture_in_a_recipe_is_not_what_yaml_makes_of_its_digits(tmp_path):
    recipe = tmp_path / 'recipe.yaml'
    for written in ('00000012', "'00000012'"):  # in YAML the first one is 10
        recipe.write_text(f'model: macro_net\nmodel_kwargs: {{arch: {written}}}\n')
        assert parse_args(['-c', str(recipe), '--data-dir', 'x']).model_kwargs == {'arch': '00000012'}


@pytest.mark.parametrize('name', sorted(path.stem for path in Path(recipes.__file__).parent.glob('*.yaml')))
def test_recipes_are_valid(name):
    args = parse_args(['-c', name, '--data-dir', 'x'])
    assert set(args.keep_epochs) >= {args.split_epoch} - {0}
    assert yaml.safe_load(find_recipe(name).read_text())['model'] == args.model


@pytest.mark.parametrize(
    ('more', 'message'),
    [
        (['--split-epoch', '4'], '--split-epoch is 4, expected 1..3'),
        (['--epochs', '1', '--split-epoch', '1'], '--split-epoch is 1, expected 0 for never: of 1 epoch none comes'),
        (['--output', ''], '--output is empty, expected a value'),
        (['--stop-epoch', '5'], '--stop-epoch is 5, expected 1..4'),
        (['--epochs', '0'], '--epochs is 0'),
        (['--model', 'nb202_cond_supernet'], 'cannot build the model'),
        (['--model-kwargs', 'space=no_conv'], 'unknown search space'),
        (['--model-kwargs', 'wat=1'], 'cannot build the model'),
        (['--model-kwargs', 'split=True'], 'is split from the start: use --split-epoch 0'),
        (['--model', 'nb201_net'], '--split-epoch needs a super-network'),
        (['-c', 'nothing'], 'no recipe'),
        (['--data-dir', 'nowhere'], 'nowhere'),
        (['--resume', 'nowhere.pth.tar'], 'no checkpoint file'),
        (['--batch-size', '1000'], 'batch size is 1000, expected 1..270'),
        (['--eval-images', '15'], 'multiple of the 10 classes'),
        (['--seed', '-1'], '--seed is -1'),
        (['--grad-accum-steps', '0'], '--grad-accum-steps is 0'),
        (['--grad-accum-steps', '65'], 'at least 65 images for each'),
        (['--sync-bn'], '--sync-bn needs several processes with a GPU each'),
        (['--opt', 'adamz'], "not one of timm's optimizers"),
        (['--sched', 'foo'], "--sched is 'foo', expected one of cosine"),
        (
            ['--model', 'vit_tiny_patch16_224', '--model-kwargs', 'img_size=64', '--split-epoch', '0'],
            'cannot take 2 images of size 3x16x16: Input height',
        ),
        (['--model', 'test_resnet', '--model-kwargs', 'features_only=True', '--split-epoch', '0'], 'gives list for 2'),
        (['--model', 'repvgg_a0', '--model-kwargs', '--split-epoch', '0'], 'use --no-channels-last'),
        (['--device', 'nowhere'], '--device nowhere is not available'),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(tiny_data, tmp_path, capsys, more, message):
    arguments = train_args(tiny_data, tmp_path / 'out', *more)
    if more[:2] == ['--model', 'nb201_net']:
        del arguments[arguments.index('--model-kwargs') : arguments.index('--epochs')]
    assert main(arguments) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith('condnet-train: error: ') and message in error
    assert not (tmp_path / 'out').exists()


def test_wrong_checkpoints_are_refused(whole_run, tiny_data, tmp_path, capsys):
    def error_of(*more):
        assert main(train_args(tiny_data, tmp_path / 'out', *EMA, *more)) == 2
        assert not (tmp_path / 'out').exists()
        return capsys.readouterr().err.strip().splitlines()[-1]

    early, late = str(whole_run / 'milestone-1.pth.tar'), str(whole_run / 'milestone-3.pth.tar')
    assert 'was split at epoch 2, not 3' in error_of('--resume', late, '--split-epoch', '3')
    assert 'trained with seed 0, not 1' in error_of('--resume', early, '--seed', '1')
    assert 'trained with model ' in error_of('--resume', early, '--model', 'macro_cond_supernet', '--model-kwargs')
    content = (whole_run / 'last.pth.tar').read_bytes()
    (tmp_path / 'cut.pth.tar').write_bytes(content[: len(content) // 2])
    assert 'damaged' in error_of('--resume', str(tmp_path / 'cut.pth.tar'))


def test_interrupted_between_checkpoint_and_milestone(whole_run, tiny_data, tmp_path):
    """The kept checkpoint of a trunk is not lost, and the summary has no hole."""
    shutil.copy(whole_run / 'milestone-1.pth.tar', tmp_path / 'last.pth.tar')
    shutil.copy(whole_run / 'summary.csv', tmp_path / 'summary.csv')
    more = [*EMA, '--keep-epochs', '1', '2', '--resume', str(tmp_path / 'last.pth.tar'), '--stop-epoch', '2']
    assert main(train_args(tiny_data, tmp_path, *more)) == 0
    for epoch in (1, 2):
        kept, expected = (read_training_checkpoint(d / f'milestone-{epoch}.pth.tar') for d in (tmp_path, whole_run))
        assert_same_state(kept['state_dict'], expected['state_dict'])
    assert [row['epoch'] for row in read_summary(tmp_path)] == ['0', '1']


def test_resuming_an_earlier_checkpoint_does_not_overwrite_the_end(whole_run, tiny_data, capsys):
    before = (whole_run / 'last.pth.tar').read_bytes()
    resume = ['--resume', str(whole_run / 'milestone-1.pth.tar'), '--split-epoch', '3']
    assert main(train_args(tiny_data, whole_run, *EMA, *resume)) == 2
    assert 'holds a training' in capsys.readouterr().err
    assert (whole_run / 'last.pth.tar').read_bytes() == before


def test_two_trainings_in_one_folder(tiny_data, tmp_path, capsys):
    """Each would overwrite the other's checkpoints."""
    with killed_at_the_end(hold_lock, tmp_path / '.lock'):
        assert main(train_args(tiny_data, tmp_path)) == 2
        assert f'another training is running in {tmp_path}' in capsys.readouterr().err
        assert [path.name for path in tmp_path.iterdir()] == ['.lock']
    assert main(train_args(tiny_data, tmp_path, '--stop-epoch', '1')) == 0


def test_other_images_are_refused_on_resume(whole_run, tiny_data, tmp_path, capsys):
    other = shutil.copytree(tiny_data, tmp_path / 'other')
    folder = other / 'train' / 'cat'
    (folder / '0000.png').write_bytes((folder / '0001.png').read_bytes())
    resume = ['--resume', str(whole_run / 'milestone-1.pth.tar')]
    assert main(train_args(other, tmp_path / 'out', *EMA, *resume)) == 2
    assert 'trained with data_sha256' in capsys.readouterr().err


def test_averaged_weights_can_be_loaded(whole_run):
    path = whole_run / 'last.pth.tar'
    averaged = load_model(path, use_ema=True).state_dict()
    assert all(torch.equal(averaged[k], v) for k, v in read_training_checkpoint(path)['state_dict_ema'].items())
    assert not torch.equal(averaged['head.weight'], load_model(path).state_dict()['head.weight'])


def test_too_late_to_split(whole_run, tiny_data, tmp_path, capsys):
    trunk = str(whole_run / 'milestone-2.pth.tar')
    assert main(train_args(tiny_data, tmp_path, *EMA, '--resume', trunk, '--split-epoch', '1')) == 2
    assert 'too late to split at 1' in capsys.readouterr().err


def test_another_training_is_not_overwritten(whole_run, tiny_data, capsys):
    before = (whole_run / 'last.pth.tar').read_bytes()
    assert main(train_args(tiny_data, whole_run)) == 2
    assert 'holds a training' in capsys.readouterr().err
    assert (whole_run / 'last.pth.tar').read_bytes() == before


class Malicious:
    """Unpickling this creates a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), 'w')


def test_malicious_checkpoint_does_not_run(tiny_data, tmp_path, capsys):
    torch.save({'epoch': Malicious(tmp_path / 'owned')}, tmp_path / 'evil.pth.tar')
    resume = ['--resume', str(tmp_path / 'evil.pth.tar')]
    assert main(train_args(tiny_data, tmp_path / 'out', *resume)) == 2
    assert 'more than tensors' in capsys.readouterr().err
    assert not (tmp_path / 'owned').exists()


def small(tiny_data, **changes):
    kwargs = {'space': 'only_conv', 'cells_per_stage': 1, 'channels': (4, 4, 4)}
    return TrainConfig(data_dir=tiny_data, model_kwargs=kwargs, epochs=2, batch_size=64, eval_interval=0, **changes)


def test_training_from_python_leaves_nothing_behind(tiny_data, tmp_path, monkeypatch, capsys):
    """Without an output folder. It is the training that the command runs."""
    monkeypatch.chdir(tmp_path)
    rows = []
    run = condnet.train(small(tiny_data, split_epoch=1), callbacks=[rows.append])
    assert not list(tmp_path.iterdir()) and capsys.readouterr().out == '' and run.output is None
    assert rows == run.history and [row['epoch'] for row in rows] == [0, 1]
    written = condnet.train(small(tiny_data, split_epoch=1, output=tmp_path / 'out'))
    assert (tmp_path / 'out' / 'last.pth.tar').exists() and written.output == tmp_path / 'out'
    assert all(row['eval_loss'] is row['eval_accuracy'] is row['eval_seconds'] is None for row in rows)
    with (tmp_path / 'out' / 'summary.csv').open(newline='') as file:
        assert [row['eval_loss'] for row in csv.DictReader(file)] == ['', '']
    loaded = load_model(tmp_path / 'out' / 'last.pth.tar')
    assert run.model.is_split and run.model.calibrated_subnet == loaded.calibrated_subnet
    assert_same_state(dict(run.model.state_dict()), dict(loaded.state_dict()))


def test_without_a_folder_there_is_no_recovery(tiny_data):
    with pytest.raises(CondnetError, match='recovery_interval is 2, and there is no folder'):
        condnet.train(small(tiny_data, recovery_interval=2))


def test_a_callback_stops_a_training_by_an_error(tiny_data, tmp_path):
    """After the checkpoint of its epoch."""

    def stop(row):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        condnet.train(small(tiny_data, output=tmp_path), callbacks=[stop])
    assert read_training_checkpoint(tmp_path / 'last.pth.tar')['epoch'] == 0
    assert len(condnet.train(small(tiny_data, output=tmp_path, resume=tmp_path)).history) == 2


def test_settings_of_a_recipe():
    config = TrainConfig.from_recipe('nb201_no_zero', data_dir=Path('x'), lr=0.1)
    assert (config.recipe, config.data_dir, config.lr, config.output) == ('nb201_no_zero', 'x', 0.1, None)
    assert config == parse_like_the_command(['-c', 'nb201_no_zero', '--data-dir', 'x', '--lr', '0.1'])
    short = TrainConfig.from_recipe('nb201_glyphs', epochs=2)
    assert (short.epochs, short.split_epoch) == (2, 1)  # of 200 after 120
    assert TrainConfig.from_recipe('nb201_glyphs', epochs=300).split_epoch == 120
    with pytest.raises(CondnetError, match='split_epoch is 2, expected 1..1 of 2 epochs'):
        TrainConfig.from_recipe('nb201_glyphs', epochs=2, split_epoch=2)


def parse_like_the_command(flags):
    return dataclasses.replace(parse_args(flags), output=None)


def test_settings_in_a_checkpoint_and_back(whole_run):
    args = read_training_checkpoint(whole_run / 'last.pth.tar')['args']
    assert recorded_args(*recorded_settings(args)) == args
    del args.sampling  # a setting that is newer than the checkpoint
    assert recorded_settings(args)[0].sampling == 'uniform'
