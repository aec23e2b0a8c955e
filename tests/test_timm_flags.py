"""timm's flags of training: each does what timm does with it, and a training with them resumes exactly."""

import csv

import numpy as np
import pytest
import torch
from conftest import make_training, random_batch, train_args
from small import CONVS, tiny_folder  # noqa: F401  # its images are smaller ones
from timm.loss import LabelSmoothingCrossEntropy

from condnet.cli.train import main, make_parser, parse_args
from condnet.errors import CondnetError
from condnet.training.build import create_training
from condnet.training.config import Settled, TrainConfig
from condnet.training.mixing import Mixing
from condnet.training.step import TrainingStep
from tools.kill_training import die_at, differences, final_state, start, wait

SETTLED = Settled(10, (3, 32, 32), 'cifar10')
SMALL = {'model_kwargs': {'cells_per_stage': 1, 'channels': (8, 8, 8)}}


def training_of(**settings):
    return create_training(TrainConfig(**SMALL, **settings), SETTLED, torch.device('cpu'))


def rates(tmp_path, data, *more):
    assert main(train_args(data, tmp_path / 'out', *CONVS, '--eval-interval', '0', *more)) == 0
    with (tmp_path / 'out' / 'summary.csv').open() as file:
        return [float(row['lr']) for row in csv.DictReader(file)]


def test_warm_up_and_cool_down(tiny_data, tmp_path):
    more = ('--lr', '0.1', '--warmup-epochs', '2', '--warmup-lr', '0.02', '--cooldown-epochs', '1', '--min-lr', '0.001')
    found = rates(tmp_path, tiny_data, *more)
    assert found[:2] == pytest.approx([0.02, 0.06])  # as high as 0.1 after two
    assert len(found) == 5 and found[2] == pytest.approx(0.001 + 0.099 * 0.5) and found[-1] == pytest.approx(0.001)


def gradients(clip):
    """Those of a step, which is not taken."""
    task, optimizer = make_training('nb201_cond_supernet', cells_per_stage=1, channels=(8, 8, 8))
    step = TrainingStep(task, optimizer, clip=clip)
    step.optimizer.step = lambda *_: None
    step(*random_batch())
    return {name: p.grad for name, p in task.model.named_parameters() if p.grad is not None}


def test_gradients_are_clipped():
    whole = gradients(None)
    norm = torch.stack([g.norm() for g in whole.values()]).norm()
    assert norm > 0.1
    clipped = torch.stack([g.norm() for g in gradients((0.1, 'norm')).values()]).norm()
    torch.testing.assert_close(clipped, torch.tensor(0.1), rtol=1e-4, atol=1e-6)
    assert max(g.abs().max() for g in gradients((1e-3, 'value')).values()) <= 1e-3
    adaptive = gradients((1e-3, 'agc'))
    assert torch.equal(adaptive['head.weight'], whole['head.weight'])  # as in timm
    assert not torch.equal(adaptive['stem.conv.weight'], whole['stem.conv.weight'])


def test_flags_of_clipping_reach_the_step():
    assert training_of(clip_grad=2.0, clip_mode='agc').step.clip == (2.0, 'agc')
    assert training_of().step.clip is None


def test_labels_are_smoothed():
    output, target = torch.randn(4, 10), torch.arange(4)
    smoothed = training_of(smoothing=0.1).step.task.criterion(output, target)
    assert torch.equal(smoothed, LabelSmoothingCrossEntropy(0.1)(output, target))
    assert type(training_of().step.task.criterion) is torch.nn.CrossEntropyLoss


def test_constants_of_the_optimizer():
    group = training_of(opt='adamw', opt_betas=(0.8, 0.9), opt_eps=1e-3).step.optimizer.param_groups[0]
    assert (group['betas'], group['eps']) == ((0.8, 0.9), 1e-3)
    with pytest.raises(CondnetError, match='`opt_betas` does nothing with `opt` momentum'):
        training_of(opt_betas=(0.8, 0.9))


def test_momentum_that_does_nothing_is_warned_of(caplog):
    training_of(opt='adam', momentum=0.5)
    assert caplog.messages == ['`momentum` does nothing with `opt` adam']


def test_dropout_reaches_the_model():
    config = TrainConfig(model='test_resnet', drop=0.3)
    assert create_training(config, SETTLED, torch.device('cpu')).step.task.model.drop_rate == 0.3


@pytest.mark.parametrize('settings', [{'mixup': 0.4}, {'cutmix': 1.0}, {'mixup': 0.4, 'cutmix': 1.0}])
def test_images_and_labels_are_mixed(settings):
    """By numbers of the step's own, and in the same shares."""
    config = TrainConfig(smoothing=0.1, **settings)
    images, targets = torch.rand(8, 3, 16, 16), torch.arange(8)
    before = np.random.get_state()[1].copy()
    mixing = Mixing(config, 10)
    mixed, soft = mixing(images.clone(), targets, 3)
    again = mixing(images.clone(), targets, 3)
    assert torch.equal(mixed, again[0]) and torch.equal(soft, again[1])
    assert not torch.equal(mixed, mixing(images.clone(), targets, 4)[0])
    assert (np.random.get_state()[1] == before).all()
    assert not torch.equal(mixed, images) and torch.allclose(soft.sum(1), torch.ones(8))
    if 'cutmix' not in settings:
        share = (soft[0, 0] - 0.01) / 0.9
        torch.testing.assert_close(mixed, images * share + images.flip(0) * (1 - share))


def test_a_step_is_trained_on_mixed_images(monkeypatch):
    training = training_of(mixup=0.4, cutmix=1.0, mixup_off_epoch=2)
    step, seen = training.step, []
    monkeypatch.setattr(step.task, 'forward', lambda x, y: seen.append(y) or {'loss': step.task.model(x).sum() * 0})
    for epoch in (1, 2):
        step.mixing.set_epoch(epoch)
        step(*random_batch())
    assert [tuple(y.shape) for y in seen] == [(8, 10)] * 2
    assert (seen[0].max(1).values < 1).any() and (seen[1].max(1).values == 1).all()


COMBINATIONS = [
    ('--clip-grad', '1', '--smoothing', '0.1', '--warmup-epochs', '1', '--warmup-lr', '0.001'),
    ('--mixup', '0.4', '--cutmix', '1', '--mixup-mode', 'elem', '--mixup-off-epoch', '3', '--clip-grad', '0.01',
     '--clip-mode', 'agc'),
    ('--opt', 'adamw', '--opt-betas', '0.8', '0.9', '--opt-eps', '1e-4', '--cooldown-epochs', '1', '--mixup', '0.2',
     '--mixup-prob', '0.5', '--lr', '0.001'),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize('more', COMBINATIONS, ids=['smoothing', 'mixing', 'adamw'])
def test_resumed_exactly(tiny_data, tmp_path, more):
    more = (*more, *CONVS, '--recovery-interval', '2', '--eval-interval', '4', '--eval-archs', '1')
    assert main(train_args(tiny_data, tmp_path / 'whole', *more)) == 0
    killed = train_args(tiny_data, tmp_path / 'out', *more)
    assert wait(start(killed, tmp_path / 'log', lambda: die_at('checkpoint', 6)))  # the fifth is in mid-epoch
    assert main([*killed, '--resume', str(tmp_path / 'out')]) == 0
    assert differences(final_state(tmp_path / 'whole'), final_state(tmp_path / 'out')) == []
    other = [*killed, '--resume', str(tmp_path / 'out'), more[0], '0.5' if more[0] != '--opt' else 'adam']
    assert main(other) == 2


@pytest.mark.parametrize(
    ('more', 'message'),
    [
        (['--warmup-lr', '0.1'], '--warmup-lr does nothing without --warmup-epochs'),
        (['--warmup-epochs', '4'], '--warmup-epochs is 4, expected less than the 4 epochs'),
        (['--clip-mode', 'agc'], '--clip-mode does nothing without --clip-grad'),
        (['--mixup-mode', 'pair'], '--mixup-mode does nothing without --mixup or --cutmix'),
        (['--mixup', '1', '--mixup-switch-prob', '0.1'], 'does nothing without --mixup and --cutmix'),
        (['--mixup', '1', '--batch-size', '63'], 'mix images in pairs: a process has 63 of a batch'),
        (['--smoothing', '1'], '--smoothing is 1'),
    ],
)
def test_refused(tiny_data, tmp_path, capsys, more, message):
    assert main(train_args(tiny_data, tmp_path / 'out', *more)) == 2
    assert message in capsys.readouterr().err.strip().splitlines()[-1]


def test_help_shows_defaults_and_groups():
    shown = ' '.join(make_parser().format_help().split())
    for text in ('Optimizer parameters:', 'Learning rate schedule parameters:', '(default: 0.025)',
                 '--output OUTPUT directory of checkpoints and summary.csv (default: output/train)'):  # fmt: skip
        assert text in shown
    assert '(default: None)' not in shown and parse_args([]).clip_grad is None
