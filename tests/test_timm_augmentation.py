"""timm's flags of augmentation: what they do to batches and to calibration images, the same after a resume."""

import random

import numpy as np
import pytest
import timm
import torch
from PIL import Image, ImageOps
from timm.data import create_loader

from condnet.data import GLYPH_CLASSES, Images, epoch_generator, load_images
from condnet.data.parts import open_part
from condnet.errors import CondnetError
from condnet.ranking.config import EvalConfig
from condnet.ranking.inputs import load_evaluation_images
from condnet.ranking.subject import Subject
from condnet.training.config import Settled, TrainConfig
from condnet.training.data import create_data
from condnet.utils.distributed import Group

CPU, SIZE = torch.device('cpu'), (3, 32, 32)
PIXELS = {'mean': (0.0,) * 3, 'std': (1 / 255,) * 3}  # with them batches hold the pixels themselves
# A crop of the whole image, and nothing else.
WHOLE = {'scale': (1, 1), 'ratio': (1, 1), 'hflip': 0, 'color_jitter': 0}


@pytest.fixture(scope='module')
def parts(tiny_folder, tmp_path_factory):
    """The small data set, with two mirrored images of a class to validate on."""
    root = tmp_path_factory.mktemp('parts')
    (root / 'train').symlink_to(tiny_folder / 'train')
    for path in (tiny_folder / 'train').glob('*/000[01].png'):
        other = root / 'validation' / path.parent.name / path.name
        other.parent.mkdir(parents=True, exist_ok=True)
        ImageOps.mirror(Image.open(path)).save(other)
    return root


def loader_of(root, workers=0, images=None, **settings):
    where = {} if images is not None else {'dataset': 'folder', 'data_dir': str(root)}
    config = TrainConfig(**where, batch_size=60, workers=workers, eval_interval=0, **settings)
    return create_data(config, Settled(10, SIZE, 'other'), images, PIXELS, CPU, Group())[0]


def first(root, **settings):
    """The first batch; those with one seed are of the same images."""
    images = next(iter(loader_of(root, **settings)))[0]
    return torch.where((images - images.round()).abs() < 1e-3, images.round(), images)


def test_flips_and_no_augmentation(parts):
    plain = first(parts, no_aug=True)
    everything = {tuple(image.flatten().tolist()) for image in load_images(parts).images.float()}
    assert all(tuple(image.flatten().tolist()) in everything for image in plain)
    assert first(parts, **WHOLE).equal(plain)
    assert first(parts, **WHOLE | {'hflip': 1}).equal(plain.flip(3))
    assert first(parts, **WHOLE, vflip=1).equal(plain.flip(2))


@pytest.mark.parametrize(
    'settings', [{'scale': (0.1, 0.2)}, {'ratio': (2, 3)}, {'color_jitter': 0.4}, {'aa': 'rand-m9-n2-mstd0.5'}]
)
def test_what_else_changes_images(parts, settings):
    whole = {name: value for name, value in WHOLE.items() if 'aa' not in settings or name != 'color_jitter'}
    plain, changed = first(parts, **WHOLE), first(parts, **whole | settings)
    assert (plain != changed).flatten(1).any(1).float().mean() > 0.5


def test_crops_are_of_the_asked_area(parts, monkeypatch):
    """timm's function gets what is to be cropped."""
    seen = []

    def watch(image, top, left, height, width, size, interpolation):
        seen.append((height, width, interpolation.value))
        return image.resize(size)

    monkeypatch.setattr('timm.data.transforms.F.resized_crop', watch)
    first(parts, scale=(0.25, 0.25), ratio=(1, 1), train_interpolation='bicubic')
    assert set(seen) == {(16, 16, 'bicubic')}
    seen.clear()
    first(parts, scale=(0.5, 0.5), ratio=(2, 2), train_interpolation='random')
    assert {(height, width) for height, width, _ in seen} == {(16, 32)} and len({how for *_, how in seen}) == 2


def changed(*batches):
    """The share of images that differ."""
    return (batches[0] != batches[1]).flatten(1).any(1).float().mean()


def test_modes_of_the_crop(parts):
    plain = first(parts, **WHOLE)
    for mode in ('rkrc', 'rkrr'):
        assert first(parts, **WHOLE, train_crop_mode=mode).equal(plain)  # an image that fits is as it was
    half = {**WHOLE, 'scale': (0.25, 0.25)}  # by timm, of every second image
    centre, anywhere = (first(parts, **half, train_crop_mode=mode) for mode in ('rkrc', 'rkrr'))
    assert 0.3 < changed(centre, plain) < 0.7 and changed(centre, anywhere) > 0.3
    assert changed(first(parts, **half), plain) > 0.9


def test_colours_and_blur_of_some_images(parts):
    plain = first(parts, **WHOLE)
    jitter = {**WHOLE, 'color_jitter': 0.4}
    assert changed(first(parts, **jitter, color_jitter_prob=0), plain) == 0
    assert 0.2 < changed(first(parts, **jitter, color_jitter_prob=0.5), plain) < 0.8

    def grey(images):
        return (images == images[:, :1]).flatten(1).all(1).float().mean()

    assert grey(first(parts, **WHOLE, grayscale_prob=1)) == 1 and grey(plain) == 0
    assert 0.2 < grey(first(parts, **WHOLE, grayscale_prob=0.5)) < 0.8

    def edges(images):
        return images.diff(dim=3).abs().mean()

    blurred = first(parts, **WHOLE, gaussian_blur_prob=1)
    assert edges(blurred) < 0.8 * edges(plain)
    assert 0.2 < changed(first(parts, **WHOLE, gaussian_blur_prob=0.5), plain) < 0.8


@pytest.mark.parametrize('mode', ['const', 'rand', 'pixel'])
def test_regions_are_erased(parts, mode):
    plain, erased = first(parts, **WHOLE), first(parts, **WHOLE, reprob=1, remode=mode)
    changed = (plain != erased).any(1)
    assert changed.flatten(1).any(1).all() and changed.float().mean() < 0.5
    region = erased[0, 0][changed[0]].unique()
    assert len(region) > 5 if mode == 'pixel' else len(region) == 1
    assert (region == 0).all() == (mode == 'const')
    half = (first(parts, **WHOLE, reprob=0.5, remode=mode) != plain).flatten(1).any(1).float().mean()
    assert 0.2 < half < 0.8


def test_several_regions_are_erased(parts):
    def rows(recount):
        changed = (first(parts, **WHOLE, reprob=1, remode='const', recount=recount) == 0).all(1)
        return changed.any(2).float().sum(1)  # rows of every image with erased pixels

    assert rows(8).mean() > rows(1).mean()


def test_flags_of_loading(parts):
    loader = loader_of(parts, pin_mem=True, workers=1).loader.loader
    assert loader.pin_memory and not loader_of(parts).loader.loader.pin_memory
    batches = [next(iter(loader_of(parts, 1, aa='rand-m9-n2', worker_seeding=mode)))[0] for mode in ('all', 'part')]
    assert not batches[0].equal(batches[1])  # RandAugment draws from NumPy's numbers


@pytest.mark.parametrize('workers', [0, 1])
def test_resumed_in_mid_epoch(parts, workers):
    """What is drawn depends on seed, epoch and batch alone, and leaves the numbers of the program alone."""
    settings = {'aa': 'rand-m9-n2-mstd0.5', 'reprob': 0.5, 'recount': 3, 'seed': 5, 'train_crop_mode': 'rkrr',
                'grayscale_prob': 0.5, 'gaussian_blur_prob': 0.5}  # fmt: skip
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    whole = [images for images, _ in loader_of(parts, workers, **settings)]
    after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    assert before[:2] == after[:2] and before[2].equal(after[2])
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    resumed = [images for images, _ in loader_of(parts, workers, **settings).batches(3)]
    assert len(whole) == 5 and all(a.equal(b) for a, b in zip(whole[3:], resumed, strict=True))
    other = loader_of(parts, workers, **settings)
    other.set_epoch(1)
    assert not next(iter(other))[0].equal(whole[0])


def test_default_is_timms(parts):
    """The batches of its loader as it is made without any setting, from the same numbers."""
    data = open_part('folder', parts, 'train', 'train')
    plain = create_loader(data, SIZE, 60, is_training=True, **PIXELS, num_workers=1, device=CPU)
    plain.loader.generator = plain.loader.sampler.generator = epoch_generator(3, 0)
    for ours, timms in zip(loader_of(parts, 1, seed=3), plain, strict=True):
        assert ours[0].equal(timms[0]) and ours[1].equal(timms[1])


def subject(**training):
    model = timm.create_model('nb201_cond_supernet', space='only_conv', cells_per_stage=1)
    return Subject(model, None, training, '')


def calibration(root, **training):
    """Calibration images of a ranking, of a model that was so trained, and the random states that it leaves."""
    config = EvalConfig(dataset='folder', data_dir=str(root), calib_batches=1, eval_images=20)
    before = np.random.get_state()[1].tolist()
    images = load_evaluation_images(subject(**training), config).calibration.images
    assert np.random.get_state()[1].tolist() == before
    return images


def test_calibration_images_are_augmented_as_in_training(parts):
    plain = calibration(parts, no_aug=True)
    assert calibration(parts, **WHOLE).equal(plain)
    assert calibration(parts, **WHOLE | {'hflip': 1, 'reprob': 1.0}).equal(plain.flip(3))  # whole, without erasing
    grey = calibration(parts, **WHOLE, grayscale_prob=1.0)
    assert grey.equal(grey[:, :1].expand_as(grey)) and not grey.equal(plain)
    once, again = (calibration(parts, aa='rand-m9-n2') for _ in range(2))
    assert once.equal(again) and not once.equal(plain) and not calibration(parts).equal(plain)
    config = TrainConfig(dataset='folder', data_dir=str(parts), batch_size=60, eval_batches=1, eval_images=20,
                         no_aug=True)  # fmt: skip
    data = create_data(config, Settled(10, SIZE, 'other'), None, PIXELS, CPU, Group())[1]
    assert data.to_calibrate().round().equal(plain.float())


def test_images_in_memory(tiny_folder):
    images = load_images(tiny_folder)
    plain = first(None, images=images, no_aug=True)
    kept = {tuple(image.flatten().tolist()) for image in images.images.float()}
    assert all(tuple(image.flatten().tolist()) in kept for image in plain)
    flipped, not_flipped = first(None, images=images, hflip=1), first(None, images=images, hflip=0)
    assert flipped.flip(3).equal(not_flipped) and not not_flipped.equal(plain)
    config = TrainConfig(batch_size=60, eval_batches=1, eval_images=10, no_aug=True)
    data = create_data(config, Settled(10, SIZE, 'other'), images, PIXELS, CPU, Group())[1]
    assert all(tuple(image.flatten().tolist()) in kept for image in data.to_calibrate().round())
    ranked = [
        load_evaluation_images(subject(**training), EvalConfig(calib_batches=1, eval_images=10), images)
        for training in ({'no_aug': True}, {})
    ]
    assert ranked[0].calibration.images.float().equal(data.to_calibrate().round())
    assert not ranked[1].calibration.images.equal(ranked[0].calibration.images)


def test_letters_are_flipped_where_that_is_asked_for():
    letters = Images(torch.zeros(260, 1, 16, 16, dtype=torch.uint8), torch.arange(260) % 26, GLYPH_CLASSES)
    for hflip, expected in ((None, 0), (1, 1)):
        config = TrainConfig(dataset='glyphs', batch_size=60, eval_interval=0, hflip=hflip)
        statistics = {'mean': (0.5,), 'std': (0.5,)}
        batches = create_data(config, Settled(26, (1, 16, 16), 'glyphs'), letters, statistics, CPU, Group())[0]
        assert batches.hflip == expected


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        ({'aa': 'v0'}, 'aa does nothing without `dataset`: images in memory'),
        ({'dataset': 'glyphs', 'reprob': 0.1}, 'reprob does nothing without `dataset`'),
        ({'pin_mem': True}, 'pin_mem does nothing without `dataset`'),
        ({'dataset': 'folder', 'no_aug': True, 'vflip': 0.1}, 'vflip does nothing with `no_aug`'),
        ({'dataset': 'folder', 'remode': 'const'}, 'remode does nothing without `reprob`'),
        ({'dataset': 'folder', 'aa': 'v0', 'color_jitter': 0.1}, 'color_jitter does nothing with `aa` v0'),
        ({'dataset': 'folder', 'scale': (0.5, 0.1)}, 'scale is 0.5 0.1, expected a range'),
        ({'train_crop_mode': 'rkrc'}, 'train_crop_mode does nothing without `dataset`'),
        ({'dataset': 'folder', 'no_aug': True, 'gaussian_blur_prob': 0.1}, 'gaussian_blur_prob does nothing with `no_'),
        ({'dataset': 'folder', 'aa': 'v0', 'color_jitter_prob': 0.1}, 'color_jitter_prob does nothing with `aa` v0'),
        ({'dataset': 'folder', 'color_jitter': 0, 'color_jitter_prob': 0.1}, 'does nothing with `color_jitter` 0'),
        ({'dataset': 'folder', 'input_size': (1, 16, 16), 'grayscale_prob': 0.1}, 'nothing with images of one channel'),
        ({'dataset': 'folder', 'input_size': (3, 16, 11), 'gaussian_blur_prob': 0.1}, 'of more than 11 pixels'),
    ],
)
def test_refused(settings, message):
    with pytest.raises(CondnetError, match=message):
        TrainConfig(**settings)
    TrainConfig(dataset='folder', aa='3a', color_jitter=0.1)


@pytest.mark.parametrize('policy', ['v1', 'rand-x1', 'nothing'])
def test_unknown_policies_are_refused(parts, policy):
    with pytest.raises(CondnetError, match=f"`aa` is '{policy}', which timm does not know"):
        loader_of(parts, aa=policy)
