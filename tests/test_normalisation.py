"""Images are normalised by the mean and deviation of their own data set, and models know the names of its classes."""

import dataclasses
import json

import numpy as np
import pytest
import timm
import torch
from conftest import SMALL

import condnet
from condnet.checkpoints.folder import save_model
from condnet.checkpoints.loading import load_model
from condnet.checkpoints.training import LAST, read_training_checkpoint
from condnet.data import (
    CIFAR10_CLASSES,
    GLYPH_CLASSES,
    channel_statistics,
    describe_timm_data,
    load_images,
    withheld_indices,
)
from condnet.ranking.evaluate import choose_images, evaluation_data

KEYS = ('mean', 'std', 'label_names')
CIFAR = {'mean': (0.4914, 0.4822, 0.4465), 'std': (0.2470, 0.2435, 0.2616)}
CLASSES = tuple(sorted(CIFAR10_CLASSES))


def config_of(data, output, **changes) -> condnet.TrainConfig:
    settings = {'data_dir': str(data), 'output': str(output), 'model_kwargs': SMALL['nb201_cond_supernet']}
    settings |= {'epochs': 2, 'stop_epoch': 1, 'batch_size': 64, 'eval_interval': 0, 'split_epoch': 0}
    return condnet.TrainConfig(**(settings | changes))


def own_statistics(images: torch.Tensor) -> dict[str, object]:
    pixels = images.numpy().astype(np.float64) / 255
    axes = (0, 2, 3)
    return {'mean': pytest.approx(pixels.mean(axes), abs=6e-5), 'std': pytest.approx(pixels.std(axes), abs=6e-5)}


@pytest.fixture(scope='module')
def trained(tiny_folder, tmp_path_factory):
    """Output of a training on class folders; they are no CIFAR-10, as they are too few."""
    output = tmp_path_factory.mktemp('other')
    condnet.train(config_of(tiny_folder, output))
    return output


def test_statistics_are_those_of_the_pixels():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (2500, 2, 3, 4), generator=generator, dtype=torch.uint8) // 3
    images[:, 1] = 51
    indices = torch.arange(0, 2500, 2)
    for found, used in ((channel_statistics(images), images), (channel_statistics(images, indices), images[indices])):
        (mean, constant), (std, least) = found
        own = own_statistics(used[:, :1])
        assert ([mean], [std]) == (own['mean'], own['std'])
        assert (constant, least) == (0.2, 0.0039)  # pixels are divided by it


def test_a_training_uses_its_own_and_records_them(tiny_folder, trained, tmp_path):
    images = load_images(tiny_folder)
    chosen = withheld_indices(images.targets)[0]
    own = own_statistics(images.images[chosen])
    args = vars(read_training_checkpoint(trained / LAST)['args'])
    assert {key: args[key] for key in ('mean', 'std')} == own
    model = load_model(trained / LAST)
    assert all(list(model.pretrained_cfg[key]) == args[key] for key in KEYS)
    assert model.pretrained_cfg['label_names'] == images.classes
    model.set_active_subnet(7)
    condnet.calibrate(model, torch.zeros(8, 3, 32, 32))
    for each in (model, model.get_active_subnet()):
        save_model(each, tmp_path / 'folder')
        config = json.loads((tmp_path / 'folder' / 'config.json').read_text())
        assert config['label_names'] == list(images.classes) and config['pretrained_cfg']['mean'] == args['mean']
        for again in (
            timm.create_model(f'local-dir:{tmp_path / "folder"}', pretrained=True),
            load_model(tmp_path / 'folder'),
        ):
            assert all(tuple(again.pretrained_cfg[key]) == tuple(args[key]) for key in KEYS)
    data = evaluation_data(*choose_images(images, 1, 10), model.pretrained_cfg)
    pixels = data.images.mean((0, 2, 3))
    assert pixels.abs().max() < 0.1  # normalised by others they are not around zero


def test_an_older_training_keeps_what_it_was_trained_with(tiny_folder, trained, tmp_path):
    checkpoint = torch.load(trained / LAST, weights_only=False)
    for key in KEYS:
        delattr(checkpoint['args'], key)
    torch.save(checkpoint, tmp_path / LAST)
    assert {key: load_model(tmp_path / LAST).pretrained_cfg[key] for key in CIFAR} == CIFAR
    config = dataclasses.replace(config_of(tiny_folder, tmp_path), stop_epoch=2, resume=str(tmp_path / LAST))
    run = condnet.train(config)
    assert {key: run.model.pretrained_cfg[key] for key in CIFAR} == CIFAR
    assert not set(KEYS) & vars(read_training_checkpoint(tmp_path / LAST)['args']).keys()


def test_what_goes_through_timm_has_its_own(tiny_folder, tmp_path):
    found = describe_timm_data('folder', tiny_folder, 'train', (3, 32, 32))
    images = load_images(tiny_folder).images  # fewer than are drawn: all of them
    assert {key: found[key] for key in CIFAR} == own_statistics(images)
    assert tuple(found['label_names']) == CLASSES
    run = condnet.train(config_of(tiny_folder, tmp_path, dataset='folder', input_size=(3, 32, 32), num_classes=10))
    assert all(list(run.model.pretrained_cfg[key]) == found[key] for key in KEYS)


def test_labels_are_as_many_as_classes(tiny_folder):
    run = condnet.train(dataclasses.replace(config_of(tiny_folder, 'unused'), output=None, num_classes=12))
    assert not run.model.pretrained_cfg.get('label_names')


def test_what_is_known_by_name_is_not_recorded(tmp_path):
    small = {'cells_per_stage': 1, 'channels': (4, 4, 4)}
    run = condnet.train(config_of('', tmp_path, data_dir=None, dataset='glyphs', batch_size=2048, model_kwargs=small))
    assert not set(KEYS) & vars(read_training_checkpoint(tmp_path / LAST)['args']).keys()
    assert (run.model.pretrained_cfg['mean'], run.model.pretrained_cfg['std']) == ((0.083,), (0.149,))
    assert run.model.pretrained_cfg['label_names'] == GLYPH_CLASSES


def test_a_folder_of_before_has_the_names_of_a_known_data_set(tmp_path):
    """As those that are shipped, by name; what is exported of them has the names."""
    shipped = timm.create_model('nb201_cond_supernet.spos_glyphs', pretrained=True)
    assert tuple(shipped.pretrained_cfg['label_names']) == GLYPH_CLASSES
    del shipped.pretrained_cfg['label_names']
    condnet.save_model(shipped, tmp_path / 'before', {'data_name': 'glyphs'})
    model = condnet.load_model(tmp_path / 'before')
    assert model.pretrained_cfg['label_names'] == GLYPH_CLASSES
    condnet.save_model(model.get_active_subnet(), tmp_path / 'network')
    assert json.loads((tmp_path / 'network' / 'config.json').read_text())['label_names'] == list(GLYPH_CLASSES)
    model.reset_classifier(5)
    model.pretrained_cfg = {**model.pretrained_cfg, 'num_classes': 5}
    del model.pretrained_cfg['label_names']
    condnet.save_model(model, tmp_path / 'five', {'data_name': 'glyphs'})
    assert not condnet.load_model(tmp_path / 'five').pretrained_cfg.get('label_names')
