"""One training step: sampling, gradient accumulation, precision, and the authors' variants of the method."""

import re
from collections import Counter
from functools import partialmethod

import pytest
import torch
from conftest import SMALL, make_training, random_batch, train_args
from torch import nn

from condnet.checkpoint import LAST, read_training_checkpoint
from condnet.counts import choices_of
from condnet.errors import CondnetError
from condnet.spaces import get_space
from condnet.step import TrainingStep, compile_model
from condnet.task import SupernetTask, archs_of_step
from condnet.train import create_training, main, resume


@pytest.mark.parametrize('space', [get_space('nb201', 'no_zero'), get_space('macro')], ids=str)
def test_fair_sampling_takes_every_operation_once(space):
    for step in range(20):
        archs = archs_of_step(space, 7, step, 'fair')
        assert len(archs) == len(space.choices)
        for decision in range(len(space.predecessors)):
            assert sorted(arch[decision] for arch in archs) == sorted(space.choices)
    assert archs_of_step(space, 7, 3, 'fair') == archs_of_step(space, 7, 3, 'fair')
    # As a single architecture every one is as probable as any other: decisions are independent.
    pairs = Counter(arch[:2] for step in range(2000) for arch in archs_of_step(space, 0, step, 'fair')[:1])
    expected = 2000 / len(space.choices) ** 2
    assert len(pairs) == len(space.choices) ** 2
    assert sum((n - expected) ** 2 / expected for n in pairs.values()) < 3 * len(pairs)


def test_operation_weights_are_the_proportions_of_what_is_sampled():
    space, weights = get_space('nb201', 'no_zero'), (9.0, 1, 1.5, 2.5, 1)  # the first is of an operation not in it
    drawn = [archs_of_step(space, 3, step, operation_weights=weights)[0] for step in range(3000)]
    for decision in range(6):
        counts = Counter(arch[decision] for arch in drawn)
        assert set(counts) == {1, 2, 3, 4}
        expected = {o: 3000 * weights[o] / 6 for o in counts}
        assert sum((counts[o] - expected[o]) ** 2 / expected[o] for o in counts) < 20  # chi-squared, 3 degrees
    assert archs_of_step(space, 3, 17, operation_weights=weights) == [drawn[17]]  # of seed and step alone
    # As the pretrained `cond1_cifar10` was trained: another order of random numbers would train another one.
    full = get_space('nb201')
    first = [
        full.index(archs_of_step(full, 0, step, operation_weights=(0.5, 1, 1.5, 2.5, 0.5))[0]) for step in range(4)
    ]
    assert first == [179, 14149, 63, 4181]


@pytest.mark.parametrize(
    'weights, sampling, why',
    [
        ([1, 1, 1], 'uniform', '3 operation weights, nb201 has 5'),
        ([1, 0, 1, 1, 1], 'uniform', 'the weight of skip_connect is 0, expected more than 0'),
        ([1, 1, float('nan'), 1, 1], 'uniform', 'the weight of nor_conv_1x1 is nan'),
        ([1, 1, 1, 1, float('inf')], 'uniform', 'the weight of avg_pool_3x3 is inf'),
        ([1, 1, 1, 1, 1], 'fair', 'uniform sampling'),
    ],
)
def test_wrong_operation_weights_are_refused(weights, sampling, why):
    task, _ = make_training('nb201_cond_supernet', **SMALL['nb201_cond_supernet'] | {'space': 'full'})
    with pytest.raises(CondnetError, match=re.escape(why)):
        SupernetTask(task.model, sampling=sampling, operation_weights=weights)


def test_fair_step_updates_with_the_sum_of_all_gradients():
    images, targets = random_batch()
    task, optimizer = make_training('nb201_cond_supernet', **SMALL['nb201_cond_supernet'])
    task.sampling = 'fair'
    start = {name: p.detach().clone() for name, p in task.model.named_parameters()}
    other, _ = make_training('nb201_cond_supernet', **SMALL['nb201_cond_supernet'])
    gradients = Counter()
    losses = []
    for arch in archs_of_step(task.model.space, 0, 0, 'fair'):
        other.model.set_active_subnet(arch)
        other.model.zero_grad()
        loss = other(images, targets)['loss']
        loss.backward()
        losses.append(loss.detach())
        for name, p in other.model.named_parameters():
            if p.grad is not None:
                gradients[name] = gradients[name] + p.grad
    mean = TrainingStep(task, optimizer)(images, targets)
    torch.testing.assert_close(mean, torch.stack(losses).mean())
    for name, p in task.model.named_parameters():
        decay = 0 if p.ndim <= 1 else 3e-4
        torch.testing.assert_close(p.detach(), start[name] - 0.025 * (gradients[name] + decay * start[name]))
    space = task.model.space
    archs = archs_of_step(space, 0, 0, 'fair')
    assert task.counts == Counter(choice for arch in archs for choice in choices_of(space, arch)) and task.step == 1


@pytest.mark.parametrize('updates', [False, True])
def test_weights_that_are_not_sampled(updates):
    """They stay as they are; as an option they decay and follow their momentum."""
    task, optimizer = make_training('nb201_cond_supernet', **SMALL['nb201_cond_supernet'])
    step = TrainingStep(task, optimizer, updates_unsampled=updates)
    for i in range(30):  # every weight set has a momentum then
        step(*random_batch(4, seed=i))
    states = {name: optimizer.state[p].get('momentum_buffer') for name, p in task.model.named_parameters()}
    assert all(state is not None for state in states.values())
    before = {name: (p.detach().clone(), states[name].clone()) for name, p in task.model.named_parameters()}
    sampled = archs_of_step(task.model.space, 0, 30)[0]
    step(*random_batch(4, seed=30))
    num_idle = 0
    for name, p in task.model.named_parameters():
        _, _, rest = name.partition('.edges.')
        if not rest or sampled[int(rest.split('.')[0])] == int(rest.split('.')[2]):
            continue
        num_idle += 1
        weight, momentum = before[name]
        if updates:
            momentum = 0.9 * momentum + 3e-4 * weight
            weight = weight - 0.025 * momentum
            torch.testing.assert_close(p.detach(), weight, rtol=1e-6, atol=1e-8)
            torch.testing.assert_close(states[name], momentum, rtol=1e-5, atol=1e-8)
        else:
            assert torch.equal(p, weight) and torch.equal(states[name], momentum)
    assert num_idle > 10


@pytest.mark.parametrize('shares', [False, True])
def test_momentum_of_copies(shares, tiny_data, tmp_path):
    """Each has its own; as an option they share one, also after a resume."""
    assert main(train_args(tiny_data, tmp_path, '--stop-epoch', '3', *(['--share-momentum'] if shares else []))) == 0
    checkpoint = read_training_checkpoint(tmp_path / LAST)
    for state in checkpoint['optimizer']['state'].values():
        if state:  # as if it came from a GPU, where every one is copied for itself
            state['momentum_buffer'] = state['momentum_buffer'].clone()
    step, _ = create_training(checkpoint['args'], torch.device('cpu'))
    resume(step, checkpoint, checkpoint['args'])
    num_copies = 0
    for block in step.task.model.choice_blocks():
        for operation in block.space.choices:
            for copied in list(block.weight_sets(operation))[1:]:
                pairs = zip(block.weight_sets(operation)[0].parameters(), copied.parameters(), strict=True)
                for parameter, other in pairs:
                    num_copies += 1
                    assert (step.optimizer.state[parameter] is step.optimizer.state[other]) == shares
    assert num_copies > 50


def test_accumulated_gradients_are_those_of_the_whole_batch():
    """Of unequal parts, too, where BatchNorm does not see the batch."""
    ends = []
    for num_parts in (1, 3):
        task, optimizer = make_training('macro_cond_supernet')
        task.eval()
        loss = TrainingStep(task, optimizer, num_parts=num_parts)(*random_batch(8))
        ends.append({name: p.detach() for name, p in task.model.named_parameters()} | {'loss': loss})
    for name, value in ends[0].items():
        torch.testing.assert_close(ends[1][name], value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_mixed_precision_learns(dtype):
    """Computed in the data type, with weights and gradients in float32; with float16 gradients are scaled back."""
    seen, results = set(), []
    for amp_dtype in (None, dtype):
        task, optimizer = make_training('nb201_cond_supernet', **SMALL['nb201_cond_supernet'])
        task.model.stem.conv.register_forward_hook(lambda _, __, output: seen.add(output.dtype))
        step = TrainingStep(task, optimizer, amp_dtype=amp_dtype)
        batch = random_batch(16)
        first = step(*batch)
        gradient = task.model.head.weight.grad.clone()
        last = [step(*batch) for _ in range(8)][-1]
        results.append((first, gradient, last))
    assert seen == {torch.float32, dtype}
    (first, gradient, last), (amp_first, amp_gradient, amp_last) = results
    torch.testing.assert_close(amp_first, first, rtol=0.02, atol=0)
    if dtype == torch.float16:
        assert step.scaler.is_enabled()
    assert amp_gradient.dtype == torch.float32
    assert (amp_gradient - gradient).norm() < 0.05 * gradient.norm()
    assert amp_last < first


def test_depthwise_convolutions_stay_in_float32_on_the_cpu():
    """Everything else is computed in bfloat16; without autocast, nothing changes."""
    seen = set()
    for amp_dtype in (None, torch.bfloat16):
        task, optimizer = make_training('macro_cond_supernet')
        for module in task.model.modules():
            if isinstance(module, torch.nn.Conv2d):
                kind = 'depthwise' if module.groups > 1 else 'dense'
                module.register_forward_hook(lambda _, __, output, k=kind, a=amp_dtype: seen.add((k, a, output.dtype)))
        TrainingStep(task, optimizer, amp_dtype=amp_dtype)(*random_batch(4))
        assert all(p.grad is None or p.grad.dtype == torch.float32 for p in task.model.parameters())
    expected = {(kind, None, torch.float32) for kind in ('depthwise', 'dense')}
    expected |= {('depthwise', torch.bfloat16, torch.float32), ('dense', torch.bfloat16, torch.bfloat16)}
    assert seen == expected


def losses_of(output):
    return torch.tensor([[row['train_loss'], row['eval_loss']] for row in
                         read_training_checkpoint(output / LAST)['progress']['summary']])  # fmt: skip


def test_float16_resumes_exactly(tiny_data, tmp_path):
    """With the scale of the loss, which has changed on the way."""
    more = ('--amp', '--amp-dtype', 'float16', '--eval-interval', '0', '--epochs', '2', '--split-epoch', '1')
    assert main(train_args(tiny_data, tmp_path / 'whole', *more)) == 0
    arguments = train_args(tiny_data, tmp_path / 'cut', *more)
    assert main([*arguments, '--stop-epoch', '1']) == 0
    assert main([*arguments, '--resume', str(tmp_path / 'cut')]) == 0
    whole, cut = (read_training_checkpoint(tmp_path / name / LAST) for name in ('whole', 'cut'))
    assert whole['scaler'] == cut['scaler'] and whole['scaler']['_growth_tracker'] > 0
    for key, value in whole['state_dict'].items():
        assert torch.equal(value, cut['state_dict'][key])


def test_float16_at_a_standstill_is_an_error():
    task, optimizer = make_training('nb201_cond_supernet', **SMALL['nb201_cond_supernet'])
    task.model.head.weight.register_hook(lambda gradient: gradient * float('inf'))
    step = TrainingStep(task, optimizer, amp_dtype=torch.float16)
    before = task.model.head.weight.detach().clone()
    for _ in range(17):  # it starts at 2 ** 16
        step.check_scale()
        step(*random_batch(4))
    assert torch.equal(task.model.head.weight, before)
    with pytest.raises(FloatingPointError, match='not finite in float16, even with the loss scaled by 0.5'):
        step.check_scale()


def test_compiled_candidates_train_like_plain_ones(monkeypatch):
    """Before the split and after it; in double precision, as tiny networks amplify the rounding of single precision.

    The graphs run as they were captured, which takes half the time: generated code is for PyTorch to test.
    """
    monkeypatch.setattr(nn.Module, 'compile', partialmethod(nn.Module.compile, backend='aot_eager'))
    losses = []
    for compiled in (False, True):
        task, optimizer = make_training(
            'nb201_cond_supernet', space='only_conv', cells_per_stage=1, channels=(4, 4, 4), dtype=torch.float64
        )
        step = TrainingStep(task, optimizer)
        for i in range(8):
            if i == 4:
                task.split(optimizer)
            if compiled and i in (0, 4):
                compile_model(task.model)
            images, targets = random_batch(64, seed=i)
            losses.append(step(images.double(), targets))
    torch.testing.assert_close(losses[8:], losses[:8], rtol=1e-12, atol=0)


def test_training_compiles_little_and_goes_on(tiny_data, tmp_path):
    """Through the check after an epoch, the split, and a resume."""
    more = ('--model-kwargs', 'space=only_conv', 'cells_per_stage=1', 'channels=(4,4,4)')
    assert main(train_args(tiny_data, tmp_path / 'plain', *more)) == 0
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    arguments = train_args(tiny_data, tmp_path / 'compiled', *more, '--torchcompile')
    assert main([*arguments, '--stop-epoch', '3']) == 0
    graphs = torch._dynamo.utils.counters['stats']['unique_graphs']
    assert 0 < graphs <= 12  # weight sets share them: three resolutions, two operations, with and without their input's
    assert main([*arguments, '--resume', str(tmp_path / 'compiled')]) == 0
    # Rounding alone makes 4e-3 in the loss of 10 images; the test above is the exact one.
    torch.testing.assert_close(losses_of(tmp_path / 'compiled'), losses_of(tmp_path / 'plain'), rtol=2e-2, atol=0)
