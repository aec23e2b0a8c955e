"""The four models: the paper's sizes, sub-networks, and the way through timm's checkpoints."""

import numpy as np
import pytest
import timm
import torch
from conftest import MODELS, SMALL, random_batch

from condnet import get_space
from condnet.checkpoints.folder import save_model
from condnet.checkpoints.loading import load_model
from condnet.models.supernet import state_dict_is_split
from condnet.spaces.nb201 import NB201_NETWORKS


def num_params(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ('name', 'kwargs', 'params', 'params_split', 'sets', 'sets_split'),
    [
        ('nb201_cond_supernet', {}, 782_938, 4_567_642, 72, 456),
        ('nb201_cond_supernet', {'linear_skip': False}, 718_426, 4_159_066, 72, 456),
        ('nb201_cond_supernet', {'space': 'only_conv'}, 718_426, 1_256_026, 72, 132),
        ('macro_cond_supernet', {}, 4_221_386, 11_902_410, 16, 44),
    ],
)
def test_sizes_of_the_paper(name, kwargs, params, params_split, sets, sets_split):
    model = timm.create_model(name, **kwargs)
    assert (num_params(model), model.num_weight_sets, model.is_split) == (params, sets, False)
    model.split()
    assert (num_params(model), model.num_weight_sets, model.is_split) == (params_split, sets_split, True)
    again = timm.create_model(name, split=True, **kwargs)
    assert again.state_dict().keys() == model.state_dict().keys()


def test_nb201_sizes_by_cell():
    model = timm.create_model('nb201_cond_supernet')
    assert num_params(model.stem) == 464
    assert [num_params(cell) for stage in model.stages for cell in stage] == [
        16_896, 16_896, 14_464, 67_584, 67_584, 57_600, 270_336, 270_336,
    ]  # fmt: skip
    assert num_params(model.norm) + num_params(model.head) == 778


def test_macro_sizes_by_layer():
    model = timm.create_model('macro_cond_supernet')
    assert num_params(model.stem) == 928
    assert [num_params(layer) for stage in model.stages for layer in stage] == [
        36_896, 87_616, 133_184, 322_688, 322_688, 503_936, 1_235_200, 1_235_200,
    ]  # fmt: skip
    assert num_params(model.conv_head) + num_params(model.head) == 343_050


@pytest.mark.parametrize(
    ('name', 'dataset', 'size'), [('nb201', 'cifar10', 32), ('nb201', 'glyphs', 16), ('macro', 'cifar10', 32)]
)
def test_standalone_networks_have_the_cost_that_is_looked_up(name, dataset, size):
    space = get_space(name)
    for arch in space.sample_distinct(12, seed=3):
        kwargs = NB201_NETWORKS[dataset] if name == 'nb201' else {}
        net = timm.create_model(f'{name}_net', arch=space.format(arch), **kwargs).eval()
        cost = space.cost(arch, dataset)
        assert num_params(net) == cost.params
        # NATS-Bench counts the classifier's biases among the FLOPs, NAS-Bench-Macro does not.
        assert count_flops(net, size) == cost.flops - (net.num_classes if name == 'nb201' else 0)


@pytest.mark.parametrize('name', ['nb201', 'macro'])
def test_cost_of_an_unknown_benchmark(name):
    with pytest.raises(ValueError, match=f"no {name} benchmark of data set 'cifar100'; expected .*cifar10"):
        get_space(name).cost(0, 'cifar100')


def count_flops(net: torch.nn.Module, size: int) -> int:
    """Multiply-adds of all convolutions and linear layers for one image."""
    flops = 0

    def count(module, inputs, output):
        nonlocal flops
        flops += module.weight.numel() * (output[0, 0].numel() if output.ndim == 4 else 1)

    layers = [m for m in net.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)]
    handles = [layer.register_forward_hook(count) for layer in layers]
    with torch.no_grad():
        net(torch.zeros(1, net.in_chans, size, size))
    for handle in handles:
        handle.remove()
    return flops


@pytest.mark.parametrize('split', [False, True])
@pytest.mark.parametrize('name', MODELS)
def test_extracted_subnet_computes_the_same(name, split):
    model = timm.create_model(name, split=split, **SMALL[name]).eval()
    images, _ = random_batch(2)
    for arch in model.space.sample_distinct(8, seed=1):
        model.set_active_subnet(arch)
        net = model.get_active_subnet()
        assert not any(type(module).__name__ == 'ChoiceBlock' for module in net.modules())
        assert torch.equal(net(images), model(images))


def test_subnet_of_another_shape():
    model = timm.create_model('nb201_cond_supernet', cells_per_stage=1, channels=(8, 16, 24), num_classes=7, in_chans=1)
    model.set_active_subnet(6111)
    images = torch.randn(2, 1, 16, 16)
    net = model.eval().get_active_subnet()
    assert torch.equal(net(images), model(images))
    assert net(images).shape == (2, 7)
    model.reset_classifier(3, 'max')
    assert torch.equal(model.get_active_subnet()(images), model(images))


def test_contexts_are_used():
    """Two architectures that differ in a predecessor only use different weights after the split."""
    model = timm.create_model('macro_cond_supernet', split=True)
    for first in (0, 1, 2):
        model.set_active_subnet((first, 2, 1, 1, 1, 1, 1, 1))
        blocks = {block.decision: block.active for block in model.choice_blocks()}
        assert blocks[0] == (first, 0) and blocks[1] == (2, first)
    model = timm.create_model('nb201_cond_supernet', split=True)
    model.set_active_subnet((4, 2, 3, 0, 1, 3))
    assert {block.decision: block.active for block in model.choice_blocks()} == {
        0: (4, 0), 1: (2, 0), 2: (3, 4), 3: (0, 0), 4: (1, 4), 5: (3, 2 * 5 + 3),
    }  # fmt: skip


@pytest.mark.parametrize('name', MODELS)
def test_overcomplete_state_is_the_mean_over_candidates_and_contexts(name):
    model = timm.create_model(name, **SMALL[name]).eval()
    images, _ = random_batch(2)
    before = model(images)
    model.split()
    assert torch.allclose(model(images), before, atol=1e-5)
    model.train()(images).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_no_active_subnet_is_an_error():
    with pytest.raises(ValueError, match='no sub-network is active'):
        timm.create_model('nb201_cond_supernet').get_active_subnet()


@pytest.mark.parametrize('name', MODELS)
@pytest.mark.parametrize('grown', [False, True])
def test_model_folder_round_trip(name, grown, tmp_path):
    model = timm.create_model(name, **SMALL[name])
    if grown:
        model.split()
    save_model(model, tmp_path)
    for loaded in (timm.create_model(f'local-dir:{tmp_path}', pretrained=True), load_model(tmp_path)):
        assert loaded.is_split == grown
        assert loaded.space is model.space
        saved = model.state_dict()
        assert loaded.state_dict().keys() == saved.keys()
        for key, value in loaded.state_dict().items():
            expected = saved[key]
            is_buffer = key.endswith(('running_mean', 'running_var', 'num_batches_tracked'))
            assert torch.equal(value, expected if is_buffer else expected.half().float())


@pytest.mark.parametrize('name', MODELS)
def test_split_and_unsplit_checkpoints_load_into_either(name, tmp_path):
    torch.manual_seed(1)
    unsplit, split = (timm.create_model(name, split=split, **SMALL[name]) for split in (False, True))
    save_model(unsplit, tmp_path / 'unsplit')
    save_model(split, tmp_path / 'split')
    expanded = timm.create_model(f'local-dir:{tmp_path}/unsplit', pretrained=True, split=True)
    grown = timm.create_model(f'local-dir:{tmp_path}/split', pretrained=True)
    assert expanded.is_split and grown.is_split
    plain = timm.create_model(f'local-dir:{tmp_path}/unsplit', pretrained=True)
    images, _ = random_batch(2)
    for arch in unsplit.space.sample_distinct(5, seed=1):
        outputs = []
        for model in (plain, expanded):
            model.set_active_subnet(arch)
            outputs.append(model.eval()(images))
        assert torch.equal(*outputs)
    assert state_dict_is_split(grown.state_dict())
    stored = dict(split.named_parameters())
    assert all(torch.equal(value, stored[key].half().float()) for key, value in grown.named_parameters())


def test_checkpoint_of_another_model_or_space_is_refused(tmp_path):
    save_model(timm.create_model('nb201_cond_supernet', space='no_zero'), tmp_path)
    for name, kwargs in (('macro_cond_supernet', {}), ('nb201_cond_supernet', {'space': 'only_conv'})):
        model_path = tmp_path / 'model.safetensors'
        with pytest.raises(ValueError, match='does not fit'):
            timm.create_model(name, pretrained=True, pretrained_cfg_overlay={'file': str(model_path)}, **kwargs)


def test_weights_of_the_callers_own_file_are_of_the_model_as_it_is_asked_for(tmp_path):
    """And not as the default tag has it, which is split, and has other cells."""
    own = timm.create_model('nb201_cond_supernet', space='only_conv', channels=(4, 4, 4))
    save_model(own, tmp_path, half=False)
    overlay = {'file': str(tmp_path / 'model.safetensors')}
    model = timm.create_model('nb201_cond_supernet', pretrained=True, pretrained_cfg_overlay=overlay,
                              space='only_conv', channels=(4, 4, 4))  # fmt: skip
    state = model.state_dict()
    assert not model.is_split and state.keys() == own.state_dict().keys()
    assert all(torch.equal(value, state[key]) for key, value in own.state_dict().items())
    with pytest.raises(ValueError, match='does not fit'):  # with the tag, it is the tag's
        timm.create_model('nb201_cond_supernet.spos1_cifar10', pretrained=True, pretrained_cfg_overlay=overlay)


@pytest.mark.parametrize(
    ('name', 'kwargs', 'message'),
    [
        ('nb201_cond_supernet', {'space': 'only_conv'}, 'cond1_cifar10 are of space=.full., not of space=.only_conv.; '
         'those of nb201_cond_supernet.cond1_only_conv_cifar10 are$'),
        ('nb201_cond_supernet.cond1_cifar10', {'space': 'no_zero'}, "of space='full', not of space='no_zero'$"),
        ('nb201_cond_supernet.cond1_only_conv_cifar10', {'space': 'full'}, 'those of nb201_cond_supernet.cond1_cifar10 '
         'or spos1_cifar10 or cond_glyphs or spos_glyphs are$'),
    ],
)  # fmt: skip
def test_weights_of_another_part_of_the_space_are_refused_in_one_line(name, kwargs, message):
    with pytest.raises(ValueError, match=message):
        timm.create_model(name, pretrained=True, **kwargs)
    assert str(timm.create_model(name, **kwargs).space) == f'nb201/{kwargs["space"]}'


@pytest.mark.parametrize(
    ('name', 'arch', 'parsed'),
    [
        ('nb201_net', np.array([3, 3, 1, 3, 3, 3]), (3, 3, 1, 3, 3, 3)),
        ('nb201_net', torch.tensor([3, 3, 1, 3, 3, 3]), (3, 3, 1, 3, 3, 3)),
        ('macro_net', np.int64(1), (0, 0, 0, 0, 0, 0, 0, 1)),
    ],
)
def test_network_whose_architecture_was_an_array_is_saved(name, arch, parsed, tmp_path):
    save_model(timm.create_model(name, arch=arch), tmp_path)
    assert load_model(tmp_path).arch == parsed


def test_network_of_another_architecture_is_refused(tmp_path):
    """Also where timm would load what fits, because the number of classes differs."""
    save_model(timm.create_model('nb201_net', arch=6111, cells_per_stage=1), tmp_path)
    overlay = {'file': str(tmp_path / 'model.safetensors')}
    kwargs = {'cells_per_stage': 1, 'pretrained': True, 'pretrained_cfg_overlay': overlay, 'num_classes': 7}
    assert timm.create_model('nb201_net', arch=6111, **kwargs).num_classes == 7
    with pytest.raises(ValueError, match='does not fit'):
        timm.create_model('nb201_net', arch=(3, 1, 3, 4, 3, 1), **kwargs)


@pytest.mark.parametrize('name', MODELS)
def test_extracted_subnet_is_a_timm_model(name, tmp_path):
    model = timm.create_model(name, pretrained_cfg_overlay={'mean': (0.1, 0.2, 0.3)}, **SMALL[name]).eval()
    model.set_active_subnet(model.space.sample_distinct(1, seed=8)[0])
    save_model(model.get_active_subnet(), tmp_path)
    net = timm.create_model(f'local-dir:{tmp_path}', pretrained=True).eval()
    assert net.arch == model.active_subnet and tuple(net.pretrained_cfg['mean']) == (0.1, 0.2, 0.3)
    images, _ = random_batch(2)
    assert torch.allclose(net(images), model(images), atol=1e-2)  # stored in half precision


def test_unknown_argument_and_subset():
    with pytest.raises(TypeError):
        timm.create_model('nb201_cond_supernet', wat=1)
    with pytest.raises(ValueError, match='unknown search space'):
        timm.create_model('nb201_cond_supernet', space='no_conv')
    with pytest.raises(ValueError, match='not an architecture'):
        timm.create_model('macro_net', arch='0120')
