"""Files that are no checkpoint of ours are called what they are; none is called damaged that is not."""

import argparse
import io
import json
import pickle
import shutil
import warnings
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

import condnet  # noqa: F401  # registers the models
from condnet import CondnetError
from condnet.checkpoints.folder import save_model
from condnet.checkpoints.loading import load_checkpoint, load_model, sha256
from condnet.checkpoints.training import read_training_checkpoint
from condnet.cli.convert import main as write_folder

NET = ('nb201_net', {'arch': 6111, 'cells_per_stage': 1, 'channels': (4, 4, 4)})


def saved(content, **kwargs):
    stream = io.BytesIO()
    torch.save(content, stream, **kwargs)
    return stream.getvalue()


def zipped(name):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, 'w') as archive:
        archive.writestr(name, 'x')
    return stream.getvalue()


def scripted():
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        torch.jit.save(torch.jit.script(nn.Linear(1, 1)), stream)
    return stream.getvalue()


WEIGHTS = OrderedDict(weight=torch.zeros(2), bias=torch.zeros(1))
TIMM = {'epoch': 1, 'arch': 'resnet18', 'state_dict': WEIGHTS, 'optimizer': {}, 'version': 2}
FILES = {
    'empty': (b'', 'it is damaged, as it is empty'),
    'web page': (b'<!DOCTYPE html>\n<html>404', 'is a web page, saved instead of the file'),
    "git-LFS's pointer": (b'version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n', 'git lfs pull'),
    'state_dict': (saved(WEIGHTS), 'holds weights alone (a state_dict), and does not say of which model'),
    'DataParallel': (saved({f'module.{k}': v for k, v in WEIGHTS.items()}), 'a state_dict, of a model in DataParallel'),
    'before torch 1.6': (saved(WEIGHTS, _use_new_zipfile_serialization=False), 'in the form before torch 1.6'),
    'whole model': (saved(nn.Linear(1, 1)), 'more than tensors (torch.nn.modules.linear.Linear), such as'),
    'timm': (saved(TIMM), 'not a training checkpoint of condnet: it lacks args, task_state'),
    "timm's arguments": (saved({**TIMM, 'args': argparse.Namespace(lr=1), 'task_state': {}}), 'args are of another'),
    'a number of numpy': (saved({**TIMM, 'metric': np.float64(1)}), 'multiarray.scalar'),
    'list': (saved([torch.zeros(1)]), 'not a training checkpoint of condnet: it lacks'),
    'pickle': (
        pickle.dumps({'state_dict': 1}),
        'is not loaded; expected a training checkpoint of condnet, or a folder with',
    ),
    'torch.jit': (scripted(), 'is a network that torch.jit saved'),
    'Excel': (zipped('xl/workbook.xml'), 'is an Excel workbook'),
    'npz': (zipped('weight.npy'), 'is an archive of NumPy arrays'),
    'ZIP': (zipped('README.md'), 'is a ZIP archive; expected'),
    'gzip': (b'\x1f\x8b\x08' + bytes(9), 'is compressed by gzip'),
    'HDF5': (b'\x89HDF\r\n\x1a\n', 'is an HDF5 file'),
}


@pytest.mark.parametrize('content, message', FILES.values(), ids=FILES)
def test_files_of_others_are_called_what_they_are(content, message, tmp_path):
    path = tmp_path / 'model.pth.tar'
    path.write_bytes(content)
    for read in (load_checkpoint, read_training_checkpoint):
        with pytest.raises(CondnetError) as info:
            read(path)
        error = str(info.value)
        assert message in error and str(path) in error and '\n' not in error
        assert 'damaged' not in error or not content


class Runs:
    def __init__(self, victim):
        self.victim = victim

    def __reduce__(self):
        return open, (str(self.victim), 'w')


@pytest.mark.parametrize('legacy', [False, True])
def test_nothing_that_a_stranger_saved_is_run(legacy, tmp_path):
    torch.save(Runs(tmp_path / 'victim'), tmp_path / 'm.pth', _use_new_zipfile_serialization=not legacy)
    with pytest.raises(CondnetError):
        load_checkpoint(tmp_path / 'm.pth')
    assert not (tmp_path / 'victim').exists()


@pytest.fixture(scope='module')
def saved_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('models') / 'network'
    save_model(timm.create_model(NET[0], **NET[1]), folder, {'seed': 7}, half=False)
    return folder


@pytest.fixture
def folder(saved_folder, tmp_path):
    return shutil.copytree(saved_folder, tmp_path / 'network')


def test_a_file_of_a_model_folder_stands_for_the_folder(folder, tmp_path):
    expected, linked = load_model(folder).state_dict(), tmp_path / 'linked'
    linked.mkdir()
    for name in ('model.safetensors', 'config.json'):
        (linked / name).symlink_to(folder / name)  # as the Hub's cache has them
    for path in (folder / 'model.safetensors', folder / 'config.json', linked / 'model.safetensors'):
        loaded = load_checkpoint(path)
        assert loaded.sha256 == sha256(path) == sha256(folder) and loaded.training == {'seed': 7}
        assert all(torch.equal(value, expected[key]) for key, value in loaded.model.state_dict().items())


def test_weights_alone_say_what_is_needed(folder, tmp_path):
    for name in ('model.safetensors', 'other.safetensors'):
        save_file({'weight': torch.zeros(2)}, tmp_path / name)
        with pytest.raises(CondnetError, match=r'is a safetensors file; .* a folder with model.safetensors and config'):
            load_checkpoint(tmp_path / name)


CONTENTS = {
    'web page': (b'<html>', 'model.safetensors is a web page'),
    "git-LFS's pointer": (b'version https://git-lfs.github.com/spec/v1\n', 'git lfs pull'),
    'empty': (b'', 'model.safetensors is empty'),
    'torch.save': (saved(WEIGHTS), 'is a file of torch.save; expected weights in safetensors'),
}


@pytest.mark.parametrize('content, message', CONTENTS.values(), ids=CONTENTS)
def test_weights_of_a_folder_are_called_what_they_are(content, message, folder):
    (folder / 'model.safetensors').write_bytes(content)
    with pytest.raises(CondnetError, match=message) as info:
        load_checkpoint(folder)
    assert 'damaged' not in str(info.value)


CONFIGS = {
    'transformers': (b'{"architectures": ["ViT"], "model_type": "vit"}', 'is of another program: it names no'),
    'unknown model': (b'{"architecture": "my_net", "pretrained_cfg": {"num_classes": 1}}', "the model 'my_net', which"),
    'byte order mark': (b'\xef\xbb\xbf{}', 'begins with a byte order mark'),
    'web page': (b'<html>', 'config.json is a web page'),
    'a list': (b'[]', 'config.json is damaged, or lacks'),
    'nested without end': (b'[' * 100_000, 'config.json is damaged'),
    'another model': (b'{"architecture": "resnet18", "pretrained_cfg": {"num_classes": 10}}', 'cannot load .*network'),
}


@pytest.mark.parametrize('content, message', CONFIGS.values(), ids=CONFIGS)
def test_config_of_others_is_called_what_it_is(content, message, folder):
    (folder / 'config.json').write_bytes(content)
    with pytest.raises(CondnetError, match=message) as info:
        load_checkpoint(folder)
    assert '\n' not in str(info.value)


def test_folders_that_lack_something(folder, tmp_path):
    (folder / 'config.json').unlink()
    with pytest.raises(CondnetError, match=r'not a model folder: it lacks config.json'):
        load_checkpoint(folder)
    (tmp_path / 'last.pth.tar').write_bytes(b'x')
    with pytest.raises(CondnetError, match=r'is the folder of a training; name the checkpoint in it, .*/last.pth.tar'):
        load_checkpoint(tmp_path)


def macro_checkpoint(arch):
    """A training checkpoint of `macro_net`, as one with `--model-kwargs arch=...`."""
    model = timm.create_model('macro_net', arch='index:1210')
    args = argparse.Namespace(
        model='macro_net',
        model_kwargs={'arch': arch},
        num_classes=10,
        input_size=[3, 32, 32],
        data_name='cifar10',
        data_sha256=None,
        **dict.fromkeys(('epochs', 'seed', 'batch_size', 'opt', 'lr', 'min_lr', 'sched', 'momentum', 'weight_decay')),
        split_epoch=0,
    )
    state = {'step': 1, 'split': False}
    return {'epoch': 0, 'args': args, 'state_dict': model.state_dict(), 'task_state': state, 'optimizer': {}}


def test_digits_of_macro_in_old_checkpoints_are_the_index_that_they_were(tmp_path):
    path, folder = tmp_path / 'last.pth.tar', tmp_path / 'folder'
    torch.save(macro_checkpoint('1210'), path)
    assert load_model(path).arch == (0, 1, 1, 2, 2, 2, 1, 1)
    assert write_folder([str(path), str(folder)]) == 0
    config = (folder / 'config.json').read_text()
    assert '"index:1210"' in config
    (folder / 'config.json').write_text(config.replace('index:1210', '1210'))
    assert load_model(folder).arch == (0, 1, 1, 2, 2, 2, 1, 1)


def changed(tree, path, value):
    """A tree in which the value at a path, such as `model_args.arch`, is another one, or gone if it is `...`."""
    key, _, rest = path.partition('.')
    copy = dict(tree)
    copy[key] = changed(tree[key], rest, value) if rest else value
    return {name: inner for name, inner in copy.items() if inner is not ...}


CHANGED_CONFIGS = [
    ('num_classes', 11),  # timm would make a new classifier
    ('model_args.num_classes', 11),
    ('pretrained_cfg.num_classes', 11),
    ('pretrained_cfg.num_classes', True),
    ('pretrained_cfg.input_size', [{'a': 3}, 32, 32]),
    ('pretrained_cfg.input_size', [32, 32, 3]),
    ('pretrained_cfg.input_size', [1, 32, 32]),
    ('pretrained_cfg.mean', [0.5, 'x', 10**400]),
    ('pretrained_cfg.std', [float('nan')] * 3),
    ('model_args.in_chans', 1),
    ('model_args.cells_per_stage', 10**30),  # would never end
    ('model_args.channels', [4, 4, 4.0]),
    ('model_args', [4]),
    ('architecture', ['nb201_net']),
    ('training', 'x'),
]


@pytest.mark.parametrize('key, value', CHANGED_CONFIGS)
def test_values_that_the_weights_are_not_of_are_refused(key, value, folder):
    config = json.loads((folder / 'config.json').read_text())
    (folder / 'config.json').write_text(json.dumps(changed(config, key, value)))
    with pytest.raises(CondnetError) as info:
        load_checkpoint(folder)
    assert '\n' not in str(info.value)


def test_errors_of_safetensors_are_one_line(folder):
    data = (folder / 'model.safetensors').read_bytes()
    header = data[8 : 8 + int.from_bytes(data[:8], 'little')].replace(b'"F32"', b'"F\\n"', 1)
    (folder / 'model.safetensors').write_bytes(len(header).to_bytes(8, 'little') + header + data[8 + len(header) :])
    with pytest.raises(CondnetError, match='damaged: ') as info:
        load_checkpoint(folder)
    assert '\n' not in str(info.value)


CHANGED_CHECKPOINTS = [
    ('epoch', '0'),
    ('args.num_classes', ...),
    ('args.num_classes', 11),  # another classifier than the weights
    ('args.input_size', 3),
    ('args.input_size', [1, 32, 32]),
    ('args.model_kwargs', None),
    ('args.model_kwargs', {1: 2}),
    ('args.model', ['macro_net']),
    ('args.lr', ...),
    ('task_state', None),
    ('task_state.split', ...),
    ('task_state.step', 'x'),
    ('state_dict', []),
    ('state_dict', {'head.weight': 'x'}),
    ('state_dict_ema', 5),
]


@pytest.mark.parametrize('key, value', CHANGED_CHECKPOINTS)
def test_checkpoints_that_another_program_has_changed_are_refused(key, value, tmp_path):
    content = macro_checkpoint('index:1210') | {'state_dict_ema': None}
    content = changed(content | {'args': vars(content['args'])}, key, value)
    torch.save(content | {'args': argparse.Namespace(**content['args'])}, tmp_path / 'last.pth.tar')
    with pytest.raises(CondnetError) as info:
        load_checkpoint(tmp_path / 'last.pth.tar')
    assert '\n' not in str(info.value)


def test_model_folder_that_is_a_file(tmp_path):
    (tmp_path / 'file').write_text('mine')
    with pytest.raises(
        CondnetError, match=f'cannot write to {tmp_path / "file"}: {tmp_path / "file"} is not a directory'
    ):
        save_model(timm.create_model(NET[0], **NET[1]), tmp_path / 'file')
    assert (tmp_path / 'file').read_text() == 'mine'
