"""The split, checked in real training: it changes no output, and afterwards only what is sampled is trained."""

import copy

import pytest
import timm
import torch
from conftest import MODELS, SMALL, make_training, random_batch, train_step

from condnet.choice import split_supernet
from condnet.training.task import archs_of_step


@pytest.fixture(scope='module', params=MODELS)
def trained_once(request):
    task, optimizer = make_training(request.param, ema=True, **SMALL[request.param])
    for step in range(30):
        train_step(task, optimizer, *random_batch(4, seed=step))
    return task, optimizer


@pytest.fixture
def trained(trained_once):
    """A super-network with averaged weights after 30 training steps, and its optimizer."""
    return copy.deepcopy(trained_once)


def outputs(model, archs, images):
    model.eval()
    results = []
    for arch in archs:
        model.set_active_subnet(arch)
        with torch.no_grad():
            results.append(model(images))
    return results


def test_split_changes_no_output_bit(trained):
    task, optimizer = trained
    images, _ = random_batch(2, seed=99)
    archs = task.model.space.sample_distinct(25, seed=5)
    ema = task.trainable_module_ema.module
    before, before_ema = outputs(task.model, archs, images), outputs(ema, archs, images)
    task.split(optimizer)
    assert task.model.is_split and ema.is_split
    after = outputs(task.model, archs, images) + outputs(ema, archs, images)
    for old, new in zip(before + before_ema, after, strict=True):
        assert torch.equal(old, new)


def test_every_parameter_is_in_exactly_one_group_with_its_sources_state(trained):
    task, optimizer = trained
    group_of = {id(p): i for i, group in enumerate(optimizer.param_groups) for p in group['params']}
    before = {name: (group_of[id(p)], optimizer.state[p]) for name, p in task.model.named_parameters()}
    task.split(optimizer)
    members = [(id(p), i) for i, group in enumerate(optimizer.param_groups) for p in group['params']]
    parameters = dict(task.model.named_parameters())
    assert sorted(member for member, _ in members) == sorted(id(p) for p in parameters.values())
    for name, parameter in parameters.items():
        source = '.'.join(_first_context(name.split('.')))
        group, state = before[source]
        assert dict(members)[id(parameter)] == group
        if name != source and state:
            assert torch.equal(optimizer.state[parameter]['momentum_buffer'], state['momentum_buffer'])
            assert optimizer.state[parameter]['momentum_buffer'] is not state['momentum_buffer']


def _first_context(parts):
    if 'candidates' in parts:
        parts[parts.index('candidates') + 2] = '0'
    return parts


def snapshot(model, optimizer):
    """All that training may change: weights and BatchNorm buffers, and momentum."""
    state = {key: value.clone() for key, value in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        momentum = optimizer.state.get(parameter, {}).get('momentum_buffer')
        if momentum is not None:
            state[f'{name} momentum'] = momentum.clone()
    return state


@pytest.mark.parametrize('split', [False, True])
def test_a_step_changes_exactly_what_it_sampled(trained, split):
    """Weights, momentum and BatchNorm buffers of other candidates and contexts stay bit-identical."""
    task, optimizer = trained
    if split:
        task.split(optimizer)
    # All convolutions, so that each has a gradient that is not zero.
    arch = (3, 2, 3, 2, 3, 2) if task.model.space.name == 'nb201' else (1, 2, 1, 2, 0, 1, 2, 1)
    before = snapshot(task.model, optimizer)
    task.model.train()
    task.model.set_active_subnet(arch)
    optimizer.zero_grad(set_to_none=True)
    torch.nn.functional.cross_entropy(task.model(random_batch(8, seed=7)[0]), random_batch(8, seed=7)[1]).backward()
    optimizer.step()
    after = snapshot(task.model, optimizer)
    changed = {key for key in after if key not in before or not torch.equal(before[key], after[key])}
    sampled = sampled_names(task.model)
    assert changed - sampled == set()
    assert {key for key in sampled if 'num_batches' not in key} - changed == set()


def sampled_names(model):
    """Names in a snapshot that belong to what the active sub-network runs."""
    names = set()
    for block_name, block in ((n, m) for n, m in model.named_modules() if type(m).__name__ == 'ChoiceBlock'):
        operation, context = block.active
        prefix = f'{block_name}.candidates.{operation}.{context}.'
        names.update(key for key in model.state_dict() if key.startswith(prefix))
    names.update(key for key in model.state_dict() if '.candidates.' not in key)
    return names | {f'{name} momentum' for name, _ in model.named_parameters() if name in names}


def test_copies_specialise():
    task, optimizer = make_training('macro_cond_supernet')
    task.split(optimizer)
    for step in range(12):
        train_step(task, optimizer, *random_batch(4, seed=step))
    weights = [task.model.stages[0][1].candidates['2'][context].project.conv.weight for context in range(3)]
    assert not torch.equal(weights[0], weights[1]) and not torch.equal(weights[1], weights[2])


def test_only_a_supernet_and_only_once():
    task, optimizer = make_training('nb201_cond_supernet')
    task.split(optimizer)
    with pytest.raises(ValueError, match='split already'):
        task.split(optimizer)
    task, optimizer = make_training('nb201_net')
    with pytest.raises(ValueError, match='only a super-network'):
        task.split(optimizer)


def test_optimizer_of_another_model_is_refused_before_anything_is_split():
    model = timm.create_model('macro_cond_supernet')
    optimizer = torch.optim.SGD(timm.create_model('macro_cond_supernet').parameters(), lr=0.1)
    with pytest.raises(ValueError, match='another model'):
        split_supernet(model, optimizer)
    assert not model.is_split


def test_learning_rate_schedule_reaches_the_copies():
    task, optimizer = make_training('nb201_cond_supernet')
    task.split(optimizer)
    before = {name: p.detach().clone() for name, p in task.model.named_parameters()}
    for group in optimizer.param_groups:
        group['lr'] = 0.0
    for step in range(6):
        train_step(task, optimizer, *random_batch(4, seed=step))
    assert all(torch.equal(before[name], p) for name, p in task.model.named_parameters())


def test_architecture_of_a_step_depends_on_seed_and_step_alone():
    space = timm.create_model('nb201_cond_supernet').space
    drawn = [archs_of_step(space, 3, step)[0] for step in range(1000)]
    torch.manual_seed(123)
    assert [archs_of_step(space, 3, step)[0] for step in reversed(range(1000))][::-1] == drawn
    assert drawn != [archs_of_step(space, 4, step)[0] for step in range(1000)]
    counts = [sum(arch[0] == operation for arch in drawn) for operation in range(5)]
    assert min(counts) > 140 and max(counts) < 260  # 200 expected, standard deviation 13
