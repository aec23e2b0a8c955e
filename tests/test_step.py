"""One training step: sampling, gradient accumulation, precision, and the authors' variants of the method."""

import copy
import io
import re
from collections import Counter
from functools import partialmethod

import pytest
import torch
from conftest import SMALL, make_training, random_batch, train_args
from small import CONVS, tiny_folder  # noqa: F401  # its images are smaller ones
from torch import nn

from condnet.checkpoints.training import LAST, read_training_checkpoint
from condnet.cli.train import main
from condnet.errors import CondnetError
from condnet.models.counts import choices_of
from condnet.spaces.registry import get_space
from condnet.training.build import create_training
from condnet.training.config import recorded_settings
from condnet.training.resume import resume
from condnet.training.step import DepthwiseInFloat32, TrainingStep, compile_model
from condnet.training.task import SupernetTask, archs_of_step


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
    few = ('--epochs', '2', '--split-epoch', '1', '--eval-interval', '0')
    assert main(train_args(tiny_data, tmp_path, *few, *(['--share-momentum'] if shares else []))) == 0
    checkpoint = read_training_checkpoint(tmp_path / LAST)
    for state in checkpoint['optimizer']['state'].values():
        if state:  # as if it came from a GPU, where every one is copied for itself
            state['momentum_buffer'] = state['momentum_buffer'].clone()
    training = create_training(*recorded_settings(checkpoint['args']), torch.device('cpu'))
    resume(training, checkpoint)
    step = training.step
    num_copies = 0
    for block in step.task.model.choice_blocks():
        for operation in block.space.choices:
            for copied in list(block.weight_sets(operation))[1:]:
                pairs = zip(block.weight_sets(operation)[0].parameters(), copied.parameters(), strict=True)
                for parameter, other in pairs:
                    num_copies += 1
                    assert (step.optimizer.state[parameter] is step.optimizer.state[other]) == shares
    assert num_copies > 50


class AuthorsTraining:
    """What the authors' code computes, in plain words: an unsplit super-network, which is all that the optimizer knows.

    Before a step, the weight set of an operation's context is swapped in, if another one is live, and that one stored.

    Args:
        task: A task before the split.
        optimizer: Its optimizer.
        shares: Whether momentum stays with the live weights; or else it is stored and swapped in with them.
        updates: Whether the live weights of what is not sampled have a gradient of zero; or else none.
    """

    def __init__(self, task, optimizer, shares: bool, updates: bool) -> None:
        self.live = dict(task.last_contexts)
        self.seed, self.sampling, self.shares, self.updates = task.seed, task.sampling, shares, updates
        self.model, self.optimizer = copy.deepcopy((task.model, optimizer))
        self.stored = {  # of every context, as the split makes copies
            (block, operation, context): self.take_out(block, operation)
            for block in self.model.choice_blocks()
            for operation in self.model.space.choices
            for context in range(self.model.space.num_contexts(block.decision))
        }

    def take_out(self, block, operation):
        module = block.weight_sets(operation)[0]
        momenta = [self.optimizer.state[p]['momentum_buffer'].clone() for p in module.parameters()]
        return copy.deepcopy(module.state_dict()), momenta

    def swap_in(self, arch) -> None:
        for block in self.model.choice_blocks():
            operation = arch[block.decision]
            live, context = self.live[block.decision, operation], self.model.space.context(arch, block.decision)
            if live != context:
                self.stored[block, operation, live] = self.take_out(block, operation)
                state_dict, momenta = self.stored[block, operation, context]
                module = block.weight_sets(operation)[0]
                module.load_state_dict(state_dict)
                if not self.shares:
                    for parameter, momentum in zip(module.parameters(), momenta, strict=True):
                        self.optimizer.state[parameter]['momentum_buffer'] = momentum.clone()
        self.live.update({(d, o): c for d, o, c in choices_of(self.model.space, arch)})

    def step(self, number, images, targets, num_parts) -> None:
        for parameter in self.model.parameters():
            parameter.grad = torch.zeros_like(parameter) if self.updates else None
        for arch in archs_of_step(self.model.space, self.seed, number, self.sampling):
            self.swap_in(arch)
            self.model.set_active_subnet(arch)
            for part, labels in zip(images.tensor_split(num_parts), targets.tensor_split(num_parts), strict=True):
                loss = nn.functional.cross_entropy(self.model(part), labels)
                (loss * (len(part) / len(images))).backward()
        self.optimizer.step()

    def check(self, model, optimizer) -> int:
        """Compare with a split super-network, to the bit; returns the number of weight sets compared."""
        num = 0
        for block, other in zip(self.model.choice_blocks(), model.choice_blocks(), strict=True):
            for operation in model.space.choices:
                live = self.take_out(block, operation)
                for context, module in enumerate(other.weight_sets(operation)):
                    is_live = context == self.live[block.decision, operation]
                    expected, momenta = live if is_live else self.stored[block, operation, context]
                    for key, value in module.state_dict().items():
                        assert torch.equal(value, expected[key]), (operation, context, key)
                    for parameter, momentum in zip(
                        module.parameters(), live[1] if self.shares else momenta, strict=True
                    ):
                        assert torch.equal(optimizer.state[parameter]['momentum_buffer'], momentum)
                        num += 1
        rest = {key: value for key, value in model.state_dict().items() if '.candidates.' not in key}
        assert all(torch.equal(value, self.model.state_dict()[key]) for key, value in rest.items())
        return num


def resumed(task, optimizer, make):
    """A task and its optimizer that go on from the state of others, as a checkpoint holds it."""
    file = io.BytesIO()
    torch.save({'optimizer': optimizer.state_dict(), **task.get_checkpoint_state()}, file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    task, optimizer = make()
    task.split(optimizer)
    task.load_checkpoint_state(state['state_dict'], state['task_state'])
    optimizer.load_state_dict(state['optimizer'])
    task.share_momentum(optimizer)
    return task, optimizer


@pytest.mark.parametrize(
    ('shares', 'updates', 'sampling', 'num_parts', 'implementation'),
    [
        (True, True, 'uniform', 1, {}),
        (True, True, 'uniform', 2, {'foreach': True}),
        (True, True, 'fair', 1, {'fused': True}),
        (True, False, 'uniform', 1, {}),
        (False, True, 'uniform', 1, {}),
        (False, False, 'uniform', 1, {}),
    ],
)
def test_the_authors_training(shares, updates, sampling, num_parts, implementation):
    """Through the split, and a resume after it."""

    def make():
        kwargs = {'space': 'only_conv', 'cells_per_stage': 1, 'channels': (4, 4, 4), 'dtype': torch.float64}
        task, optimizer = make_training('nb201_cond_supernet', **kwargs)
        task.sampling, task.shares_momentum = sampling, shares
        for group in optimizer.param_groups:
            group.update(implementation)
        return task, optimizer

    def batch(number):
        images, targets = random_batch(6, seed=number)
        return images[..., ::2, ::2].double(), targets

    task, optimizer = make()
    step = TrainingStep(task, optimizer, None, num_parts, None, updates)
    for number in range(8):  # every operation has a momentum then
        step(*batch(number))
    plain = AuthorsTraining(task, optimizer, shares, updates)
    task.split(optimizer)
    for number in range(8, 24):
        if number == 16:
            task, optimizer = resumed(task, optimizer, make)
            step = TrainingStep(task, optimizer, None, num_parts, None, updates)
        step(*batch(number))
        plain.step(number, *batch(number), num_parts)
        if number in (8, 15, 16, 23):
            assert plain.check(task.model, optimizer) == 66
    assert {context for decision, _, context in task.counts_since_split if decision == 5} == {0, 1, 2, 3}


def test_a_training_whose_stored_weights_moved_is_not_gone_on_with(tiny_data, tmp_path, capsys):
    """Split ones of versions that did not know which weight sets were live; before the split nothing was different."""
    more = (*CONVS, '--share-momentum', '--update-unsampled', '--eval-interval', '0', '--keep-epochs', '2')
    arguments = train_args(tiny_data, tmp_path, *more)
    assert main([*arguments, '--stop-epoch', '3']) == 0
    for name in (LAST, 'milestone-2.pth.tar'):
        checkpoint = read_training_checkpoint(tmp_path / name)
        del checkpoint['task_state']['last_contexts']
        torch.save(checkpoint, tmp_path / name)
    assert main([*arguments, '--resume', str(tmp_path)]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert 'whose --update-unsampled was not' in error and error.endswith('go on from its last unsplit checkpoint')
    other = tmp_path / 'other'
    assert main([*train_args(tiny_data, other, *more), '--resume', str(tmp_path / 'milestone-2.pth.tar')]) == 0
    assert read_training_checkpoint(other / LAST)['task_state']['last_contexts']


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


CONV2D = nn.functional.conv2d


@pytest.mark.parametrize('call', [
    lambda x, w, b, g: CONV2D(x, w, b, 1, 1, 1, g),
    lambda x, w, b, g: CONV2D(x, w, b, (1, 1), padding=(1, 1), groups=g),
    lambda x, w, b, g: CONV2D(input=x, weight=w, bias=b, padding=1, groups=g),
    lambda x, w, b, g: CONV2D(x, weight=w.bfloat16(), bias=b.bfloat16(), padding='same', groups=g),
    lambda x, w, b, g: torch.conv2d(x.bfloat16(), w, b, padding=1, groups=g),
])  # fmt: skip
@pytest.mark.parametrize('groups', [1, 2, 8])
def test_only_depthwise_convolutions_are_computed_in_float32(call, groups):
    """However the arguments are passed; other groups are computed as without us."""
    generator = torch.Generator().manual_seed(0)
    x, bias = torch.randn(2, 8, 6, 6, generator=generator), torch.randn(16, generator=generator)
    weight = torch.randn(16, 8 // groups, 3, 3, generator=generator)
    x, weight, bias = x.bfloat16().float(), weight.bfloat16().float(), bias.bfloat16().float()
    with torch.autocast('cpu', torch.bfloat16):
        plain = call(x, weight, bias, groups)
        with DepthwiseInFloat32():
            found = call(x, weight, bias, groups)
    expected = CONV2D(x, weight, bias, padding=1, groups=groups) if groups == 8 else plain
    assert found.dtype == (torch.float32 if groups == 8 else torch.bfloat16)
    assert torch.equal(found, expected)


def test_other_convolutions_are_left_alone():
    with torch.autocast('cpu', torch.bfloat16), DepthwiseInFloat32():
        assert nn.Conv1d(4, 4, 3, groups=4)(torch.ones(1, 4, 8)).dtype == torch.bfloat16
        assert nn.Conv3d(4, 4, 3, groups=4)(torch.ones(1, 4, 8, 8, 8)).dtype == torch.bfloat16
        assert nn.Conv2d(4, 4, 3, groups=4)(torch.ones(1, 4, 8, 8)).dtype == torch.float32


def losses_of(output):
    return torch.tensor([[row['train_loss'], row['eval_loss']] for row in
                         read_training_checkpoint(output / LAST)['progress']['summary']])  # fmt: skip


@pytest.mark.slow
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


@pytest.mark.slow
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
            images, targets = random_batch(16, seed=i, pixels=16)
            losses.append(step(images.double(), targets))
    torch.testing.assert_close(losses[8:], losses[:8], rtol=1e-12, atol=0)


@pytest.mark.slow
def test_training_compiles_little_and_goes_on(tiny_data, tmp_path, monkeypatch):
    """Through the check after an epoch, the split, and a resume. The graphs run as they were captured, as above."""
    monkeypatch.setattr(nn.Module, 'compile', partialmethod(nn.Module.compile, backend='aot_eager'))
    more = ('--epochs', '3', '--split-epoch', '1', *CONVS)
    assert main(train_args(tiny_data, tmp_path / 'plain', *more)) == 0
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    arguments = train_args(tiny_data, tmp_path / 'compiled', *more, '--torchcompile')
    assert main([*arguments, '--stop-epoch', '2']) == 0
    graphs = torch._dynamo.utils.counters['stats']['unique_graphs']
    assert 0 < graphs <= 12  # weight sets share them: three resolutions, two operations, with and without their input's
    assert main([*arguments, '--resume', str(tmp_path / 'compiled')]) == 0
    # Rounding alone makes 4e-3 in the loss of 10 images; the test above is the exact one.
    torch.testing.assert_close(losses_of(tmp_path / 'compiled'), losses_of(tmp_path / 'plain'), rtol=2e-2, atol=0)
