"""Every optimizer and schedule of timm: right through the split and a resume, or refused in one line."""

import io
import math

import pytest
import timm
import torch
from conftest import train_args
from small import CONVS, tiny_folder  # noqa: F401  # its images are smaller ones
from timm.optim import get_optimizer_info, list_optimizers
from timm.scheduler import create_scheduler_v2

from condnet.checkpoints.training import read_training_checkpoint
from condnet.choice import split_supernet
from condnet.cli.train import main, parse_args
from condnet.training.config import SCHEDULES
from condnet.training.optimization import (
    check_optimizer,
    create_optimizer,
    create_scheduler,
    load_schedule_state,
    schedule_state,
)

ARCHS = [(3, 2, 3, 2, 3, 2), (2, 3, 2, 3, 2, 3)]


def is_accepted(name):
    try:
        check_optimizer(name)
    except ValueError:
        return False
    return True


def names_of_each_class():
    """The first and the last name that timm has for an optimizer: others are of the same code with other defaults."""
    names = {}
    for name in filter(is_accepted, list_optimizers()):
        names.setdefault(get_optimizer_info(name).opt_class, []).append(name)
    return sorted({name for of_class in names.values() for name in (of_class[0], of_class[-1])})


OPTIMIZERS = names_of_each_class()


def flags(*more):
    return parse_args(['--data-dir', 'x', *more])


def make(*more):
    torch.manual_seed(0)
    model = timm.create_model('nb201_cond_supernet', space='only_conv', cells_per_stage=1, channels=(4, 4, 4))
    return model, create_optimizer(model, flags(*more))


def stored(model, optimizer):
    buffer = io.BytesIO()
    torch.save({'model': model.state_dict(), 'optimizer': optimizer.state_dict()}, buffer)
    return buffer.getvalue()


def restored(content, *more):
    model, optimizer = make(*more)
    state = torch.load(io.BytesIO(content), weights_only=True)
    model.load_state_dict(state['model'])
    optimizer.load_state_dict(state['optimizer'])
    return model, optimizer


def unsplit(name):
    """What the parameter of a copy was before the split."""
    parts = name.split('.')
    if 'candidates' in parts:
        parts[parts.index('candidates') + 2] = '0'
    return '.'.join(parts)


def step(model, optimizer, seed):
    """A step with made-up gradients of what an architecture samples.

    Returns:
        The names of what it has trained.
    """
    model.set_active_subnet(ARCHS[seed % 2])
    sampled = {id(p) for name, p in model.named_parameters() if '.candidates.' not in name}
    sampled |= {id(p) for block in model.choice_blocks() for p in block.active_module().parameters()}
    names = [name for name, p in model.named_parameters() if id(p) in sampled]
    optimizer.zero_grad(set_to_none=True)
    torch.manual_seed(seed)
    for name in sorted(names, key=unsplit):
        parameter = model.get_parameter(name)
        parameter.grad = torch.randn(parameter.shape).to(memory_format=torch.preserve_format)
    optimizer.step()
    return names


def values(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize('name', [*OPTIMIZERS, 'lookahead_momentum', 'lookahead_adamw', 'Lookahead_Lamb'])
def test_optimizer_through_split_and_resume(name):
    """What is not sampled stays as it is; a resumed training and a copy after the split go on as if nothing was."""
    more = ('--opt', name, '--lr', '0.01')
    model, optimizer = make(*more)
    start = values(model)
    looks_ahead = 'look' in name.lower()
    for seed in range(7 if looks_ahead else 5):  # Lookahead's sixth step is another one; ADOPT's first does nothing
        before = values(model)
        trained = step(model, optimizer, seed)
        after = values(model)
        assert all(torch.equal(before[key], after[key]) for key in before.keys() - set(trained))
    assert all(value.isfinite().all() for value in after.values())
    assert sum(not torch.equal(start[key], value) for key, value in after.items()) == len(after)
    content = stored(model, optimizer)
    (resumed, resumed_optimizer), (split, split_optimizer) = restored(content, *more), restored(content, *more)
    split_supernet(split, split_optimizer)
    for seed in range(8, 20 if looks_ahead else 12, 2):  # of one architecture, others fall behind
        before = values(split)
        step(model, optimizer, seed)
        step(resumed, resumed_optimizer, seed)
        trained = step(split, split_optimizer, seed)
        expected, found = values(model), values(split)
        assert all(torch.equal(expected[key], value) for key, value in values(resumed).items())
        # LAMB takes the norm of all gradients, and adds them up in another order.
        tolerance = 1e-5 if 'lamb' in name.lower() else 0
        for key in trained:
            torch.testing.assert_close(found[key], expected[unsplit(key)], rtol=tolerance, atol=tolerance)
        assert all(torch.equal(before[key], found[key]) for key in before.keys() - set(trained))
    assert any(unsplit(key) != key for key in trained)


@pytest.mark.parametrize(
    ('more', 'message'),
    [
        (['--opt', 'adamz'], "not one of timm's optimizers; did you mean adam"),
        (['--opt', 'ahead_adamw'], "not one of timm's optimizers; did you mean"),
        (['--opt', 'adahessian'], 'needs second derivatives'),
        (['--opt', 'lookahead_adahessian'], 'needs second derivatives'),
        (['--opt', 'fusedadam'], 'is of the package apex'),
        (['--opt', 'kronw'], 'compiles code for every shape of a weight'),
        (['--opt', 'bnblion8bit'], 'is of the package bitsandbytes'),
        (['--opt', 'sgd', '--momentum', '0'], 'Nesterov momentum requires a momentum'),
        (['--sched', 'foo'], "--sched is 'foo', expected one of cosine, tanh"),
        (['--sched', 'rsqrt'], "--sched is 'rsqrt', expected one of cosine, tanh"),
        (
            ['--sched', 'step', '--epochs', '90'],
            '--sched step changes the rate after 90 epochs, of 90: set --decay-epochs',
        ),
        (
            ['--sched', 'multistep', '--epochs', '3', '--decay-milestones', '7', '4'],
            'after 3 epochs, of 3: set --decay-milestones',
        ),
        (['--sched', 'cosine', '--decay-rate', '0.5'], '--decay-rate does nothing with the schedule cosine'),
        (['--sched', 'wsd', '--epochs', '2'], 'wsd schedule requires 0 < decay_epochs'),
        (['--lr', 'nan'], '--lr is nan'),
        (['--sched', 'step', '--decay-epochs', '0'], '--decay-epochs is 0.0, expected at least 1e-06'),
        (['--sched', 'step', '--decay-epochs', '1', '--decay-rate', '-1'], '--decay-rate is -1.0, expected at least 0'),
        (['--sched', 'multistep', '--decay-milestones', '5', '0'], '--decay-milestones is 0, expected at least 1'),
        (['--sched', 'plateau', '--patience-epochs', '-1'], '--patience-epochs is -1, expected at least 0'),
    ],
)
def test_refused(more, message):
    with pytest.raises(ValueError, match=message):
        create_scheduler(make(*more)[1], flags(*more))


def test_every_schedule_of_timm_is_known():
    """Or is a version of timm that has others."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    for name in {*SCHEDULES, 'rsqrt'} - {'plateau'}:
        create_scheduler_v2(optimizer, name, num_epochs=10, warmup_epochs=1)
    documented = create_scheduler_v2.__doc__.split('scheduler name, one of ')[1].split('(returns')[0]
    assert {word for word in documented.split("'")[1::2]} == {*SCHEDULES, 'rsqrt'}


RATES = {
    'cosine': lambda t: 0.001 + 0.099 * (1 + math.cos(math.pi * t / 10)) / 2,
    'tanh': lambda t: 0.001 + 0.099 / 2 * (1 - math.tanh(-7 * (1 - t / 10) + 3 * t / 10)),
    'poly': lambda t: 0.001 + 0.099 * (1 - t / 10) ** 0.5,
    'wsd': lambda t: 0.001 + 0.099 * (1 - math.sqrt(max(0, t - 6) / 4)),
    'step': lambda t: 0.1 * 0.5 ** (t // 4),
    'multistep': lambda t: 0.1 * 0.5 ** ((t + 1 >= 3) + (t + 1 >= 5)),
    'constant': lambda t: 0.1,
    'none': lambda t: 0.1,
}
MORE = {'poly': ['--decay-rate', '0.5'], 'step': ['--decay-rate', '0.5', '--decay-epochs', '4'],
        'wsd': ['--decay-epochs', '4'],
        'multistep': ['--decay-rate', '0.5', '--decay-milestones', '3', '5']}  # fmt: skip


@pytest.mark.parametrize('name', RATES)
def test_rates(name):
    """Those of the epochs 0 to 9, also of copies, and after a resume."""
    more = ['--sched', name, '--epochs', '10', '--lr', '0.1', '--min-lr', '0.001', *MORE.get(name, [])]
    model, optimizer = make(*more)
    scheduler, rates = create_scheduler(optimizer, flags(*more)), []
    for epoch in range(10):
        if epoch == 4:
            split_supernet(model, optimizer)
        if epoch == 6:
            state = optimizer.state_dict()
            model, optimizer = make(*more)
            scheduler = create_scheduler(optimizer, flags(*more))
            split_supernet(model, optimizer)
            optimizer.load_state_dict(state)
        assert len({group['lr'] for group in optimizer.param_groups}) == 1
        rates.append(optimizer.param_groups[0]['lr'])
        scheduler.step(epoch + 1, None)
    assert rates == pytest.approx([RATES[name](epoch) for epoch in range(10)], rel=1e-6)


def test_plateau_remembers():
    """The rate falls when the loss has not for longer than the patience, at any size of the rate; also resumed."""
    more = ['--sched', 'plateau', '--lr', '1e-9', '--min-lr', '1e-11', '--patience-epochs', '1', '--decay-rate', '0.5']
    losses = [3.0, 2.0, 2.5, None, 2.5, 1.0, 1.0, 1.0, 0.9]
    expected = [1e-9, 1e-9, 1e-9, 1e-9, 5e-10, 5e-10, 5e-10, 2.5e-10, 2.5e-10]
    for resumed_at in (None, 3, 4, 7):
        _, optimizer = make(*more)
        scheduler, rates = create_scheduler(optimizer, flags(*more)), []
        for epoch, loss in enumerate(losses):
            if epoch == resumed_at:
                states = optimizer.state_dict(), schedule_state(scheduler)
                _, optimizer = make(*more)
                scheduler = create_scheduler(optimizer, flags(*more))
                optimizer.load_state_dict(states[0])
                load_schedule_state(scheduler, states[1])
            scheduler.step(epoch + 1, loss)
            rates.append(optimizer.param_groups[0]['lr'])
        assert rates == pytest.approx(expected)


def rates_of(output):
    return [row['lr'] for row in read_training_checkpoint(output / 'last.pth.tar')['progress']['summary']]


@pytest.mark.slow
@pytest.mark.parametrize('interval', ['0', '1', '2'])
def test_plateau_goes_by_the_validations(tiny_data, tmp_path, interval):
    """Or by the training loss, where there are none. A resumed training knows what the best was."""
    more = ['--sched', 'plateau', '--lr', '1e-9', '--min-lr', '0', '--patience-epochs', '0', '--epochs', '4']
    more += [*CONVS, '--eval-archs', '1', '--eval-interval', interval]
    arguments = train_args(tiny_data, tmp_path / 'whole', *more)
    assert main(arguments) == 0
    summary = read_training_checkpoint(tmp_path / 'whole' / 'last.pth.tar')['progress']['summary']
    best, rate, expected = math.inf, 1e-9, []
    for row in summary:
        expected.append(rate)
        loss = row['train_loss'] if interval == '0' else row['eval_loss']
        if loss is not None:
            rate = rate if loss < best * (1 - 1e-4) else rate * 0.1
            best = min(best, loss) if loss < best * (1 - 1e-4) else best
    assert rates_of(tmp_path / 'whole') == pytest.approx(expected)
    if interval == '1':
        assert expected[-1] < 1e-9
        arguments = train_args(tiny_data, tmp_path / 'cut', *more)
        assert main([*arguments, '--stop-epoch', '1']) == 0
        assert main([*arguments, '--resume', str(tmp_path / 'cut'), '--eval-archs', '2']) == 2
        assert main([*arguments, '--resume', str(tmp_path / 'cut')]) == 0
        assert rates_of(tmp_path / 'cut') == rates_of(tmp_path / 'whole')
