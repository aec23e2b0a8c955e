"""Data: canonical order in every copy, withheld images, augmentation against a plain reference, and bad input."""

import io
import itertools
import pickle
import random
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision.transforms.functional as TF
from conftest import pixel_digests
from PIL import Image
from torchvision.datasets import CIFAR10, cifar

from condnet.data import (
    Images,
    InMemoryLoader,
    augment,
    calibration_indices,
    calibration_size,
    check_size,
    create_timm_loader,
    load_images,
    normalize,
    subset_withheld,
    timm_images,
    withheld_indices,
)
from condnet.data.glyphs import render_glyphs
from condnet.errors import CondnetError
from condnet.ranking.evaluate import choose_images

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
CLASSES = ('cat', 'dog', 'frog')
PER_CLASS = 12


@pytest.fixture
def images() -> Images:
    """Random images, in canonical order."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (len(CLASSES) * PER_CLASS, 3, 32, 32), dtype=torch.uint8, generator=generator)
    return Images(pixels, torch.arange(len(CLASSES)).repeat_interleave(PER_CLASS), CLASSES)


def png_files(images: Images) -> dict[str, bytes]:
    """Files of the images; numbered without leading zeros, so that plain order of names is not that of numbers."""
    files, positions = {}, dict.fromkeys(images.classes, 0)
    for pixels, target in zip(images.images, images.targets.tolist(), strict=True):
        name, buffer = images.classes[target], io.BytesIO()
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(buffer, 'PNG')
        files[f'{name}/{positions[name]}.png'] = buffer.getvalue()
        positions[name] += 1
    return files


def write_folder(root: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)


def write_tar(path: Path, files: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, 'w') as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def write_torchvision(root: Path, images: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files as in the original download: classes mixed, but within a class in canonical order."""
    folder = root / CIFAR10.base_folder
    folder.mkdir(parents=True)
    shuffled = images.targets[torch.randperm(len(images), generator=torch.Generator().manual_seed(1))]
    order = shuffled.argsort(stable=True).argsort()  # an image's place in the canonical order
    batches = [(f'data_batch_{i + 1}', part) for i, part in enumerate(order.chunk(5))] + [('test_batch', order)]
    for name, part in batches:
        content = {'data': images.images[part].flatten(1).numpy(), 'labels': images.targets[part].tolist()}
        (folder / name).write_bytes(pickle.dumps(content))
    (folder / 'batches.meta').write_bytes(pickle.dumps({'label_names': list(images.classes)}))
    monkeypatch.setattr(CIFAR10, '_check_integrity', lambda self: True)
    monkeypatch.setattr(cifar, 'check_integrity', lambda *args: True)


def equal(a: Images, b: Images) -> bool:
    return a.classes == b.classes and torch.equal(a.targets, b.targets) and torch.equal(a.images, b.images)


class TestLoadImages:
    @pytest.mark.parametrize('subfolder', ['', 'cifar10'])
    @pytest.mark.parametrize('train', [True, False])
    def test_same_images_from_every_copy(self, subfolder, train, images, tmp_path, monkeypatch):
        files, name = png_files(images), 'train' if train else 'test'
        backwards = dict(reversed(files.items()))
        write_folder(tmp_path / 'folder' / subfolder / name, backwards)
        write_tar(tmp_path / 'tar' / subfolder / f'{name}.tar', backwards)
        write_torchvision(tmp_path / 'torchvision' / subfolder, images, monkeypatch)
        for copy in ('folder', 'tar', 'torchvision'):
            assert equal(load_images(tmp_path / copy, train), images), copy

    @pytest.mark.parametrize('name', ['val', 'valid', 'validation'])
    def test_other_names_of_test_folder(self, name, images, tmp_path):
        write_folder(tmp_path / 'train', png_files(images))
        write_folder(tmp_path / name, png_files(images))
        assert equal(load_images(tmp_path, train=False), images)

    def test_dot_prefix_and_hidden_files_in_tar(self, images, tmp_path):
        files = {f'./{name}': content for name, content in png_files(images).items()}
        write_tar(tmp_path / 'train.tar', {'./cat/._0.png': b'resource fork', 'readme.txt': b'text', **files})
        assert equal(load_images(tmp_path), images)

    def test_downloads_only_what_is_missing(self, images, tmp_path, monkeypatch):
        write_torchvision(tmp_path / 'elsewhere', images, monkeypatch)
        (tmp_path / 'new').mkdir()

        def download(dataset: CIFAR10) -> None:
            (tmp_path / 'elsewhere' / CIFAR10.base_folder).rename(Path(dataset.root) / CIFAR10.base_folder)

        monkeypatch.setattr(CIFAR10, 'download', download)
        assert equal(load_images(tmp_path / 'new', download=True), images)
        assert equal(load_images(tmp_path / 'new'), images)
        write_tar(tmp_path / 'tar' / 'train.tar', png_files(images))
        assert equal(load_images(tmp_path / 'tar', download=True), images)


class TestBadData:
    def test_no_directory(self, tmp_path):
        with pytest.raises(ValueError, match=r'nowhere is not a directory.*`download` fetches CIFAR-10'):
            load_images(tmp_path / 'nowhere')
        (tmp_path / 'file').touch()
        for download in (False, True):
            with pytest.raises(ValueError, match='file is not a directory'):
                load_images(tmp_path / 'file', download=download)

    def test_empty_directory(self, tmp_path):
        with pytest.raises(ValueError, match='is empty; looked for train.tar, train/ and cifar.*`download`'):
            load_images(tmp_path)

    def test_nothing_known(self, tmp_path):
        (tmp_path / 'something').touch()
        with pytest.raises(ValueError, match='no known data set; looked for test.tar, test/, val.tar.*`download`'):
            load_images(tmp_path, train=False)

    def test_download_fails(self, tmp_path, monkeypatch):
        def download(dataset: CIFAR10) -> None:
            raise OSError('no network')

        monkeypatch.setattr(CIFAR10, 'download', download)
        with pytest.raises(ValueError, match='cannot fetch CIFAR-10 into .*no network'):
            load_images(tmp_path, download=True)

    def test_damaged_torchvision(self, tmp_path):
        (tmp_path / CIFAR10.base_folder).mkdir()
        (tmp_path / CIFAR10.base_folder / 'data_batch_1').write_bytes(b'no CIFAR-10')
        with pytest.raises(ValueError, match='cifar-10-batches-py is incomplete or damaged'):
            load_images(tmp_path)

    def test_no_images(self, tmp_path):
        (tmp_path / 'train' / 'cat').mkdir(parents=True)
        with pytest.raises(ValueError, match='train holds no images'):
            load_images(tmp_path)

    def test_no_class_folder_in_tar(self, images, tmp_path):
        write_tar(tmp_path / 'train.tar', {'0.png': png_files(images)['cat/0.png']})
        with pytest.raises(ValueError, match='0.png is in no class folder'):
            load_images(tmp_path)

    def test_unequal_sizes(self, images, tmp_path):
        small = Images(images.images[:, :, :16, :24], images.targets, CLASSES)
        write_folder(tmp_path / 'train', png_files(images) | {'dog/3.png': png_files(small)['dog/3.png']})
        with pytest.raises(ValueError, match=r'3.png is 16x24, images before it are 32x32 \(height x.*`dataset`'):
            load_images(tmp_path)

    @pytest.mark.parametrize('content', [b'', b'no image', 0.5])
    def test_damaged_image(self, content, images, tmp_path):
        files = png_files(images)
        if isinstance(content, float):
            content = files['dog/3.png'][: int(content * len(files['dog/3.png']))]
        write_tar(tmp_path / 'train.tar', files | {'dog/3.png': content})
        with pytest.raises(ValueError, match='cannot read the image .*dog/3.png'):
            load_images(tmp_path)

    def test_truncated_tar(self, images, tmp_path):
        path = tmp_path / 'train.tar'
        write_tar(path, png_files(images))
        with tarfile.open(path) as tar:
            boundary = tar.getmembers()[5].offset
        content = path.read_bytes()
        for size in (0, 100, 512, boundary, boundary + 100, boundary + 700):
            path.write_bytes(content[:size])
            with pytest.raises(ValueError, match=r'train\.tar'):
                load_images(tmp_path)

    def test_no_tar(self, tmp_path):
        (tmp_path / 'train.tar').write_bytes(b'something else' * 100)
        with pytest.raises(ValueError, match=r'cannot read .*train\.tar'):
            load_images(tmp_path)

    def test_classes_differ(self, images, tmp_path):
        write_folder(tmp_path / 'train', png_files(images))
        write_tar(tmp_path / 'test.tar', png_files(Images(images.images, images.targets, ('cat', 'cow', 'frog'))))
        with pytest.raises(ValueError, match=r'only one of .*test\.tar and .*train has the classes cow, dog'):
            load_images(tmp_path, train=False)

    @pytest.mark.parametrize('input_size', [(3, 64, 64), (1, 32, 32)])
    def test_check_size(self, input_size, images):
        check_size(images, [3, 32, 32])
        with pytest.raises(ValueError, match=f'3 channels and 32x32 pixels, the model takes {input_size[0]} channels'):
            check_size(images, input_size)


class TestSubsets:
    def test_loader_never_yields_withheld(self, images):
        trained, withheld = withheld_indices(images.targets)
        loader = InMemoryLoader(images.select(trained), 11, (0, 0, 0), (1 / 255,) * 3, padding=0, hflip=0)
        yielded = torch.cat([batch for batch, _ in loader]).byte()
        digests = pixel_digests(Images(yielded, torch.zeros(len(yielded)), ()))
        assert len(set(digests)) == len(trained) == len(digests)
        assert set(digests).isdisjoint(pixel_digests(images.select(withheld)))

    def test_withheld_of_unequal_classes_in_any_order(self):
        targets = torch.tensor([1] * 5 + [0] * 20 + [1] * 25)
        trained, withheld = withheld_indices(targets)
        assert withheld.tolist() == [23, 24, 47, 48, 49]
        assert trained.tolist() == sorted(set(range(50)) - set(withheld.tolist()))

    def test_withheld_of_one_image(self):
        with pytest.raises(ValueError, match='class 1 has 1 image, expected at least 2'):
            withheld_indices(torch.tensor([0, 0, 1]))

    def test_subset_withheld(self, images):
        subset = subset_withheld(images, 6)
        assert equal(subset, images.select(torch.tensor([0, 1, 12, 13, 24, 25])))
        assert equal(subset_withheld(images, 36), images)

    @pytest.mark.parametrize(
        'num, message', [(0, 'multiple of the 3 classes'), (-3, 'multiple'), (7, 'multiple'), (39, '13 of each class')]
    )
    def test_subset_withheld_errors(self, num, message, images):
        with pytest.raises(ValueError, match=f'cannot take {num} images.*{message}'):
            subset_withheld(images, num)

    def test_calibration_indices(self):
        indices = calibration_indices(45_000)
        assert len(indices) == 5120 == len(indices.unique())
        assert indices[:256].equal(calibration_indices(45_000, 256))
        assert not indices.equal(calibration_indices(45_000, seed=1))
        assert indices[:4].tolist() == [
            36044,
            24824,
            16461,
            10518,
        ]  # results depend on this choice: it must never change

    @pytest.mark.parametrize(('num_train', 'num'), [(45_000, 1024), (1024, 1024), (1023, 768), (300, 256), (255, 255)])
    def test_calibration_size(self, num_train, num, caplog):
        caplog.set_level('INFO')
        assert calibration_size(num_train, 1024) == num
        assert (f'calibrated on {num} images instead of 1024' in caplog.text) == (num < 1024)

    def test_fewer_images_to_calibrate_on_than_asked_for(self):
        images = render_glyphs()
        few = images.select(torch.arange(26)[:, None].mul(260).add(torch.arange(11)).flatten())  # 11 of each letter
        calibration, withheld = choose_images(few, 4)
        assert len(calibration) == min(256, len(few) - len(withheld)) and len(withheld) > 0
        assert not set(pixel_digests(calibration)) & set(pixel_digests(withheld))

    @pytest.mark.parametrize('num', [0, 101])
    def test_calibration_indices_errors(self, num):
        with pytest.raises(ValueError, match=rf'cannot draw {num} calibration images, expected 1\.\.100'):
            calibration_indices(100, num)


class TestNormalize:
    @pytest.mark.parametrize('memory_format', [torch.contiguous_format, torch.channels_last])
    def test_like_torchvision(self, memory_format, images):
        result = normalize(images.images.contiguous(memory_format=memory_format), MEAN, STD)
        expected = TF.normalize(images.images.float() / 255, list(MEAN), list(STD))
        torch.testing.assert_close(result, expected)
        assert result.is_contiguous(memory_format=memory_format)

    def test_errors(self, images):
        with pytest.raises(ValueError, match='images are torch.float32, expected torch.uint8'):
            normalize(images.images.float(), MEAN, STD)
        with pytest.raises(ValueError, match='got 1 means and 3 deviations for 3 channels'):
            normalize(images.images, MEAN[:1], STD)


def make_loader(images: Images, batch_size: int = 8, **kwargs) -> InMemoryLoader:
    return InMemoryLoader(images, batch_size, MEAN, STD, **kwargs)


def are_crops_of(crops: torch.Tensor, images: torch.Tensor, padding: int, hflip: bool) -> None:
    """Each image (N, C, H, W) is cut from the padded one at its place, and all places and flips occur."""
    (height, width), padded = images.shape[2:], F.pad(images, (padding,) * 4)
    cut = torch.zeros(len(images), dtype=torch.bool)
    for top, left, flip in itertools.product(range(2 * padding + 1), range(2 * padding + 1), (False, True)):
        crop = padded[:, :, top : top + height, left : left + width]
        matches = (crops == (crop.flip(3) if flip else crop)).flatten(1).all(1)
        assert matches.any() == (hflip or not flip)
        cut |= matches
    assert cut.all()


def concatenate(batches) -> tuple[torch.Tensor, torch.Tensor]:
    inputs, targets = zip(*batches, strict=True)
    return torch.cat(inputs), torch.cat(targets)


class TestInMemoryLoader:
    @pytest.mark.parametrize('channels_last', [False, True])
    @pytest.mark.parametrize('size', [(32, 32), (20, 28)])
    def test_like_plain_augmentation(self, channels_last, size, images):
        images = Images(images.images[:, :, : size[0], : size[1]], images.targets, CLASSES)
        loader = make_loader(images, channels_last=channels_last)
        order, top, left, flip = loader._draw()
        expected = []
        for i in order.tolist():
            padded = TF.pad(Image.fromarray(images.images[i].permute(1, 2, 0).numpy()), 4)
            image = TF.crop(padded, int(top[i]), int(left[i]), *size)
            image = TF.hflip(image) if flip[i] else image
            expected.append(TF.normalize(TF.to_tensor(image), MEAN, STD))
        batches = list(loader)
        assert len(batches) == len(loader) == 4
        inputs, targets = concatenate(batches)
        torch.testing.assert_close(inputs, torch.stack(expected)[:32], rtol=0, atol=1e-5)
        assert targets.equal(images.targets[order][:32])
        assert inputs.dtype == torch.float32 and targets.dtype == torch.int64
        memory_format = torch.channels_last if channels_last else torch.contiguous_format
        assert batches[0][0].is_contiguous(memory_format=memory_format)

    def test_draws_are_uniform(self):
        num = 20_000
        images = Images(torch.zeros(num, 1, 1, 1, dtype=torch.uint8), torch.zeros(num, dtype=torch.int64), ('a',))
        order, top, left, flip = InMemoryLoader(images, 1, (0,), (1,))._draw()
        assert order.sort().values.equal(torch.arange(num))
        counts = (9 * top + left).bincount()
        assert len(counts) == 81
        assert counts.min() > 0.7 * num / 81 and counts.max() < 1.3 * num / 81
        assert 0.48 < flip.float().mean() < 0.52

    def test_evaluation_keeps_order_and_all_images(self, images):
        loader = make_loader(images, train=False)
        inputs, targets = concatenate(loader)
        assert len(loader) == 5
        assert inputs.equal(normalize(images.images, MEAN, STD))
        assert targets.equal(images.targets)

    def test_repeatable_and_different_by_seed_and_epoch(self, images):
        first = concatenate(make_loader(images))[0]
        loader = make_loader(images)
        torch.manual_seed(5)  # the global state does not matter
        loader.set_epoch(1)
        second = concatenate(loader)[0]
        loader.set_epoch(0)
        assert concatenate(loader)[0].equal(first)
        assert not second.equal(first)
        assert not concatenate(make_loader(images, seed=1))[0].equal(first)
        assert not concatenate(make_loader(images, seed=1))[0].equal(second)

    @pytest.mark.parametrize('batch_size', [1, 4, 9, 36])
    def test_independent_of_batch_size(self, batch_size, images):
        inputs, targets = concatenate(make_loader(images, batch_size))
        expected, expected_targets = concatenate(make_loader(images, 36))
        assert inputs.equal(expected) and targets.equal(expected_targets)

    @pytest.mark.parametrize('train', [True, False])
    def test_ranks_share_batches(self, train, images):
        ranks = [make_loader(images, train=train, rank=rank, world_size=4) for rank in range(4)]
        whole = list(make_loader(images, train=train))
        assert [len(loader) for loader in ranks] == [len(whole)] * 4
        for expected, *shares in zip(whole, *ranks, strict=True):
            inputs, targets = concatenate(shares)
            assert inputs.equal(expected[0]) and targets.equal(expected[1])

    @pytest.mark.parametrize('train', [True, False])
    def test_resume_within_epoch(self, train, images):
        loader = make_loader(images, train=train)
        whole = list(loader)
        for start in range(len(loader) + 1):
            rest = list(loader.batches(start))
            assert len(rest) == len(whole) - start
            assert all(a.equal(c) and b.equal(d) for (a, b), (c, d) in zip(rest, whole[start:], strict=True))

    def test_errors(self, images):
        for batch_size in (0, 37):
            with pytest.raises(ValueError, match=rf'batch size is {batch_size}, expected 1\.\.36'):
                make_loader(images, batch_size)
        with pytest.raises(ValueError, match='rank 0 of 3 cannot share batches of 8'):
            make_loader(images, rank=0, world_size=3)
        with pytest.raises(ValueError, match='rank 2 of 2 cannot'):
            make_loader(images, rank=2, world_size=2)
        for start in (-1, 5):
            with pytest.raises(ValueError, match=rf'cannot start at batch {start}, expected 0\.\.4'):
                list(make_loader(images).batches(start))


class TestAugment:
    def test_as_in_training(self, images):
        """The same pixels as the first epoch of a training with the same seed, in the order of the images."""
        loader = InMemoryLoader(images, len(images), (0, 0, 0), (1 / 255,) * 3, seed=5)
        order, batch = loader._draw()[0], next(iter(loader))[0].round().byte()
        crops = augment(images, seed=5)
        assert crops.images[order].equal(batch)
        assert crops.targets.equal(images.targets) and crops.classes == images.classes
        assert not augment(images, seed=6).images.equal(crops.images)

    def test_letters_are_shifted_but_not_mirrored(self):
        letters = render_glyphs()
        (crops, _), (calibration, _) = choose_images(letters, 2), choose_images(letters, 2, augmented=False)
        are_crops_of(crops.images, calibration.images, padding=1, hflip=False)

    def test_of_timm(self, images, tmp_path):
        """The same images every time; whatever else is random goes on as if nothing had been drawn."""
        write_folder(tmp_path / 'train', png_files(images))

        def load(train):
            torch.manual_seed(7), random.seed(7)
            loaded = timm_images('', tmp_path, 'train', 20, (3, 32, 32), train=train)
            assert (random.random(), float(torch.rand(1))) == drawn
            return loaded

        torch.manual_seed(7), random.seed(7)
        drawn = random.random(), float(torch.rand(1))
        plain, crops = load(False), load(True)
        assert load(True).images.equal(crops.images)
        random.seed(8), torch.manual_seed(8)
        again = timm_images('', tmp_path, 'train', 20, (3, 32, 32), train=True)
        assert again.images.equal(crops.images) and again.targets.equal(plain.targets)
        assert crops.images.dtype == torch.uint8 and not crops.images.equal(plain.images)


class TestTimmLoader:
    def test_folder(self, images, tmp_path):
        write_folder(tmp_path / 'train', png_files(images))
        loader = create_timm_loader(
            '', tmp_path, 'train', input_size=(3, 32, 32), batch_size=8, mean=MEAN, std=STD, train=True, seed=3
        )
        first, targets = concatenate(loader)
        assert len(loader) == 4 and first.shape == (32, 3, 32, 32) and first.dtype == torch.float32
        assert concatenate(loader)[0].equal(first)
        assert concatenate(loader.batches(3))[0].equal(first[24:])  # as a training resumed in mid-epoch
        loader.set_epoch(1)
        assert not concatenate(loader)[1].equal(targets)

    def test_two_processes(self, images, tmp_path, monkeypatch):
        """Each loads its share of the images, in another order in another epoch, and augments them in its own way."""
        write_folder(tmp_path / 'train', png_files(images))
        monkeypatch.setattr('torch.distributed.get_world_size', lambda *_: 2)
        shares = []
        for rank in range(2):
            monkeypatch.setattr('torch.distributed.get_rank', lambda *_, rank=rank: rank)
            loader = create_timm_loader(
                '', tmp_path, 'train', input_size=(3, 32, 32), batch_size=8, mean=MEAN, std=STD, seed=3, rank=rank,
                world_size=2,
            )  # fmt: skip
            sampler, orders = loader.loader.loader.sampler, []
            for epoch in range(2):
                loader.set_epoch(epoch)
                orders.append(list(sampler))
            shares.append((orders, loader))
        (first, second), loaders = zip(*shares, strict=True)
        for ours, theirs in zip(first, second, strict=True):
            assert sorted(ours + theirs) == list(range(len(images)))
        assert first[0] != first[1]
        batches = [concatenate(loader) for loader in loaders]
        assert len(loaders[0]) == 4 and batches[0][0].shape == (16, 3, 32, 32)
        assert batches[0][1].tolist() == images.targets[first[1][:16]].tolist()
        draws = []
        for loader in loaders:
            next(loader.batches())
            draws.append(torch.rand(1, generator=loader._generator))
        assert draws[0] != draws[1]

    def test_evaluation(self, images, tmp_path):
        write_tar(tmp_path / 'test.tar', png_files(images))
        loader = create_timm_loader(
            *('', tmp_path / 'test.tar', 'test'),
            **dict(input_size=(3, 32, 32), batch_size=8, mean=MEAN, std=STD, train=False, workers=0),
        )
        inputs, targets = concatenate(loader)
        assert targets.equal(images.targets)
        np.testing.assert_allclose(inputs, normalize(images.images, MEAN, STD), atol=1e-5)

    @pytest.mark.parametrize('kind', ['wds', 'tfds', 'HFIDS'])
    def test_streamed_data_is_refused(self, kind, tmp_path):
        with pytest.raises(CondnetError, match=f"data set '{kind}/mine' is streamed"):
            create_timm_loader(
                f'{kind}/mine', tmp_path, 'train', input_size=(3, 8, 8), batch_size=8, mean=MEAN, std=STD
            )

    @pytest.mark.parametrize(
        'dataset, split, message',
        [
            ('torch/cifar10', 'train[:45000]', r"torch/cifar10 has no split 'train\[:45000\]', expected one of"),
            ('torch/cifar10', 'train', 'timm cannot open data set'),
            ('torch/unheard-of', 'train', 'timm cannot open data set'),
            ('', 'train', "has no part 'train'; expected train/ or train.tar"),
        ],
    )
    def test_errors(self, dataset, split, message, tmp_path):
        with pytest.raises(ValueError, match=message):
            create_timm_loader(
                dataset, tmp_path, split, input_size=(3, 32, 32), batch_size=8, mean=MEAN, std=STD, workers=0
            )
