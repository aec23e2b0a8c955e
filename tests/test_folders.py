"""Class folders in folders and tar files: the same images from both, or the same refusal; and parts kept apart."""

import gzip
import io
import os
import shutil
import tarfile
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import timm.utils
import torch
from PIL import Image
from timm.data.readers import create_reader
from torchvision.datasets import CIFAR10, ImageFolder

from condnet.cli.train import main
from condnet.data import choose_timm_images, create_timm_loader, load_images, timm_images
from condnet.data.folders import find_images, natural_key
from condnet.data.parts import ClassFolders, check_parts, open_part
from condnet.errors import CondnetError

SIZE = (3, 4, 4)
LOADER = {'input_size': SIZE, 'batch_size': 4, 'mean': (0.0,) * 3, 'std': (1.0,) * 3, 'train': False}


def encode(pixels, file_format='PNG', **kwargs) -> bytes:
    buffer = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(buffer, file_format, **kwargs)
    return buffer.getvalue()


def picture(value: int) -> bytes:
    return encode(np.full((4, 4, 3), value, np.uint8))


def write_files(root: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith('/'):
            (root / name).mkdir()
        else:
            (root / name).write_bytes(content)


def write_tar(path: Path, files: dict[str, bytes]) -> None:
    with tarfile.open(path, 'w') as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.type = len(content), tarfile.DIRTYPE if name.endswith('/') else tarfile.REGTYPE
            tar.addfile(info, io.BytesIO(content))


def read(source: Path) -> dict[str, list[int]] | str:
    """The values of the images by class, or why they are refused, without where."""
    try:
        images = load_images(source.parent)
    except CondnetError as error:
        assert '\n' not in str(error)
        return str(error).replace(str(source), 'SOURCE').replace('SOURCE/', 'SOURCE: ').split('SOURCE', 1)[1]
    classes: dict[str, list[int]] = {name: [] for name in images.classes}
    for image, target in zip(images.images, images.targets.tolist(), strict=True):
        assert len(image.unique()) == 1
        classes[images.classes[target]].append(int(image[0, 0, 0]))
    return classes


def read_both(root: Path, files: dict[str, bytes]) -> dict[str, list[int]] | str:
    """What a folder and a tar file of the same files give."""
    write_files(root / 'folder' / 'train', files)
    (root / 'tar').mkdir(parents=True)
    write_tar(root / 'tar' / 'train.tar', files)
    (root / 'packed').mkdir()
    with tarfile.open(root / 'packed' / 'train.tar', 'w') as tar:
        tar.add(root / 'folder' / 'train', '.')
    got = read(root / 'folder' / 'train')
    assert got == read(root / 'tar' / 'train.tar') == read(root / 'packed' / 'train.tar')
    return got


PLAIN = {'ant/1.png': picture(1), 'ant/2.png': picture(2), 'bee/1.png': picture(3)}
READ = {'ant': [1, 2], 'bee': [3]}


class TestClasses:
    @pytest.mark.parametrize('name', ['{}/{}', '{}/images/{}', 'train/{}/{}', 'data/train/{}/images/{}'])
    def test_the_level_that_differs_names_the_classes(self, name, tmp_path):
        files = {name.format(*path.split('/')): content for path, content in PLAIN.items()}
        assert read_both(tmp_path, files) == READ

    @pytest.mark.parametrize(
        'more, message',
        [
            ({'bee/more/2.png': picture(4)}, ' ant/1.png and bee/more/2.png are at different depths'),
            ({'2.png': picture(4)}, ' 2.png is in no class folder'),
            ({'cat/': b''}, ' class folder cat holds no images'),
            ({'cat/labels.txt': b'text'}, ' class folder cat holds no images'),
            ({'cat/images/': b''}, ' class folder cat holds no images'),
            ({'cat/1.gif': b'GIF'}, ' cat/1.gif is not of a format that is read'),
            ({'ant/3.HEIC': b'some image'}, ' ant/3.HEIC is not of a format that is read'),
            ({'ant/new\nline.png': picture(4)}, r" 'ant/new\nline.png' is not a proper file name"),
            ({'e\u0301/1.png': picture(4), '\xe9/1.png': picture(5)}, ' two class folders have one name'),
        ],
    )
    def test_nothing_vanishes(self, more, message, tmp_path):
        assert read_both(tmp_path, PLAIN | more).startswith(f':{message}')

    @pytest.mark.parametrize(
        'files, message',
        [
            (['a/x/1.png', 'a/y/1.png', 'b/z/1.png'], ': in a/x/1.png and b/z/1.png several folders differ'),
            (['images/1.png', 'images/2.png'], ' has images in one folder, images; expected two classes or more'),
            (['ant/labels.txt', 'bee/.1.png'], ' holds no images'),
        ],
    )
    def test_classes_that_cannot_be_told(self, files, message, tmp_path):
        assert read_both(tmp_path, dict.fromkeys(files, picture(0))).startswith(message)

    def test_hidden_and_other_files_are_left_out(self, tmp_path):
        hidden = '.ipynb_checkpoints/1.png', '.git/x/1.png', '__MACOSX/ant/1.png', 'ant/._1.png', 'ant/.old/1.png'
        others = 'ant/Thumbs.db', '.DS_Store', 'bee/boxes.txt', 'README'
        assert read_both(tmp_path, PLAIN | dict.fromkeys(hidden, picture(9)) | dict.fromkeys(others, b'x')) == READ

    def test_every_extension_in_any_case(self, tmp_path):
        kinds = {'PNG': '.PNG', 'TIFF': '.tif', 'BMP': '.Bmp', 'PPM': '.ppm', 'WEBP': '.webp'}
        pixels = {kind: np.full((4, 4, 3), 50 * i, np.uint8) for i, kind in enumerate(kinds)}
        files = {f'ant/{i}{ext}': encode(pixels[kind], kind) for i, (kind, ext) in enumerate(kinds.items())}
        webp = int(np.asarray(Image.open(io.BytesIO(files['ant/4.webp'])))[0, 0, 0])
        assert read_both(tmp_path, PLAIN | files)['ant'] == [0, 1, 50, 100, 2, 150, webp]

    def test_order_of_odd_names(self, tmp_path):
        names = ['10', '9', '09', '²', 'Cat', 'cat', 'é']
        files = {f'{name}/{position}.png': picture(position) for name in names for position in (2, 10, 1)}
        got = read_both(tmp_path, files)
        assert list(got) == ['09', '9', '10', 'Cat', 'cat', '²', 'é']
        assert all(values == [1, 2, 10] for values in got.values())

    def test_key_is_that_of_timm(self):
        for name in ('', '7', 'a10b', 'A 1.PNG', '10/2.png', 'x\u0663', 'no digit', '1.5'):
            assert natural_key(name) == timm.utils.natural_key(name)

    def test_other_form_of_a_name_is_another_name(self, tmp_path):
        decomposed = unicodedata.normalize('NFD', 'é')
        assert list(read_both(tmp_path, PLAIN | {f'{decomposed}/1.png': picture(4)})) == ['ant', 'bee', decomposed]


class TestDepth:
    def test_greys_of_16_bits_are_scaled(self, tmp_path):
        for kind, ext in (('PNG', 'png'), ('TIFF', 'tif'), ('PPM', 'pgm')):
            grey = np.array([[0, 255, 256], [40000, 65279, 65535]], np.uint16)
            files = {f'ant/1.{ext}': encode(grey, kind), 'bee/1.png': encode(np.zeros((2, 3), np.uint8))}
            write_files(tmp_path / kind / 'train', files)
            expected = torch.tensor([[0, 0, 1], [156, 254, 255]], dtype=torch.uint8)
            assert load_images(tmp_path / kind).images[0].equal(expected.expand(3, -1, -1))
            through_timm = open_part('folder', tmp_path / kind, 'train', 'train')[0][0]
            assert np.array_equal(np.asarray(through_timm)[..., 2], expected)

    @pytest.mark.parametrize(
        'content, message',
        [
            (encode(np.zeros((4, 4), np.float32), 'TIFF'), 'its greys are of Pillow mode F'),
            (encode(np.zeros((4, 4), np.int32), 'TIFF'), 'its greys are of Pillow mode I'),
            (b'no image', 'it is empty, or of no known format'),
            *[
                (
                    encode(
                        Image.new('RGB', (4, 4)), kind, save_all=True, append_images=[Image.new('RGB', (4, 4), 'red')]
                    ),
                    'it has 2 frames',
                )
                for kind in ('WEBP', 'TIFF', 'PNG')
            ],
        ],
    )
    def test_what_is_not_read(self, content, message, tmp_path):
        assert f': ant/3.tif: {message}' in read_both(tmp_path, PLAIN | {'ant/3.tif': content})


class TestTar:
    def test_links_lead_where_they_would(self, tmp_path):
        """To files and folders, by several steps, and hard links; a folder follows them as well."""
        root = tmp_path / 'folder' / 'train'
        write_files(root, PLAIN)
        os.symlink('../bee/1.png', root / 'ant' / '3.png')
        os.symlink('3.png', root / 'ant' / '4.png')
        os.link(root / 'ant' / '2.png', root / 'bee' / '0.png')
        os.symlink('dog', root / 'cat')
        os.symlink('ant', root / 'dog')
        (tmp_path / 'tar').mkdir()
        with tarfile.open(tmp_path / 'tar' / 'train.tar', 'w') as tar:
            tar.add(root, '.')
            assert sum(member.islnk() for member in tar.getmembers()) == 1
        expected = {'ant': [1, 2, 3, 3], 'bee': [2, 3], 'cat': [1, 2, 3, 3], 'dog': [1, 2, 3, 3]}
        assert read(root) == read(tmp_path / 'tar' / 'train.tar') == expected

    @pytest.mark.parametrize(
        'link, target, in_folder', [('ant/3.png', 'x.png', 'broken link'), ('cat', '/x', 'broken link'),
                                    ('ant/up', '..', 'nested too deeply'), ('ant/self', 'self', '')]
    )  # fmt: skip
    def test_links_that_lead_nowhere(self, link, target, in_folder, tmp_path):
        root = tmp_path / 'folder' / 'train'
        write_files(root, PLAIN)
        os.symlink(target, root / link)
        (tmp_path / 'tar').mkdir()
        with tarfile.open(tmp_path / 'tar' / 'train.tar', 'w') as tar:
            tar.add(root, '.')
        assert in_folder in read(root)
        assert f'{link!r} is a link to {target!r}, which is not in it' in read(tmp_path / 'tar' / 'train.tar')

    def test_the_last_of_equal_names_counts(self, tmp_path):
        path = tmp_path / 'train.tar'
        write_tar(path, PLAIN)
        with tarfile.open(path, 'a') as tar:
            link = tarfile.TarInfo('bee/1.png')
            link.type, link.linkname = tarfile.SYMTYPE, '../ant/2.png'
            tar.addfile(link)
            for name in ('./ant/1.png', 'bee/1.png'):
                info = tarfile.TarInfo(name)
                info.size = len(picture(7))
                tar.addfile(info, io.BytesIO(picture(7)))
        assert read(path) == {'ant': [7, 2], 'bee': [7]}

    def test_joined_archives(self, tmp_path):
        path = tmp_path / 'train.tar'
        write_tar(path, {'cat/1.png': picture(4)})
        more = path.read_bytes()
        write_tar(path, PLAIN)
        path.write_bytes(path.read_bytes() + more)
        assert read(path) == ' is damaged, or several joined tar files: more follows its end'

    @pytest.mark.parametrize('damage', [0, 100, 124, 148, 156])
    def test_damaged_header_in_the_middle(self, damage, tmp_path):
        """tarfile takes it for the end."""
        path = tmp_path / 'train.tar'
        write_tar(path, PLAIN)
        with tarfile.open(path) as tar:
            start = tar.getmembers()[1].offset
        content = bytearray(path.read_bytes())
        content[start + damage] ^= 0x55
        path.write_bytes(content)
        assert isinstance(read(path), str)

    def test_packed_archive(self, tmp_path):
        path = tmp_path / 'train.tar'
        write_tar(path, PLAIN)
        path.write_bytes(gzip.compress(path.read_bytes()))
        with pytest.raises(CondnetError, match=r'train\.tar: it is packed with gzip, expected a tar file that is not'):
            load_images(tmp_path)

    @pytest.mark.parametrize('name', ['../ant/3.png', 'ant/../bee/3.png', 'x/' * 20 + '3.png', 'ant/' + 'x' * 300])
    def test_names_that_no_folder_has(self, name, tmp_path):
        write_tar(tmp_path / 'train.tar', PLAIN | {name: picture(4)})
        assert 'is not a proper file name' in read(tmp_path / 'train.tar')


class TestSources:
    """A stale copy beside the data set must not win."""

    @pytest.mark.parametrize(
        'train, names',
        [
            (True, ['train.tar', 'train']),
            (True, ['train', CIFAR10.base_folder]),
            (True, ['train', 'cifar10/train.tar']),
            (False, ['test.tar', 'test']),
            (False, ['val', 'valid']),
            (False, ['train', 'train.tar', 'test']),
        ],
    )
    def test_several_are_refused(self, train, names, tmp_path):
        for name in names:
            if name.endswith('.tar'):
                (tmp_path / name).parent.mkdir(exist_ok=True)
                write_tar(tmp_path / name, PLAIN)
            else:
                write_files(tmp_path / name, PLAIN)
        with pytest.raises(CondnetError, match='which may differ; expected one of them'):
            load_images(tmp_path, train)

    def test_test_set_beside_validation_set(self, tmp_path):
        for i, name in enumerate(('train', 'val', 'test')):
            write_files(tmp_path / name, {'ant/1.png': picture(i), 'bee/1.png': picture(i)})
        assert load_images(tmp_path, train=False).images.unique().tolist() == [2]

    def test_test_set_is_that_of_the_training_set(self, tmp_path):
        write_files(tmp_path / 'test', PLAIN)
        for name in ('train', 'test'):
            write_files(tmp_path / 'cifar10' / name, {'ant/1.png': picture(5), 'bee/1.png': picture(5)})
        assert load_images(tmp_path, train=False).images.unique().tolist() == [5]


COLOURS = {'ant': 10, 'bee': 120, 'cat': 240}


def write_parts(root: Path, **parts: tuple[str, ...]) -> Path:
    """Parts with ten images of each of their classes, all different."""
    generator = np.random.default_rng(0)
    for part, classes in parts.items():
        for name in classes:
            for i in range(10):
                pixels = np.full((4, 4, 3), COLOURS[name], np.uint8)
                pixels[0] = generator.integers(256, size=(4, 3))
                write_files(root / part / name, {f'{i}.png': encode(pixels)})
    return root


def labels(images) -> dict[int, int]:
    """Which label the images of a colour have."""
    return {int(image[0, 3, 3]): target for image, target in zip(images.images, images.targets.tolist(), strict=True)}


class TestParts:
    @pytest.mark.parametrize('dataset', ['folder', 'torch/image_folder'])
    @pytest.mark.parametrize('split', ['validation', 'vall', '.', 'train/../test', 'test[:5]'])
    def test_missing_part(self, dataset, split, tmp_path):
        write_parts(tmp_path, train=('ant', 'bee'), test=('ant', 'bee'))
        with pytest.raises(CondnetError, match='has no part|is not a name of a part'):
            timm_images(dataset, tmp_path, split, 5, SIZE)
        with pytest.raises(CondnetError, match='has no part|is not a name of a part'):
            choose_timm_images(dataset, tmp_path, (split, 'test'), (5, 5), SIZE)

    @pytest.mark.parametrize('dataset', ['folder', 'torch/image_folder', 'torch/folder'])
    def test_classes_are_numbered_once(self, dataset, tmp_path):
        write_parts(tmp_path, train=('ant', 'bee', 'cat'), val=('ant', 'cat'))
        _, validation = choose_timm_images(dataset, tmp_path, ('training', 'validation'), (20, 20), SIZE)
        assert labels(validation) == {10: 0, 240: 2}
        assert labels(timm_images(dataset, tmp_path, 'val', 20, SIZE)) == {10: 0, 240: 2}
        write_parts(tmp_path, other=('ant', 'bee', 'cat'), fewer=('ant', 'cat'))
        with pytest.raises(CondnetError, match='other has classes that .*fewer lacks: bee'):
            timm_images(dataset, tmp_path, 'other', 20, SIZE, train_split='fewer')

    def test_equal_images_of_a_class_are_no_copies(self, tmp_path):
        for part in ('train', 'val'):
            for name, value in COLOURS.items():
                write_files(tmp_path / part, {f'{name}/{i}.png': picture(value) for i in range(5)})
        assert labels(timm_images('folder', tmp_path, 'val', 15, SIZE)) == {10: 0, 120: 1, 240: 2}

    def test_fewer_images_to_calibrate_on_than_asked_for(self, tmp_path):
        write_parts(tmp_path, train=('ant', 'bee'), val=('ant', 'bee'))
        calibration, _ = choose_timm_images('folder', tmp_path, ('train', 'val'), (1024, 5), SIZE, at_most=True)
        assert len(calibration) == len(timm_images('folder', tmp_path, 'train', 1024, SIZE, at_most=True)) < 256

    @pytest.mark.parametrize('splits', [('train', 'train'), ('training', 'train'), ('val', 'validation')])
    def test_one_part_twice(self, splits, tmp_path):
        write_parts(tmp_path, train=('ant', 'bee'), val=('ant', 'bee'))
        for dataset in ('folder', 'torch/image_folder'):
            with pytest.raises(CondnetError, match='are one part of'):
                choose_timm_images(dataset, tmp_path, splits, (5, 5), SIZE)

    @pytest.mark.parametrize('dataset', ['torch/cifar10', 'torch/MNIST', 'hfds/mine'])
    def test_one_part_twice_of_other_data_sets(self, dataset, tmp_path):
        splits = [('train', 'train')] + [('train', 'training'), ('test', 'validation')] * dataset.startswith('torch')
        for pair in splits:
            with pytest.raises(CondnetError, match=f'are one part of {dataset}'):
                choose_timm_images(dataset, tmp_path, pair, (5, 5), SIZE)

    def test_test_images_in_place_of_a_part_to_validate_on(self, caplog):
        check_parts('torch/cifar10', '', 'train', 'validation')
        assert caplog.messages == ['torch/cifar10 has no part to validate on: its test images are taken']
        assert caplog.records[0].name.startswith('condnet.')  # which all processes but the first one keep quiet

    @pytest.mark.parametrize('how', ['link', 'files linked', 'hard links', 'copies', 'some copies', 'tar'])
    def test_parts_with_the_same_images(self, how, tmp_path):
        train = write_parts(tmp_path, train=('ant', 'bee')) / 'train'
        other = tmp_path / 'val'
        if how == 'link':
            other.symlink_to('train')
        elif how == 'tar':
            for name in ('first', 'second'):
                with tarfile.open(tmp_path / f'{name}.tar', 'w') as tar:
                    tar.add(train, name)
            with pytest.raises(CondnetError, match='20 of 20 images of .*second.tar are copies of images of'):
                timm_images('folder', tmp_path, 'second', 5, SIZE, train_split='first')
            return
        elif how == 'some copies':
            write_parts(tmp_path / 'x', x=('cat',), val=('ant', 'bee'))
            shutil.move(tmp_path / 'x' / 'val', other)
            for i in range(2):
                shutil.copy(train / 'bee' / f'{i}.png', other / 'bee' / f'copy{i}.png')
        else:
            functions = {'files linked': os.symlink, 'hard links': os.link, 'copies': shutil.copy}
            shutil.copytree(train, other, copy_function=functions[how])
        message = 'are copies of images of' if 'copies' in how else 'have 20 images in common'
        with pytest.raises(CondnetError, match=message):
            timm_images('folder', tmp_path, 'val', 5, SIZE)

    def test_tar_files(self, tmp_path):
        parts = write_parts(tmp_path / 'x', train=('ant', 'bee'), validation=('ant', 'bee'))
        for name in ('train', 'validation'):
            with tarfile.open(tmp_path / f'{name}.tar', 'w') as tar:
                tar.add(parts / name, name)
        with tarfile.open(tmp_path / 'all.tar', 'w') as tar:
            tar.add(parts, 'all')
        loaded = choose_timm_images('', tmp_path, ('train', 'validation'), (20, 20), SIZE, augmented=False)
        expected = choose_timm_images('', parts, ('train', 'validation'), (20, 20), SIZE, augmented=False)
        for ours, theirs in zip(loaded, expected, strict=True):
            assert ours.images.equal(theirs.images) and ours.targets.equal(theirs.targets)
        for name in ('train.tar', 'all.tar'):
            with pytest.raises(CondnetError, match=f"{name} is a file that is not known to be the part 'validation'"):
                timm_images('', tmp_path / name, 'validation', 5, SIZE)
        shutil.copytree(parts / 'train', tmp_path / 'train')
        for split in ('train', 'validation'):
            with pytest.raises(CondnetError, match='holds train and train.tar, which may differ'):
                timm_images('', tmp_path, split, 5, SIZE)

    def test_slices_of_one_part(self, tmp_path, monkeypatch):
        """As Hugging Face's data sets have them: any records of a part."""
        files = find_images(write_parts(tmp_path, train=('ant', 'bee')) / 'train')
        records = {'train[:10]': range(10), 'train[10:]': range(10, 20), 'train[8:18]': range(8, 18)}

        def create(dataset, split, **_):
            return ClassFolders(
                split, {key: files[key] for key in [list(files)[i] for i in records[split]]}, ['ant', 'bee']
            )

        monkeypatch.setattr('condnet.data.parts.create_dataset', create)
        images = choose_timm_images('hfds/mine', tmp_path, ('train[:10]', 'train[10:]'), (5, 5), SIZE)[1]
        assert len(images) == 5
        with pytest.raises(CondnetError, match='2 of 10 images of hfds/mine.* are copies'):
            choose_timm_images('hfds/mine', tmp_path, ('train[:10]', 'train[8:18]'), (5, 5), SIZE)

    def test_too_many_classes(self, tmp_path):
        write_parts(tmp_path, train=('ant', 'bee', 'cat'))
        with pytest.raises(CondnetError, match='`num_classes` is 2, but folder has 3 classes'):
            create_timm_loader('folder', tmp_path, 'train', **LOADER, num_classes=2)

    def test_order_is_that_of_timm_and_torchvision(self, tmp_path):
        names = ['1', '10', '9', 'a b', 'a', 'B']
        write_files(tmp_path / 'train', {f'{a}/x{b}.png': picture(0) for a in names for b in ('1', '10', '9', '09b')})
        with tarfile.open(tmp_path / 'data.tar', 'w') as tar:
            tar.add(tmp_path / 'train', 'train')
        os.rename(tmp_path / 'data.tar', tmp_path / 'other.tar')
        folder, tar = tmp_path / 'train', tmp_path / 'other.tar'
        reader = create_reader('', str(folder))
        ours = open_part('', tmp_path, 'train', 'train')
        paths = [(str(folder / name), target) for name, _, target in ours.samples]
        assert paths == reader.samples and ours.classes == list(reader.class_to_idx)
        reader = create_reader('', str(tar))
        ours = open_part('', tmp_path, 'other', 'other')
        assert [f'train/{name}' for name, *_ in ours.samples] == [sample[0].path for sample in reader.samples]
        assert [target for *_, target in ours.samples] == list(reader.targets)
        plain = ImageFolder(str(folder))
        ours = open_part('torch/image_folder', tmp_path, 'train', 'train')
        assert [(str(folder / name), target) for name, _, target in ours.samples] == plain.samples

    @pytest.mark.parametrize('workers', [0, 1])
    def test_damaged_image(self, workers, tmp_path):
        """timm would take the next image for it."""
        write_parts(tmp_path, train=('ant', 'bee'))
        (tmp_path / 'train' / 'bee' / '3.png').write_bytes(b'no image')
        with pytest.raises(CondnetError) as caught:
            list(create_timm_loader('folder', tmp_path, 'train', **LOADER, workers=workers))
        assert str(caught.value) == (
            f'cannot read the image {tmp_path}/train: bee/3.png: it is empty, or of no known format'
        )

    @pytest.mark.parametrize('split', ['train', 'validation', 'training', 'vall'])
    def test_training_command(self, split, tmp_path, capsys):
        write_parts(tmp_path / 'data', train=('ant', 'bee'), test=('ant', 'bee'))
        arguments = [
            *('--dataset', 'folder', '--data-dir', str(tmp_path / 'data'), '--val-split', split, '--num-classes', '2'),
            *('--batch-size', '4', '--output', str(tmp_path / 'out'), '--model-kwargs', 'cells_per_stage=1'),
        ]
        assert main(arguments) == 2
        message = capsys.readouterr().err
        assert message.count('\n') == 1 and ('are one part of' if split.startswith('train') else 'no part') in message
        assert not (tmp_path / 'out').exists()
