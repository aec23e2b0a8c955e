"""Recalibration and the plain loop: independent of order, and without a trace in the super-network."""

import itertools
import math
import re
from dataclasses import replace

import pytest
import timm
import torch
from conftest import MODELS, SMALL, make_training, random_batch, train_step
from torch.utils._python_dispatch import TorchDispatchMode

import condnet
from condnet.models.supernet import Supernet
from condnet.ranking.evaluate import EvaluationData, evaluate_subnet
from condnet.ranking.tree import Activations, Kept, group_by_route, predict, walk


@pytest.fixture
def data():
    images, targets = random_batch(48, seed=1, pixels=8)
    return EvaluationData(random_batch(40, seed=2, pixels=8)[0], images, targets, batch_size=16)


@pytest.fixture(params=MODELS)
def supernet(request):
    """A split super-network that was trained a little, so that its statistics are of mixed architectures."""
    task, optimizer = make_training(request.param, **SMALL[request.param])
    for step in range(2):
        train_step(task, optimizer, *random_batch(8, seed=step, pixels=8))
    task.split(optimizer)
    train_step(task, optimizer, *random_batch(8, seed=9, pixels=8))
    return task.model


@pytest.mark.parametrize('momentum', [None, 0.1])
def test_order_does_not_matter_and_the_supernet_is_left_alone(supernet, data, momentum):
    data = EvaluationData(data.calibration, data.images, data.targets, data.batch_size, momentum)
    before = {key: value.clone() for key, value in supernet.state_dict().items()}
    archs = supernet.space.sample_distinct(4, seed=0)
    forward = {p.index: p for p in predict(supernet, archs, data)}
    backward = {p.index: p for p in predict(supernet, archs[::-1], data)}
    assert forward == backward  # to the last bit of every loss
    assert len({p.loss for p in forward.values()}) == 4
    after = supernet.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert supernet.training


def test_prediction_is_that_of_the_calibrated_standalone_network(supernet, data):
    """The whole of it in the simplest words: extract, reset, average the statistics, classify."""
    arch = supernet.space.sample_distinct(1, seed=4)[0]
    prediction = evaluate_subnet(supernet, arch, data)
    supernet.set_active_subnet(arch)
    net = supernet.get_active_subnet()
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None
    with torch.no_grad():
        net.train()(data.calibration)
        logits = torch.cat([net.eval()(images) for images in data.images.split(16)])
    assert prediction.index == supernet.space.index(arch)
    assert prediction.accuracy == 100 * (logits.argmax(1) == data.targets).sum().item() / 48
    assert math.isclose(prediction.loss, torch.nn.functional.cross_entropy(logits, data.targets).item(), rel_tol=1e-5)


def test_calibration_is_the_mean_of_the_batches_statistics(data):
    model = timm.create_model('nb201_cond_supernet')
    model.set_active_subnet((3, 1, 2, 4, 3, 2))
    with torch.no_grad():
        model.stem.bn.running_mean.fill_(100.0)  # what was there before must not matter
        condnet.calibrate(model, data.calibration, batch_size=10)
        stem = model.stem.conv(data.calibration)
    means = torch.stack([batch.mean((0, 2, 3)) for batch in stem.split(10)])
    variances = torch.stack([batch.var((0, 2, 3), unbiased=True) for batch in stem.split(10)])
    assert torch.allclose(model.stem.bn.running_mean, means.mean(0), atol=1e-5)
    assert torch.allclose(model.stem.bn.running_var, variances.mean(0), rtol=1e-4)
    assert model.stem.bn.momentum == 0.1 and model.training


def _small(**kwargs):
    torch.manual_seed(0)
    return timm.create_model('nb201_cond_supernet', active_subnet=6111, **SMALL['nb201_cond_supernet'], **kwargs)


@pytest.mark.parametrize(('num', 'size', 'sizes'), [(40, 16, [16, 16, 8]), (33, 16, [16, 17]), (3, 1, [1, 1, 1]),
                                                    (1, 16, [1]), (5, 16, [5])])  # fmt: skip
@pytest.mark.parametrize('momentum', [None, 0.1])
def test_calibration_weighs_by_images(data, num, size, sizes, momentum):
    """A smaller last batch has less weight than a whole one; a single last image goes with the batch before."""
    model, images = _small(), data.calibration[:num]
    layer = model.stem.bn
    mean, var = torch.zeros(8, dtype=torch.float64), torch.ones(8, dtype=torch.float64)
    with torch.no_grad():
        condnet.calibrate(model, images, batch_size=size, momentum=momentum)
        stem = model.stem.conv(images).double()
    seen = 0
    for batch in stem.split(sizes):
        seen += len(batch)
        weight = len(batch) / seen if momentum is None else 0.1 * min(1, len(batch) / sizes[0])
        mean = mean + weight * (batch.mean((0, 2, 3)) - mean)
        var = var + weight * (batch.var((0, 2, 3), unbiased=True) - var)
    torch.testing.assert_close(layer.running_mean.double(), mean, rtol=0, atol=1e-6)
    torch.testing.assert_close(layer.running_var.double(), var, rtol=1e-5, atol=0)


@pytest.mark.parametrize('num', [1, 3, 4])
def test_equal_batches_count_equally_to_the_bit(data, num):
    model, plain, images = _small(), _small(), data.calibration[: 7 * num]
    condnet.calibrate(model, images, batch_size=7)
    for layer in plain.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = None
    with torch.no_grad():
        for batch in images.split(7):
            plain(batch)
    assert all(torch.equal(value, plain.state_dict()[key]) for key, value in model.state_dict().items())


def test_one_image_more_changes_next_to_nothing():
    model, images = _small().eval(), random_batch(257, seed=3)[0]
    outputs = []
    for num in (256, 257):
        condnet.calibrate(model, images[:num])
        with torch.no_grad():
            outputs.append(model(images[:32]))
    assert (outputs[1] - outputs[0]).norm() < 0.01 * outputs[0].norm()


def test_calibration_where_feature_maps_are_of_one_pixel():
    model = _small()
    images = torch.randn(257, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    condnet.calibrate(model, images)
    assert all(buffer.isfinite().all() for buffer in model.buffers())
    data = EvaluationData(images, images[:9], torch.zeros(9, dtype=torch.int64), batch_size=8)
    assert list(predict(model, [5], data)) == [evaluate_subnet(model, 5, data)]
    before = {key: value.clone() for key, value in model.state_dict().items()}
    single = replace(data, calibration=images[:1])
    uses = [lambda: condnet.calibrate(model, images[:1]), lambda: list(predict(model, [5], single))]
    for use in (*uses, lambda: evaluate_subnet(model, 5, single)):
        with pytest.raises(condnet.CondnetError, match='no variance in a batch of a single image; calibrate with'):
            use()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert model.training and model.calibrated_subnet == model.space.parse(6111)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda images: images[:0], 'needs images, got none'),
        (lambda images: images.numpy(), r'images are of type ndarray, expected one tensor \(N, C, H, W\)'),
        (lambda images: images.to(torch.uint8), r'images are torch.uint8, expected normalised ones'),
        (lambda images: images[:, :1], r'images have shape \(40, 1, 8, 8\), expected \(N, 3, H, W\)'),
        (lambda images: images[0], r'images have shape \(3, 8, 8\), expected'),
    ],
)
def test_images_that_a_model_does_not_take(data, change, message):
    model, images = _small(), change(data.calibration)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    other = replace(data, calibration=images)
    for use in (lambda: condnet.calibrate(model, images), lambda: list(predict(model, [5], other))):
        with pytest.raises(condnet.CondnetError, match=message):
            use()
    with pytest.raises(condnet.CondnetError, match='batch size of the calibration is 0, expected at least 1'):
        condnet.calibrate(model, data.calibration, batch_size=0)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_what_cannot_be_validated_on(data):
    for name in ('images', 'calibration'):
        with pytest.raises(condnet.CondnetError, match='images some numbers are not finite'):
            replace(data, **{name: getattr(data, name).log()})
    with pytest.raises(condnet.CondnetError, match='got 0 images and 0 targets to validate on, expected as many'):
        replace(data, images=data.images[:0], targets=data.targets[:0])
    with pytest.raises(condnet.CondnetError, match='got 48 images and 47 targets'):
        replace(data, targets=data.targets[1:])
    with pytest.raises(condnet.CondnetError, match='targets are of type list, expected a tensor'):
        replace(data, targets=data.targets.tolist())


def test_failed_calibration_leaves_the_statistics(data):
    """Wherever it fails: here at the classifier."""
    model = _small()
    condnet.calibrate(model, data.calibration)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model.set_active_subnet(5)
    handle = model.head.register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        condnet.calibrate(model, data.calibration)
    handle.remove()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert model.stem.bn.momentum == 0.1


def test_images_go_to_the_models_data_type(data):
    model, other = _small(), _small()
    condnet.calibrate(model, data.calibration)
    condnet.calibrate(other, data.calibration.double())
    assert all(torch.equal(value, other.state_dict()[key]) for key, value in model.state_dict().items())
    doubled = replace(data, calibration=data.calibration.double())
    assert list(predict(model, [5], doubled)) == list(predict(model, [5], data)) == [evaluate_subnet(model, 5, doubled)]


def test_engine_gives_the_numbers_of_the_plain_loop_with_smaller_last_batches(data):
    model = _small(split=True)
    images = torch.randn(300, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    archs = model.space.sample_distinct(6, seed=3)
    for num in (257, 300):
        ragged = EvaluationData(images[:num], images[:45], data.targets[:45], batch_size=20)
        assert {p.index: p for p in predict(model, archs, ragged)} == _plain(model, archs, ragged)


def test_calibration_touches_only_the_active_subnet(supernet, data):
    arch = supernet.space.sample_distinct(1, seed=4)[0]
    supernet.set_active_subnet(arch)
    active = {id(module) for module in supernet.active_modules()}
    idle = [b for m in supernet.modules() if id(m) not in active for b in m.buffers(recurse=False)]
    before = [buffer.clone() for buffer in idle]
    assert idle
    condnet.calibrate(supernet, data.calibration)
    assert all(torch.equal(old, new) for old, new in zip(before, idle, strict=True))


def test_bad_calls(data):
    with pytest.raises(ValueError, match='only a super-network'):
        evaluate_subnet(timm.create_model('nb201_net'), 0, data)
    model = timm.create_model('nb201_cond_supernet', space='only_conv')
    with pytest.raises(ValueError, match='not in the subset'):
        evaluate_subnet(model, (1, 1, 1, 1, 1, 1), data)


def test_a_string_and_a_tuple_of_operations_are_one_architecture(data):
    model = _small()
    (expected,) = predict(model, [5], data)
    arch = model.space.parse(5)
    for given in (model.space.format(arch), arch, (*arch[:-1], torch.tensor(arch[-1]))):
        assert list(predict(model, given, data)) == [expected]
    assert {p.index for p in predict(model, list(arch), data)} == set(arch)  # indices
    assert {p.index for p in predict(model, (5, 7), data)} == {5, 7}
    with pytest.raises(condnet.CondnetError, match='`archs` is 5, expected architectures'):
        predict(model, 5, data)


def _plain(model, archs, data):
    return {p.index: p for p in (evaluate_subnet(model, arch, data) for arch in archs)}


@pytest.mark.parametrize('memory', [0, 1_000_000, 1 << 30])  # nothing kept, only some, everything
def test_engine_gives_the_numbers_of_the_plain_loop(supernet, data, memory):
    archs = supernet.space.sample_distinct(6, seed=3)
    archs += [(*archs[0][:-1], operation) for operation in supernet.space.choices]
    before = {key: value.clone() for key, value in supernet.state_dict().items()}
    engine = {p.index: p for p in predict(supernet, archs, replace(data, memory=memory))}
    assert engine == _plain(supernet, archs, data)  # to the last bit of every loss
    assert all(torch.equal(before[key], value) for key, value in supernet.state_dict().items())
    assert supernet.active_subnet is not None and all(module.training for module in supernet.modules())


def test_what_is_kept_stays_within_the_budget():
    """What is needed last goes first; what does not fit alone is not kept."""
    kept = Kept(1000)
    for depth in (1, 2, 3):
        kept.add(depth, Activations([(torch.zeros(50),)], [(torch.zeros(50), None)]))  # 400 bytes
    assert sorted(kept.by_depth) == [2, 3]
    kept.add(4, Activations([], [(torch.zeros(251),)]))
    assert not kept.by_depth


def test_what_is_kept_is_counted_once():
    """Steps of nb201 pass on nodes that later ones read, and views have their storage in common."""
    kept, shared = Kept(1000), torch.zeros(100)
    kept.add(1, Activations([(shared,)], [(torch.zeros(50), None)]))
    kept.add(2, Activations([(shared, torch.zeros(25))], [(shared[:10],)]))
    assert sorted(kept.by_depth) == [1, 2]  # 400 + 200 + 100 bytes, and not 1140
    kept.add(3, Activations([(torch.zeros(76),)], []))
    assert sorted(kept.by_depth) == [2, 3]


class _Synchronisations(TorchDispatchMode):
    """Counts how often a number is read back from a tensor, for which a GPU has to be waited for."""

    num = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.num += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def test_nothing_waits_for_the_device_within_an_architecture(supernet, data):
    archs = supernet.space.sample_distinct(2, seed=3)
    with _Synchronisations() as engine:
        outputs = list(walk(supernet, group_by_route(supernet, archs), data))
    with _Synchronisations() as plain:
        supernet.set_active_subnet(archs[0])
        condnet.calibrate(supernet, data.calibration)
    assert len(outputs) == 2 and engine.num == plain.num == 0


@pytest.mark.slow
def test_engine_gives_the_numbers_of_the_plain_loop_in_bfloat16(supernet, data):
    """The features are in bfloat16; logits are not: classes would tie."""
    data = replace(data, amp_dtype=torch.bfloat16)
    archs = supernet.space.sample_distinct(2, seed=3)
    predictions = {p.index: p for p in predict(supernet, archs, data)}
    assert predictions == _plain(supernet, archs, data)
    assert predictions != _plain(supernet, archs, replace(data, amp_dtype=None))
    for _, logits in walk(supernet, group_by_route(supernet, archs), data):
        assert not torch.equal(logits[0], logits[0].bfloat16().float())


def test_nothing_is_dropped_though_the_supernet_is_in_training(supernet, data):
    archs = supernet.space.sample_distinct(2, seed=3)
    expected = {p.index: p for p in predict(supernet, archs, data)}
    supernet.drop_rate = 0.5  # as of a training with `drop`
    assert {p.index: p for p in predict(supernet, archs, data)} == expected == _plain(supernet, archs, data)
    assert supernet.training


def test_layers_that_were_frozen_are_so_afterwards(supernet, data):
    supernet.stem.eval()
    modes = [module.training for module in supernet.modules()]
    evaluate_subnet(supernet, supernet.space.sample_distinct(1)[0], data)
    condnet.calibrate(supernet, data.calibration)
    assert [module.training for module in supernet.modules()] == modes and set(modes) == {True, False}


def test_a_space_without_steps_of_its_own_is_ranked_as_well(supernet, data, monkeypatch):
    archs = supernet.space.sample_distinct(3, seed=3)
    expected = _plain(supernet, archs, data)
    monkeypatch.setattr(type(supernet), 'forward_steps', Supernet.forward_steps)
    assert {p.index: p for p in predict(supernet, archs, data)} == expected


def test_a_loss_that_is_not_finite_stops_no_other_architecture(supernet, data):
    archs = supernet.space.sample_distinct(4, seed=3)
    expected = _plain(supernet, archs[1:], data)
    supernet.set_active_subnet(archs[0])
    used = {id(module) for module in supernet.active_modules()}
    for arch in archs[1:]:
        supernet.set_active_subnet(arch)
        used -= {id(module) for module in supernet.active_modules()}
    broken = next(m for m in supernet.modules() if id(m) in used and isinstance(m, torch.nn.Conv2d))
    torch.nn.init.constant_(broken.weight, float('nan'))
    predictions = predict(supernet, archs, data)
    assert {p.index: p for p in (next(predictions) for _ in range(3))} == expected
    message = f'loss of 1 architectures is not finite, first {supernet.space.format(archs[0])}; the others are'
    with pytest.raises(ValueError, match=re.escape(message)):
        next(predictions)


def test_engine_prunes_without_a_trace(data):
    model = timm.create_model('nb201_cond_supernet', split=True, cells_per_stage=1)
    archs = [(0, 0, 0, 0, 0, 0), (0, 1, 2, 0, 3, 0), (0, 0, 3, 0, 3, 3), (1, 0, 0, 0, 0, 0), (3, 0, 0, 2, 3, 0)]
    assert {p.index: p for p in predict(model, archs, data)} == _plain(model, archs, data)


@pytest.mark.parametrize(('linear_skip', 'num', 'distinct'), [(True, 15_625, 9685), (False, 4000, 2642)])
def test_architectures_of_equal_computation_are_evaluated_once(linear_skip, num, distinct):
    """Of the 4000, 2707 differ with linear skips."""
    model = timm.create_model(
        'nb201_cond_supernet', split=True, linear_skip=linear_skip, cells_per_stage=1, channels=(4, 4, 4)
    )
    groups = group_by_route(model, itertools.islice(model.space.shuffled(), num))
    assert len(groups) == distinct
    assert sum(len(archs) for _, archs in groups) == num


def test_shared_steps_run_once(data):
    model = timm.create_model('macro_cond_supernet', split=True)
    runs = []
    model.stem.register_forward_hook(lambda *_: runs.append(1))
    list(predict(model, [(1, 2, 0, 1, 0, 2, 1, last) for last in range(3)], data))
    assert len(runs) == 1 + 3  # one calibration batch, three validation batches, for three architectures
