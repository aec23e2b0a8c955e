"""A data set is recognised by its images, however they are encoded; what is not the same set is refused."""

import io
import json
import pickle
import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import ONLY_CONV, pixel_digests, train_args, write_table
from PIL import Image
from torchvision.datasets import CIFAR10

import condnet.data.fingerprint as module
from condnet.checkpoints.loading import load_checkpoint
from condnet.checkpoints.training import read_training_checkpoint
from condnet.cli.convert import main as checkpoint_main
from condnet.cli.hub import main as hub_main
from condnet.cli.search import main as search_main
from condnet.cli.train import main as train_main
from condnet.cli.validate import main
from condnet.data import Images, fingerprint_of, load_images, match_images, withheld_indices

PER_CLASS, CLASSES = 20, ('cat', 'dog', 'frog')
ENCODINGS = {
    'jpeg95': ('JPEG', {'quality': 95}),
    'jpeg85': ('JPEG', {'quality': 85, 'subsampling': 0}),
    'jpeg60': ('JPEG', {'quality': 60}),
    'webp': ('WEBP', {'quality': 80}),
}


def reencode(images: Images, encoding: str) -> Images:
    """Encoded and decoded again; `noise` is one level up or down, as another decoder may give."""
    if encoding == 'noise':
        noise = np.random.default_rng(0).integers(-1, 2, images.images.shape)
        pixels = torch.from_numpy((images.images.numpy() + noise).clip(0, 255).astype(np.uint8))
        return Images(pixels, images.targets, images.classes)
    kind, options = ENCODINGS[encoding]
    decoded = []
    for pixels in images.images.permute(0, 2, 3, 1).contiguous().numpy():
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, kind, **options)
        decoded.append(np.asarray(Image.open(buffer).convert('RGB')))
    return Images(torch.from_numpy(np.stack(decoded)).permute(0, 3, 1, 2), images.targets, images.classes)


@pytest.fixture
def images() -> Images:
    """Images of large and small structure: three classes of twenty."""
    generator = torch.Generator().manual_seed(0)
    num = len(CLASSES) * PER_CLASS
    coarse = F.interpolate(torch.rand(num, 3, 5, 5, generator=generator), 32, mode='bilinear')
    pixels = (230 * coarse + 25 * torch.rand(num, 3, 32, 32, generator=generator)).byte()
    return Images(pixels, torch.arange(len(CLASSES)).repeat_interleave(PER_CLASS), CLASSES)


def match(images: Images, original: Images, **changes):
    """With what a training on the original records."""
    recorded = json.loads(json.dumps(fingerprint_of(original)))
    return match_images(images, {'data_sha256': original.sha256()}, recorded, 'CHECKPOINT', 'DATA', **changes)


def refuse(images: Images, original: Images, **changes) -> str:
    with pytest.raises(ValueError, match='CHECKPOINT was trained on other images than those of DATA: ') as error:
        match(images, original, **changes)
    assert '\n' not in str(error.value)
    return str(error.value)


def swapped(images: Images, first: int, second: int) -> Images:
    order = torch.arange(len(images))
    order[[first, second]] = order[[second, first]]
    return images.select(order)


@pytest.mark.parametrize('encoding', [*ENCODINGS, 'noise'])
def test_same_images_in_another_encoding(images, encoding):
    copy = reencode(images, encoding)
    assert not torch.equal(copy.images, images.images)
    matched, how = match(copy, images)
    assert matched is copy and how['how'] == 'same images, re-encoded'
    assert 0 < how['largest_distance'] < how['tolerance'] == 3
    # The largest distance is that of the images that are withheld.
    rows = [module.pooled_rows(part)[withheld_indices(images.targets)[1]] for part in (images, copy)]
    assert how['largest_distance'] == pytest.approx((rows[0] - rows[1]).pow(2).mean(1).sqrt().max().item(), abs=0.6)


def test_the_same_pixels_are_identical(images):
    assert match(images.select(torch.arange(len(images))), images)[1] == {'how': 'identical pixels'}
    assert match_images(images, {'data_sha256': images.sha256()}, None, '', '')[1] == {'how': 'identical pixels'}
    assert match_images(images, {}, None, '', '') == (images, None)


def test_images_that_moved_are_refused(images):
    """Positions 18 and 19 of every class are withheld."""
    copy = reencode(images, 'jpeg85')
    assert 'of 6 withheld ones 1 differ, first dog 19;' in refuse(swapped(copy, 39, 20), images)
    assert 'of 6 withheld ones 2 differ, first cat 18;' in refuse(swapped(copy, 18, 19), images)
    assert 'but not those to train on, or their order' in refuse(swapped(copy, 40, 41), images)
    backwards = copy.select((copy.targets * PER_CLASS) + torch.arange(PER_CLASS).flip(0).repeat(len(CLASSES)))
    assert 'of 6 withheld ones 6 differ' in refuse(backwards, images)


def test_other_images_are_refused(images):
    copy = reencode(images, 'jpeg85')
    fewer = copy.select(torch.arange(len(copy)) != 5)
    assert 'they are [19, 20, 20] by class, expected [20, 20, 20]' in refuse(fewer, images)
    two = copy.select(copy.targets < 2)
    assert 'they are [20, 20] by class' in refuse(Images(two.images, two.targets, CLASSES[:2]), images)
    grey = copy.images.float().mean(1, keepdim=True).byte().expand(-1, 3, -1, -1)
    for other in (copy.images.flip(3), copy.images.flip(1), copy.images.transpose(2, 3), grey, copy.images // 2):
        assert 'withheld ones' in refuse(Images(other.contiguous(), copy.targets, CLASSES), images)
    mixed = copy.images.clone()
    mixed[3] = copy.images[4]  # one of those to train on
    assert 'but not those to train on' in refuse(Images(mixed, copy.targets, CLASSES), images)


def test_nearly_equal_images_have_a_smaller_tolerance(images):
    """Or any of them would pass for any other."""
    faint = Images(120 + images.images // 10, images.targets, images.classes)
    assert match(reencode(faint, 'noise'), faint)[1]['tolerance'] < 2
    assert 'withheld ones' in refuse(swapped(reencode(faint, 'noise'), 39, 20), faint)


def test_images_without_names_are_found_by_content(images):
    """As in the original archive of CIFAR-10, however it was packed."""
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    order = order[images.targets[order].argsort(stable=True)]
    copy = reencode(images, 'jpeg60')
    matched, how = match(copy.select(order), images, has_names=False)
    withheld = withheld_indices(images.targets)[1]
    assert how['how'] == 'same images, re-encoded, in another order' and how['largest_distance'] < 3
    assert torch.equal(matched.images[withheld], copy.images[withheld])
    assert torch.equal(matched.targets, images.targets) and sorted(pixel_digests(matched)) == sorted(
        pixel_digests(copy)
    )
    assert match(copy, images, has_names=False)[1]['how'] == 'same images, re-encoded'
    assert 'withheld ones' in refuse(copy.select(order), images)
    other = copy.images.clone()
    other[39] = other[38]
    assert 'differ, first dog' in refuse(Images(other, copy.targets, CLASSES).select(order), images, has_names=False)


@pytest.mark.parametrize(('key', 'value'), [
    ('withheld', None), ('withheld', 'x'), ('trained', 3), ('trained', 'é'), ('withheld', ''), ('trained', None),
])  # fmt: skip
def test_damaged_fingerprint(images, key, value):
    recorded = fingerprint_of(images)
    recorded[key] = recorded['trained' if key == 'withheld' else 'withheld'] if value is None else value
    with pytest.raises(ValueError, match='fingerprint of the training images in CHECKPOINT is damaged'):
        match_images(reencode(images, 'noise'), {'data_sha256': 'other'}, recorded, 'CHECKPOINT', 'DATA')


def test_no_fingerprint(images):
    with pytest.raises(ValueError, match='it records nothing else to tell a copy by'):
        match_images(reencode(images, 'noise'), {'data_sha256': images.sha256()}, None, 'CHECKPOINT', 'DATA')
    with pytest.raises(ValueError, match='it records nothing else to tell a copy by'):
        match_images(images, {'data_sha256': [1]}, None, 'CHECKPOINT', 'DATA')
    for recorded in ([], {}, {'counts': '20'}):
        with pytest.raises(ValueError, match='CHECKPOINT was trained on other images'):
            match_images(images, {'data_sha256': 'other'}, recorded, 'CHECKPOINT', 'DATA')


# The commands


def train(data, output, *more):
    return train_args(data, output, *ONLY_CONV, '--epochs', '2', '--split-epoch', '1', *more)


@pytest.fixture(scope='module')
def checkpoint(tiny_data, tmp_path_factory):
    """A training of two epochs on the small data set."""
    output = tmp_path_factory.mktemp('trained')
    assert train_main(train(tiny_data, output)) == 0
    assert 'fingerprint' not in (output / 'args.yaml').read_text()
    return output / 'last.pth.tar'


@pytest.fixture(scope='module')
def jpeg_data(tiny_data, tmp_path_factory):
    """The small data set as JPEG files."""
    root = tmp_path_factory.mktemp('jpeg')
    for path in (tiny_data / 'train').glob('*/*.png'):
        folder = root / 'train' / path.parent.name
        folder.mkdir(parents=True, exist_ok=True)
        Image.open(path).save(folder / f'{path.stem}.jpg', quality=85)
    return root


def flags(data, output, *more):
    return ['--data-dir', str(data), '--calib-batches', '1', '--results-file', str(output / 'r.csv'), *more]


def rank(checkpoint, data, output) -> dict:
    assert main(['--checkpoint', str(checkpoint), *flags(data, output, '--archs', '1462')]) == 0
    return json.loads((output / 'r.json').read_text())


@pytest.mark.slow
def test_ranking_on_a_copy(checkpoint, tiny_data, jpeg_data, tmp_path):
    """With the training checkpoint, with a folder made from it, and with one for the Hub."""
    assert rank(checkpoint, tiny_data, tmp_path / 'a')['data_match'] == {'how': 'identical pixels'}
    summary = rank(checkpoint, jpeg_data, tmp_path / 'b')
    assert summary['data_match']['how'] == 'same images, re-encoded'
    assert checkpoint_main([str(checkpoint), str(tmp_path / 'folder')]) == 0
    assert rank(tmp_path / 'folder', jpeg_data, tmp_path / 'c')['data_match'] == summary['data_match']
    hub = tmp_path / 'nb201_cond_supernet.tiny'
    table = write_table(tmp_path / 'table.csv', [1462])
    results = ['--results', str(tmp_path / 'b' / 'r.csv'), '--benchmark', str(table)]
    assert hub_main(['prepare', str(checkpoint), str(hub), *flags(jpeg_data, tmp_path)[:-2], *results]) == 0
    assert load_checkpoint(hub).fingerprint == load_checkpoint(checkpoint).fingerprint is not None
    assert 'fingerprint' not in json.dumps(summary)


@pytest.mark.slow
def test_search_on_a_copy(checkpoint, tiny_data, jpeg_data, tmp_path, capsys):
    call = [str(checkpoint), '--calib-batches', '1', '--num-evals', '2', '--output', str(tmp_path), '--data-dir']
    assert search_main([*call, str(jpeg_data)]) == 0
    assert json.loads((tmp_path / 'search.json').read_text())['data_match']['how'] == 'same images, re-encoded'
    assert search_main([*call, str(tiny_data)]) == 2  # predictions of other pixels do not go into one study
    assert 'its images_sha256 is' in capsys.readouterr().err


def test_a_training_goes_on_with_the_same_pixels_only(checkpoint, jpeg_data, tmp_path, capsys):
    assert train_main(train(jpeg_data, tmp_path / 'out', '--resume', str(checkpoint))) == 2
    assert 'keeps its images, and in the same encoding' in capsys.readouterr().err


def test_checkpoint_of_before_fingerprints(checkpoint, tiny_data, jpeg_data, tmp_path, capsys):
    state = read_training_checkpoint(checkpoint)
    del state['args'].data_fingerprint, state['sha256']
    torch.save(state, tmp_path / 'old.pth.tar')
    assert rank(tmp_path / 'old.pth.tar', tiny_data, tmp_path / 'a')['data_match'] == {'how': 'identical pixels'}
    assert main(['--checkpoint', str(tmp_path / 'old.pth.tar'), *flags(jpeg_data, tmp_path, '--archs', '1462')]) == 2
    assert 'it records nothing else to tell a copy by' in capsys.readouterr().err
    assert train_main(train(tiny_data, tmp_path / 'out', '--resume', str(tmp_path / 'old.pth.tar'))) == 0


def test_original_archive(checkpoint, tiny_data, tmp_path, monkeypatch):
    """Packed in another order, with other pixels: the withheld images are those of the training."""
    monkeypatch.setattr(CIFAR10, '_check_integrity', lambda self: True)
    monkeypatch.setattr('torchvision.datasets.cifar.check_integrity', lambda *_: True)
    source = reencode(load_images(tiny_data), 'noise')
    order = torch.randperm(len(source), generator=torch.Generator().manual_seed(0))
    folder = tmp_path / 'data' / 'cifar-10-batches-py'
    folder.mkdir(parents=True)
    for part, indices in enumerate(order.tensor_split(5), 1):
        entry = {'data': source.images[indices].flatten(1).numpy(), 'labels': source.targets[indices].tolist()}
        (folder / f'data_batch_{part}').write_bytes(pickle.dumps(entry))
    (folder / 'batches.meta').write_bytes(pickle.dumps({'label_names': list(source.classes)}))
    summary = rank(checkpoint, tmp_path / 'data', tmp_path / 'packed')
    assert summary['data_match']['how'] == 'same images, re-encoded, in another order'
    withheld = source.select(withheld_indices(source.targets)[1])
    assert summary['images_sha256'][1] == withheld.sha256()


def test_swapped_files_are_refused(checkpoint, jpeg_data, tmp_path, capsys):
    other = shutil.copytree(jpeg_data, tmp_path / 'other')
    first, second = (other / 'train' / 'frog' / f'{number:04}.jpg' for number in (0, 29))
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)
    assert main(['--checkpoint', str(checkpoint), *flags(other, tmp_path / 'out', '--archs', '1462')]) == 2
    assert 'of 30 withheld ones 1 differ, first frog 29' in capsys.readouterr().err
    assert not (tmp_path / 'out').exists()
