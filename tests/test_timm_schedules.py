"""timm's flags of optimizer, schedule and loss: the rates, groups and labels that they must make."""

import dataclasses
import math

import pytest
import timm
import torch
import yaml
from small import tiny_folder  # noqa: F401  # smaller images
from timm.layers import is_fast_norm, set_fast_norm
from timm.loss import BinaryCrossEntropy

import condnet
from condnet.checkpoints.training import TIMM_FLAGS
from condnet.cli.train import main, make_parser, parse_args
from condnet.errors import CondnetError
from condnet.training.build import create_training, step_on_updates
from condnet.training.config import Settled, TrainConfig, recorded_args
from condnet.training.mixing import Mixing
from condnet.training.optimization import create_optimizer, create_scheduler
from condnet.training.output import Recorder
from condnet.training.progress import Progress
from condnet.training.resume import check_resumable
from tools.kill_training import differences, final_state

SETTLED, CPU = Settled(10, (3, 16, 16), 'cifar10'), torch.device('cpu')
SMALL = {'model_kwargs': {'space': 'only_conv', 'cells_per_stage': 1, 'channels': (4, 4, 4)}}
VIT = {'model': 'test_vit', 'model_kwargs': {'img_size': 16}}


def training_of(**settings):
    return create_training(TrainConfig(**{**SMALL, **settings}), SETTLED, CPU)


def rates(**settings):
    """Those of all epochs."""
    config = TrainConfig(**{'lr': 0.1, 'min_lr': 0.0, 'epochs': 4, **settings})
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=config.lr)
    scheduler, found = create_scheduler(optimizer, config), []
    for epoch in range(config.total_epochs):
        found.append(optimizer.param_groups[0]['lr'])
        scheduler.step(epoch + 1)
    return found


def cosine(share, power=1.0):
    return 0.1 * (1 + math.cos(math.pi * share**power)) / 2


def test_cycles():
    """The second one is twice as long, and as high as the flag says; then comes the cool-down."""
    found = rates(lr_cycle_limit=2, lr_cycle_mul=2, lr_cycle_decay=0.25, cooldown_epochs=1)
    expected = [cosine(i / 4) for i in range(4)] + [0.25 * cosine(i / 8) for i in range(8)] + [0]
    assert found == pytest.approx(expected)
    with pytest.raises(CondnetError, match=r'split_epoch is 12, expected 1..11 of 12 epochs'):
        TrainConfig(epochs=4, lr_cycle_limit=2, lr_cycle_mul=2, split_epoch=12)


def test_k_decay():
    assert rates(lr_k_decay=2) == pytest.approx([cosine(i / 4, 2) for i in range(4)])
    poly = rates(sched='poly', lr_k_decay=2, decay_rate=1)
    assert poly == pytest.approx([0.1 * (1 - (i / 4) ** 2) for i in range(4)])


def test_decay_of_wsd():
    assert rates(sched='wsd', decay_epochs=2, lr_decay_fn='linear') == pytest.approx([0.1, 0.1, 0.1, 0.05])


def test_warm_up_before_the_epochs():
    found = rates(warmup_prefix=True, warmup_epochs=2, warmup_lr=0.02, cooldown_epochs=1)
    assert found == pytest.approx([0.02, 0.06, *(cosine(i / 4) for i in range(4)), 0])
    assert len(rates(warmup_prefix=True, warmup_epochs=6, sched='step', decay_epochs=2)) == 10


@pytest.mark.parametrize('sched', ['constant', 'cosine', 'plateau'])
def test_noise(sched):
    more = {'sched': sched, 'epochs': 20}
    calm, found = rates(**more), rates(**more, lr_noise=(0.5, 0.8), lr_noise_pct=0.3, lr_noise_std=5, seed=4)
    shares = [abs(a / b - 1) for a, b in zip(found, calm, strict=True)]
    assert max(shares[:10]) < 1e-9 > max(shares[16:]) and 0.1 < max(shares[10:16]) < 0.3
    assert found != rates(**more, lr_noise=(0.5, 0.8), lr_noise_pct=0.3, lr_noise_std=5)  # of another seed
    assert rates(**more, lr_noise=(0.5,), lr_noise_std=0.01) == pytest.approx(calm, rel=0.1)


def test_schedule_on_updates():
    """The rate changes after every one, also in a training that goes on."""
    training = training_of(epochs=4, lr=0.1, min_lr=0, sched_on_updates=True)
    optimizer = training.step.optimizer
    scheduler = step_on_updates(training, 5, Progress()).scheduler
    assert optimizer.param_groups[0]['lr'] == 0.1
    for number in range(1, 9):
        scheduler.step_update(number)
        assert optimizer.param_groups[0]['lr'] == pytest.approx(cosine(number / 20))
    scheduler.step(2)
    before = optimizer.param_groups[0]['lr']
    step_on_updates(training, 5, Progress(epoch=1, batch=3))
    assert optimizer.param_groups[0]['lr'] == before


def test_rate_for_the_size_of_a_batch(tmp_path):
    found = TrainConfig(lr_base=0.1, batch_size=64)
    assert found == TrainConfig(lr=0.025, batch_size=64)  # in proportion, and that alone is recorded
    assert TrainConfig(lr_base=0.1, batch_size=64, opt='adamw').lr == pytest.approx(0.05)  # the root
    assert TrainConfig(lr_base=0.1, batch_size=64, lr_base_scale='sqrt', lr_base_size=16).lr == pytest.approx(0.2)
    args = parse_args(['-c', 'nb201_cond1', '--data-dir', 'x', '--lr-base', '0.3', '--batch-size', '512'])
    assert args.lr == pytest.approx(0.6)  # instead of the recipe's
    assert TrainConfig.from_recipe('nb201_cond1', lr_base=0.3, batch_size=512).lr == args.lr
    (tmp_path / 'again.yaml').write_text(yaml.safe_dump({'lr': args.lr, 'lr_base': None, 'batch_size': 128}))
    assert parse_args(['-c', str(tmp_path / 'again.yaml'), '--data-dir', 'x']).lr == args.lr


def test_layer_decay():
    config = TrainConfig(model='test_resnet', layer_decay=0.5, lr=0.1, weight_decay=0.0)
    model = timm.create_model('test_resnet', num_classes=10)
    optimizer = create_optimizer(model, config)
    create_scheduler(optimizer, config)
    found = {id(p): group['lr'] for group in optimizer.param_groups for p in group['params']}
    assert found[id(model.fc.weight)] == 0.1
    depths = sorted(math.log2(0.1 / rate) for rate in set(found.values()))
    assert depths == pytest.approx(range(len(depths))) and len(depths) > 3
    assert found[id(model.conv1[0].weight)] == min(found.values())
    network = create_training(TrainConfig(model='nb201_net', layer_decay=0.5), SETTLED, CPU).step.optimizer
    assert len({group['lr'] for group in network.param_groups}) > 3
    with pytest.raises(CondnetError, match='`layer_decay` is for a stand-alone network'):
        training_of(layer_decay=0.5)


def test_other_arguments_of_the_optimizer():
    assert training_of(opt_kwargs={'nesterov': True}).step.optimizer.param_groups[0]['nesterov']
    parsed = parse_args(['--data-dir', 'x', '--opt-kwargs', 'nesterov=true', 'dampening=0.0'])
    assert parsed.opt_kwargs == {'nesterov': True, 'dampening': 0.0}
    for settings, message in (
        ({'opt_kwargs': {'nesterof': True}}, '`opt` momentum does not go with the other settings'),
        ({'opt_kwargs': {'lr': 1}}, '`opt` momentum does not go with the other settings'),
        ({'opt_kwargs': {'eps': 1e-3}}, '`opt_eps` does nothing with `opt` momentum'),
        ({'opt': 'adam', 'opt_eps': 1e-3, 'opt_kwargs': {'eps': 1e-3}}, '`opt_kwargs` has eps, and so does `opt_eps`'),
    ):
        with pytest.raises(CondnetError, match=message):
            training_of(**settings)


def test_binary_cross_entropy():
    output, target = torch.randn(4, 10), torch.arange(4)
    for smoothing in (0.0, 0.2):
        loss = training_of(bce_loss=True, smoothing=smoothing).step.task.criterion(output, target)
        assert torch.equal(loss, BinaryCrossEntropy(smoothing)(output, target))
    soft = torch.rand(4, 10)
    plain = torch.nn.functional.binary_cross_entropy_with_logits
    for settings, expected in (
        ({}, plain(output, soft)),
        ({'bce_sum': True}, 10 * plain(output, soft)),
        ({'bce_target_thresh': 0.3}, plain(output, (soft > 0.3).float())),
        ({'bce_pos_weight': 3.0}, plain(output, soft, pos_weight=torch.tensor(3.0))),
    ):
        torch.testing.assert_close(training_of(bce_loss=True, mixup=1, **settings).step.task.criterion(output, soft),
                                   expected)  # fmt: skip


def test_the_average_warms_up():
    """Its share of a step is that of timm, by the number of the step."""
    training = training_of(model_ema=True, model_ema_decay=0.45, model_ema_warmup=True)
    task, expected = training.step.task, None
    for kept in (0, 1 - 2 ** (-2 / 3), 0.45, 0.45):
        training.step(torch.rand(4, 3, 16, 16), torch.arange(4))
        now = task.model.stem.conv.weight.detach().clone()
        expected = now if expected is None else kept * expected + (1 - kept) * now
        torch.testing.assert_close(task.get_trainable_module(ema=True).module.stem.conv.weight, expected)


def test_shares_of_cutmix():
    mixing, images = Mixing(TrainConfig(cutmix_minmax=(0.5, 0.6)), 10), torch.zeros(2, 3, 20, 20)
    images[1] = 1
    for step in range(5):
        mixed, soft = mixing(images.clone(), torch.arange(2), step)
        width, height = mixed[0, 0].any(0).sum(), mixed[0, 0].any(1).sum()
        assert 10 <= width < 12 and 10 <= height < 12
        assert soft[0, 1] == pytest.approx(float(width * height) / 400, abs=1e-6)
    assert training_of(cutmix_minmax=(0.2, 0.8)).step.mixing is not None
    with pytest.raises(CondnetError, match='`cutmix_minmax` is 0.5 0.501: of 16 pixels'):
        training_of(cutmix_minmax=(0.5, 0.501))


def test_paths_are_dropped():
    model = create_training(TrainConfig(**VIT, drop_path=0.3), SETTLED, CPU).step.task.model
    assert max(getattr(module, 'drop_prob', 0) or 0 for module in model.modules()) == pytest.approx(0.3)
    with pytest.raises(CondnetError, match='drop_path_rate is 0.3, expected 0: which paths run'):
        training_of(drop_path=0.3)


def config_of(folder, output=None, **settings):
    return TrainConfig(**{'data_dir': str(folder), 'output': output and str(output), **SMALL, 'epochs': 2,
                          'batch_size': 64, 'eval_interval': 0, **settings})  # fmt: skip


def test_fast_norm(tiny_folder):  # noqa: F811
    """For the models of this training alone."""
    fast = condnet.train(config_of(tiny_folder, fast_norm=True, **VIT, amp=True, epochs=1, batch_size=240))
    assert fast.model.norm._fast_norm and not is_fast_norm()
    assert not create_training(TrainConfig(**VIT, amp=True), SETTLED, CPU).step.task.model.norm._fast_norm
    set_fast_norm(True)
    try:
        with pytest.raises(CondnetError, match='`fast_norm` does nothing with nb201_cond_supernet'):
            condnet.train(config_of(tiny_folder, fast_norm=True, amp=True))
        assert is_fast_norm()
    finally:
        set_fast_norm(False)


RESUMED = {
    'updates': {'sched_on_updates': True, 'lr_noise': (0.2,), 'warmup_epochs': 1, 'warmup_prefix': True,
                'bce_loss': True, 'bce_sum': True, 'bce_target_thresh': 0.2, 'bce_pos_weight': 2.0,
                'cutmix_minmax': (0.2, 0.8), 'model_ema': True, 'model_ema_warmup': True},
    'plateau': {'sched': 'plateau', 'lr_noise': (0.2,), 'patience_epochs': 1, 'epochs': 3, 'no_aug': True},
    'timm': {'dataset': 'folder', 'aa': 'rand-m9-n2', 'reprob': 0.5, 'mixup': 0.4, 'lr_cycle_limit': 2, 'epochs': 1,
             'opt_kwargs': {'nesterov': True}, 'workers': 1},
    'network': {**VIT, 'layer_decay': 0.7, 'drop_path': 0.2, 'amp': True, 'fast_norm': True, 'opt': 'adamw',
                'lr_base': 1e-3, 'lr_k_decay': 1.5, 'hflip': 0.1},
}  # fmt: skip


class Stopped(Exception):
    pass


@pytest.mark.parametrize(
    'name', ['updates', *(pytest.param(name, marks=pytest.mark.slow) for name in list(RESUMED)[1:])]
)
def test_resumed_exactly(tiny_folder, tmp_path, monkeypatch, name):  # noqa: F811
    """From a checkpoint in the middle of the second epoch."""
    settings = {'recovery_interval': 3, **RESUMED[name]}
    condnet.train(config_of(tiny_folder, tmp_path / 'whole', **settings))
    save, saved = Recorder.save, []

    def stop(recorder, progress):
        save(recorder, progress)
        saved.append(dataclasses.replace(progress))
        if len(saved) == 2:
            raise Stopped

    monkeypatch.setattr(Recorder, 'save', stop)
    with pytest.raises(Stopped):
        condnet.train(config_of(tiny_folder, tmp_path / 'out', **settings))
    monkeypatch.undo()
    assert (saved[-1].epoch, saved[-1].batch) == (1, 3)
    torch.rand(3)  # other numbers than at the stop
    condnet.train(config_of(tiny_folder, tmp_path / 'out', resume=str(tmp_path / 'out'), **settings))
    assert differences(final_state(tmp_path / 'whole'), final_state(tmp_path / 'out')) == []
    if name == 'updates':
        with pytest.raises(CondnetError, match='trained with lr_noise .*; a resumed training keeps it'):
            config = config_of(tiny_folder, resume=str(tmp_path / 'out'), **settings | {'lr_noise': (0.1,)})
            condnet.train(dataclasses.replace(config, recovery_interval=0))


def test_a_resumed_training_keeps_its_flags():
    config = TrainConfig(**SMALL)
    headings = ('Optimizer', 'Learning rate schedule', 'Augmentation and regularization',
                'Model exponential moving average')  # fmt: skip
    groups = [f'{heading} parameters' for heading in headings]
    names = [field.name for field in dataclasses.fields(config) if field.metadata.get('group') in groups]
    names = [name for name in names if not name.startswith('lr_base') and name != 'stop_epoch']
    assert len(names) > 60 and all(getattr(config, name) == value for name, value in TIMM_FLAGS.items())
    for name in names:
        before = recorded_args(config, SETTLED)
        setattr(before, name, 'another')
        with pytest.raises(CondnetError, match=f"trained with {name} 'another'"):
            check_resumable({'args': before, 'task_state': {}}, config, SETTLED)


@pytest.mark.parametrize(
    ('more', 'message'),
    [
        (['--lr-cycle-limit', '2', '--sched', 'step'], '--lr-cycle-limit does nothing with the schedule step'),
        (['--lr-k-decay', '2', '--sched', 'tanh'], '--lr-k-decay does nothing with the schedule tanh'),
        (['--lr-decay-fn', 'exp'], '--lr-decay-fn does nothing with the schedule cosine'),
        (['--lr-noise', '0.5', '--sched', 'none'], '--lr-noise does nothing with the schedule none'),
        (['--sched-on-updates', '--sched', 'plateau'], '--sched-on-updates does nothing with the schedule plateau'),
        (['--warmup-prefix'], '--warmup-prefix does nothing without --warmup-epochs'),
        (['--lr-cycle-mul', '2'], '--lr-cycle-mul does nothing without --lr-cycle-limit'),
        (['--lr-noise-std', '2'], '--lr-noise-std does nothing without --lr-noise'),
        (['--lr-noise', '0.9', '0.4'], '--lr-noise is 0.9 0.4, expected a range'),
        (['--lr-cycle-limit', '99', '--lr-cycle-mul', '50'], '--lr-cycle-limit is 99, which makes'),
        (['--lr', '0.1', '--lr-base', '0.1'], '--lr-base is 0.1, and --lr is 0.1: one of them says the rate'),
        (['--lr-base-size', '64'], '--lr-base-size does nothing without --lr-base'),
        (['--cutmix', '1', '--cutmix-minmax', '0.2', '0.8'], '--cutmix does nothing with --cutmix-minmax'),
        (['--fast-norm'], '--fast-norm does nothing without --amp'),
        (['--bce-sum'], '--bce-sum does nothing without --bce-loss'),
        (['--bce-loss', '--bce-target-thresh', '0.2'], 'nothing without --mixup, --cutmix or --smoothing'),
        (['--bce-pos-weight', '2'], '--bce-pos-weight does nothing without --bce-loss'),
        (['--model-ema-warmup'], '--model-ema-warmup does nothing without --model-ema'),
    ],
)
def test_refused(capsys, more, message):
    assert main(['--data-dir', 'nowhere', *more]) == 2
    assert message in capsys.readouterr().err.strip().splitlines()[-1]


def test_help_has_the_headings_of_timm():
    shown = make_parser().format_help()
    headings = [line for line in shown.splitlines() if line.endswith(' parameters:')]
    expected = ('Dataset', 'Model', 'Super-network', 'Device', 'Optimizer', 'Learning rate schedule',
                'Augmentation and regularization', 'Batch norm', 'Model exponential moving average',
                'Miscellaneous')  # fmt: skip
    assert headings == [f'{heading} parameters:' for heading in expected]
    assert shown.index('Optimizer parameters:') < shown.index('  --opt-kwargs') < shown.index('Learning rate schedule')
