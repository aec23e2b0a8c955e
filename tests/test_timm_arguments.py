"""What timm's scripts pass to any model, and ask of it: dropout, BatchNorm's settings, intermediate features."""

import json

import pytest
import timm
import torch
from conftest import SMALL
from torch import nn

import condnet
from condnet.checkpoints.folder import save_model
from condnet.models.network import POOLINGS

SMALL_NETS = {'nb201_net': SMALL['nb201_cond_supernet'], 'macro_net': {}}
ALL = {**SMALL, **SMALL_NETS}
IMAGES = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def make(name: str, **kwargs) -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model(name, **ALL[name], **kwargs)


@pytest.mark.parametrize('name', ALL)
def test_dropout_is_before_the_classifier_and_in_training_only(name):
    plain, model = make(name), make(name, drop_rate=0.5, drop_path_rate=0.0)
    features = torch.ones(4, model.num_features, 2, 2)
    assert torch.equal(model.eval().forward_head(features), plain.eval().forward_head(features))
    model.train()
    torch.manual_seed(1)
    dropped = model.forward_head(features, pre_logits=True)
    assert set(dropped.unique().tolist()) == {0.0, 2.0}
    torch.manual_seed(1)
    assert torch.equal(model.forward_head(features), model.head(dropped))
    assert torch.equal(plain.train().forward_head(features, pre_logits=True), torch.ones(4, model.num_features))


@pytest.mark.parametrize('name', ALL)
def test_settings_are_those_of_every_batch_norm(name):
    model = make(name, bn_momentum=0.01, bn_eps=1e-3, **({'split': True} if 'supernet' in name else {}))
    layers = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert {(layer.momentum, layer.eps) for layer in layers} == {(0.01, 1e-3)}
    extractor = make(name, bn_eps=1e-3, features_only=True)
    assert {module.eps for module in extractor.modules() if isinstance(module, nn.BatchNorm2d)} == {1e-3}


@pytest.mark.filterwarnings('ignore:the BatchNorm statistics')  # that of new weights
@pytest.mark.parametrize('name', SMALL)
def test_they_go_with_a_subnet_and_its_folder(name, tmp_path):
    supernet = make(name, drop_rate=0.25, bn_eps=0.5, active_subnet=7).eval()
    net = supernet.get_active_subnet()
    assert torch.equal(net(IMAGES), supernet(IMAGES)) and net.drop_rate == 0.25
    for model, expected in ((net, net(IMAGES)), (supernet, supernet(IMAGES))):
        save_model(model, tmp_path / 'folder', half=False)
        args = json.loads((tmp_path / 'folder' / 'config.json').read_text())['model_args']
        assert args['bn_eps'] == 0.5 and 'drop_rate' not in args  # timm leaves it to the next training
        again = timm.create_model(f'local-dir:{tmp_path / "folder"}', pretrained=True).eval()
        if model is supernet:
            again.set_active_subnet(7)
        assert torch.equal(again(IMAGES), expected)


@pytest.mark.parametrize('name', ALL)
@pytest.mark.parametrize(
    'argument',
    [{'drop_rate': 1.0}, {'drop_rate': 'x'}, {'drop_path_rate': 0.1}, {'bn_momentum': -0.1}, {'bn_eps': 0}],
    ids=str,
)
def test_what_makes_no_sense_is_refused_in_one_line(name, argument):
    with pytest.raises(condnet.CondnetError, match=f'^{next(iter(argument))} is ') as error:
        make(name, **argument)
    assert '\n' not in str(error.value)
    with pytest.raises(TypeError, match='drop_block_rate'):
        make(name, drop_block_rate=0.1)


@pytest.mark.parametrize('name', ALL)
@pytest.mark.parametrize(
    'argument',
    [{'global_pool': ''}, {'global_pool': 'foo'}, {'in_chans': 0}, {'in_chans': 1.5},
     {'num_classes': -1}, {'num_classes': 'ten'}],
    ids=str,
)  # fmt: skip
def test_sizes_and_poolings_that_there_are_not_are_refused_when_it_is_built(name, argument):
    key, value = next(iter(argument.items()))
    with pytest.raises(condnet.CondnetError, match=f'^{key} is {value!r}, expected ') as error:
        make(name, **argument)
    assert '\n' not in str(error.value)


def test_a_head_that_there_is_not_leaves_the_one_before():
    model = make('nb201_net')
    for num_classes, pooling, what in ((-1, None, 'num_classes is -1'), (3, '', "global_pool is ''"),
                                       (3, 'foo', "global_pool is 'foo'")):  # fmt: skip
        with pytest.raises(condnet.CondnetError, match=f'^{what}'):
            model.reset_classifier(num_classes, pooling)
    assert model(IMAGES).shape == (4, 10)


@pytest.mark.parametrize('name', ALL)
def test_every_pooling_has_a_classifier_of_its_width(name):
    for pooling in POOLINGS:
        model = make(name, global_pool=pooling, num_classes=3)
        assert model(IMAGES).shape == (4, 3) and model.global_pool.pool_type == pooling
        assert model.forward_head(model.forward_features(IMAGES), pre_logits=True).shape[1] == model.head.in_features
    model = make(name, global_pool='', num_classes=0)
    assert model(IMAGES).ndim == 4
    model.reset_classifier(2)  # as timm's tests do, without pooling
    model.reset_classifier(5, 'catavgmax')
    assert model(IMAGES).shape == (4, 5)
    if 'supernet' in name:
        model.set_active_subnet(7)
        assert model.get_active_subnet()(IMAGES).shape == (4, 5)


def test_weights_of_another_pooling_are_refused_in_one_line():
    with pytest.raises(condnet.CondnetError, match=r"first 'head.weight': .* has \(26, 24\), the model \(26, 48\)"):
        timm.create_model('nb201_cond_supernet.cond_glyphs', pretrained=True, global_pool='catavgmax')
    name = 'nb201_cond_supernet.cond_glyphs'
    assert timm.create_model(name, pretrained=True, global_pool='catavgmax', num_classes=5).head.in_features == 48


@pytest.mark.parametrize(
    ('name', 'kwargs'),
    [
        *((name, {'active_subnet': 7}) for name in SMALL),
        *((name, {'arch': 7}) for name in SMALL_NETS),
        ('nb201_cond_supernet', {}),  # over-complete
        ('macro_cond_supernet', {'active_subnet': 7, 'split': True}),
    ],
)
def test_intermediates_are_the_features(name, kwargs):
    model, extractor = make(name, **kwargs).eval(), make(name, features_only=True, **kwargs).eval()
    features = extractor(IMAGES)
    final, intermediates = model.forward_intermediates(IMAGES)
    assert torch.equal(final, model.forward_features(IMAGES))
    assert len(intermediates) == 3 and all(map(torch.equal, intermediates, features))
    for indices, numbers in ((1, [2]), ([0, -2], [0, 1]), ([1], [1])):
        final, found = model.forward_intermediates(IMAGES, indices, stop_early=True)
        only = model.forward_intermediates(IMAGES, indices, intermediates_only=True)
        assert all(torch.equal(x, features[i]) for each in (found, only) for x, i in zip(each, numbers, strict=True))
        assert torch.equal(final, model.forward_features(IMAGES) if 2 in numbers else features[numbers[-1]])
    normed = model.forward_intermediates(IMAGES, norm=True, intermediates_only=True)
    assert torch.equal(normed[1], features[1])
    assert torch.equal(normed[2], model.final(features[2]) if 'nb201' in name else features[2])
    with pytest.raises(condnet.CondnetError, match="output_fmt is 'NHWC', expected NCHW"):
        model.forward_intermediates(IMAGES, output_fmt='NHWC')
    with pytest.raises(condnet.CondnetError, match='images are of shape'):
        model.forward_intermediates(IMAGES[:, :1])


def test_intermediates_with_checkpointed_gradients():
    model = make('nb201_cond_supernet', active_subnet=7)
    expected = model.forward_intermediates(IMAGES, intermediates_only=True)
    model.set_grad_checkpointing()
    x = IMAGES.clone().requires_grad_()
    found = model.forward_intermediates(x, intermediates_only=True)
    assert all(map(torch.equal, found, expected))
    found[-1].sum().backward()
    assert x.grad.abs().sum() > 0


def test_extractors_of_every_kind_give_the_three_stages():
    for kind in ('list', 'dict', 'hook', 'fx', 'getter'):
        extractor = make('nb201_net', features_only=True, feature_cfg={'feature_cls': kind})
        features = extractor(IMAGES)
        assert [f.shape[1] for f in (features.values() if kind == 'dict' else features)] == [8, 8, 8]
    extractor = make('nb201_net', features_only=True, feature_cfg={'out_indices': (2,)})
    assert len(extractor(IMAGES)) == 1


@pytest.mark.parametrize('name', ALL)
def test_timms_extractor_takes_them(name):
    getter = make(name, features_only=True, feature_cls='getter').eval()
    assert [f.shape[1] for f in getter(IMAGES)] == getter.feature_info.channels()
