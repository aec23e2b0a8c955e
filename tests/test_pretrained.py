"""Pretrained super-networks: what a tag decides, which folder is found, what is refused, and the way over the Hub."""

import copy
import hashlib
import itertools
import json
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import timm
import torch
from hub_server import HubServer
from timm.utils import ModelEmaV3

import condnet
from condnet.checkpoints.folder import save_model
from condnet.checkpoints.loading import load_model
from condnet.cli.search import main as search
from condnet.cli.train import main as train
from condnet.cli.validate import main as validate
from condnet.hub.publish import publish
from condnet.models import pretrained
from condnet.ranking.evaluate import EvaluationData, accuracy_and_loss, evaluate_subnet

NAME = 'nb201_cond_supernet.cond_glyphs'
UNSPLIT = 'nb201_cond_supernet.spos_glyphs'
IMAGES = torch.randn(100, 1, 16, 16, generator=torch.Generator().manual_seed(0))


def make_folder(parent: Path, name: str, **kwargs) -> torch.nn.Module:
    """A folder of an untrained model, calibrated for architecture 6111; returns what it should load as."""
    torch.manual_seed(3)
    model = timm.create_model(name, active_subnet=6111, **kwargs)
    for parameter in model.parameters():
        parameter.data = parameter.data.half().float()
    condnet.calibrate(model, IMAGES if model.in_chans == 1 else IMAGES.expand(-1, 3, -1, -1))
    save_model(model.eval(), parent / name, {'data_name': name.rpartition('_')[2]})
    (parent / name / 'README.md').write_text('---\nlicense: apache-2.0\n---\n\n# Test\n')
    return model


@pytest.fixture
def folders(tmp_path, monkeypatch) -> Path:
    """A directory that pretrained models are looked for in, empty."""
    monkeypatch.setenv(pretrained.CHECKPOINTS_VARIABLE, str(tmp_path))
    return tmp_path


@pytest.fixture(scope='module')
def made(tmp_path_factory) -> tuple[Path, torch.nn.Module]:
    """The folder of `NAME`, made once, and what it should load as."""
    parent = tmp_path_factory.mktemp('made')
    return parent / NAME, make_folder(parent, NAME)


@pytest.fixture
def folder(folders, made) -> Path:
    """A copy of that folder, where it is looked for."""
    return shutil.copytree(made[0], folders / NAME)


def test_tag_decides_the_arguments():
    model = timm.create_model(NAME)
    assert (model.is_split, model.cells_per_stage, model.num_classes, model.in_chans) == (True, 1, 26, 1)
    assert not timm.create_model(UNSPLIT).is_split
    assert not timm.create_model('nb201_cond_supernet').is_split  # neither a tag nor weights
    assert timm.create_model('macro_cond_supernet.cond_cifar10').num_weight_sets == 44
    for split in (False, 0):
        with pytest.raises(ValueError, match='cond_glyphs is split; split=False needs'):
            timm.create_model(NAME, split=split)


def test_split_weights_do_not_become_unsplit(folder):
    with pytest.raises(ValueError, match='is split; split=False needs'):
        timm.create_model(f'local-dir:{folder}', pretrained=True, split=False)


def test_pretrained_classifies_at_once(folder, made):
    expected = made[1](IMAGES)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        for model in (timm.create_model(NAME, pretrained=True), load_model(NAME), load_model(folder)):
            assert model.active_subnet == model.space.parse(6111)
            assert torch.equal(model.eval()(IMAGES), expected)
    assert NAME in condnet.list_pretrained()
    again = folder.parent / 'again'
    save_model(model, again)
    assert torch.equal(load_model(again).eval()(IMAGES), expected)


def test_weights_are_hashed_once(folder, monkeypatch):
    hashed, stream_sha256 = [], pretrained.stream_sha256
    monkeypatch.setattr(
        pretrained, 'stream_sha256', lambda stream: hashed.append(Path(stream.name)) or stream_sha256(stream)
    )
    weights = folder / pretrained.WEIGHTS_NAME
    weights.touch()  # as if it had never been read before
    load_model(NAME)
    load_model(NAME)
    assert hashed == [weights]
    weights.write_bytes(weights.read_bytes()[:-1] + b'x')
    with pytest.raises(condnet.CondnetError, match='its SHA-256 is not the one'):
        load_model(NAME)
    assert hashed == [weights] * 2


def test_weights_fit_other_classes_and_channels(folder):
    model = timm.create_model(NAME, pretrained=True, num_classes=5, in_chans=3)
    assert model(torch.randn(2, 3, 16, 16)).shape == (2, 5)


def test_unsplit_weights_expand(folders):
    expected = make_folder(folders, UNSPLIT)
    model = timm.create_model(UNSPLIT, pretrained=True, split=True).eval()
    assert model.is_split
    assert torch.equal(model(IMAGES), expected(IMAGES))


def test_statistics_of_another_subnet_are_warned_of_once(folder):
    model = timm.create_model(NAME, pretrained=True).eval()
    data = EvaluationData(IMAGES, IMAGES[:8], torch.zeros(8, dtype=torch.int64))
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        evaluate_subnet(model, 5, data)  # calibrates, and gives everything back
        model(IMAGES)
        model.set_active_subnet(5)
        condnet.calibrate(model, IMAGES)
        model(IMAGES)
    model.set_active_subnet(6111)
    with pytest.warns(UserWarning, match='not of the active sub-network; call condnet.calibrate'):
        model(IMAGES)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        model(IMAGES)


def is_warned_of(use, *args) -> bool:
    """Whether a use of a model, a function of one line, warns; if so, once and as of that line."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        use(*args)
    warned = [w for w in caught if 'not of the active sub-network; call condnet.calibrate' in str(w.message)]
    assert [(w.filename, w.lineno) for w in warned] in ([], [(__file__, use.__code__.co_firstlineno)])
    return bool(warned)


def test_what_training_makes_of_the_statistics(folder):
    """They go on to fit a sub-network that is trained alone; several sub-networks mix them."""
    model = timm.create_model(NAME, pretrained=True)
    model(IMAGES[:8])  # in training mode
    assert not is_warned_of(lambda: model.eval()(IMAGES[:8]))
    model.train().set_active_subnet(5)
    model(IMAGES[:8])
    model.set_active_subnet(6111)
    assert is_warned_of(lambda: model.eval()(IMAGES[:8]))
    model = timm.create_model(NAME, pretrained=True, active_subnet=5)
    for _ in range(50):  # by then they have forgotten the other one
        model(IMAGES[:2])
    assert not is_warned_of(lambda: model.eval()(IMAGES[:8]))
    model.set_active_subnet(6111)
    assert is_warned_of(lambda: model(IMAGES[:8]))


def test_other_statistics_are_forgotten_as_fast_as_momentum_says(folder):
    """When they make up half a percent."""
    for momentum, passes in ((1, 1), (0.5, 8), (0.01, None)):
        model = timm.create_model(NAME, pretrained=True, active_subnet=5, bn_momentum=momentum)
        for _ in range((passes or 60) - 1):
            model(IMAGES[:2])
        assert is_warned_of(lambda model: model.eval()(IMAGES[:2]), copy.deepcopy(model))
        model(IMAGES[:2])
        assert is_warned_of(lambda model: model.eval()(IMAGES[:2]), model) == (passes is None)


def test_statistics_that_do_not_move_stay_as_they_are(folder):
    model = timm.create_model(NAME, pretrained=True, bn_momentum=0)
    best = model.active_subnet
    for arch in (5, 6111):
        model.set_active_subnet(arch)
        model(IMAGES[:2])
    model.set_active_subnet(best)
    assert not is_warned_of(lambda: model.eval()(IMAGES[:8]))
    model.set_active_subnet(5)
    assert is_warned_of(lambda: model(IMAGES[:8]))


def test_a_new_model_is_not_warned_of_before_several_subnets_are_trained():
    model = timm.create_model(NAME, active_subnet=5).eval()
    other = timm.create_model(NAME, active_subnet=5)
    other.load_state_dict(model.state_dict())  # still as new
    evaluate_subnet(other, 7, EvaluationData(IMAGES, IMAGES[:8], torch.zeros(8, dtype=torch.int64)))
    for use, new in itertools.product(
        [lambda m: m.eval()(IMAGES[:8]), lambda m: m.get_active_subnet()], (model, other)
    ):
        assert not is_warned_of(use, new)
    model.train()(IMAGES[:8])
    assert not is_warned_of(lambda: model.eval()(IMAGES[:8]))
    averaged = ModelEmaV3(other)
    for arch in (6111, 5):
        other.train().set_active_subnet(arch)
        other(IMAGES[:8])
        averaged.update(other)
    assert is_warned_of(lambda: other.get_active_subnet())
    assert is_warned_of(lambda: averaged.module.eval()(IMAGES[:8]))


@pytest.mark.slow
def test_statistics_of_a_training_are_warned_of(tmp_path):
    """However its checkpoint comes into a model."""
    arguments = ['-c', 'nb201_glyphs', '--epochs', '1', '--split-epoch', '0', '--eval-interval', '0', '--batch-size',
                 '2560', '--model-kwargs', 'cells_per_stage=1', 'channels=(4,4,4)']  # fmt: skip
    assert train([*arguments, '--output', str(tmp_path / 'training')]) == 0
    last = tmp_path / 'training' / 'last.pth.tar'
    loaded = load_model(last)
    save_model(loaded, tmp_path / 'folder')
    kwargs = {'cells_per_stage': 1, 'channels': (4, 4, 4)}
    by_hand = timm.create_model(UNSPLIT, active_subnet=5, **kwargs)
    condnet.calibrate(by_hand, IMAGES)
    by_hand.load_state_dict(loaded.state_dict())
    models = [
        loaded,
        by_hand,
        timm.create_model(UNSPLIT, checkpoint_path=str(last), **kwargs),
        timm.create_model(f'local-dir:{tmp_path}/folder', pretrained=True),
        torch.hub.load(str(Path(__file__).parents[1]), UNSPLIT.partition('.')[0], source='local', num_classes=26,
                       in_chans=1, checkpoint_path=str(last), **kwargs),
    ]  # fmt: skip
    data = EvaluationData(IMAGES, IMAGES[:8], torch.zeros(8, dtype=torch.int64))
    uses = [
        lambda model: model.eval()(IMAGES[:8]),
        lambda model: model.get_active_subnet(),
        lambda model: accuracy_and_loss(model, data),
    ]
    for model, use in [*((models[0], use) for use in uses), *((model, uses[0]) for model in models[1:])]:
        copied = copy.deepcopy(model)
        copied.set_active_subnet(5)
        assert not is_warned_of(lambda model: evaluate_subnet(model, 5, data), copied)
        assert is_warned_of(use, copied)
        assert not is_warned_of(use, copied)
        calibrated = copy.deepcopy(model)
        calibrated.set_active_subnet(5)
        condnet.calibrate(calibrated, IMAGES)
        assert not is_warned_of(use, calibrated)


def test_the_over_complete_state_is_calibrated_as_well(folder):
    model = timm.create_model(NAME, pretrained=True).eval()
    model.set_active_subnet(None)
    condnet.calibrate(model, IMAGES)
    assert not is_warned_of(lambda: model(IMAGES[:8]))
    model.set_active_subnet(6111)
    assert is_warned_of(lambda: model(IMAGES[:8]))


def test_every_model_warns():
    """With Python's own filter, which shows a warning once for each place that it comes from."""
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter('default')
        for _ in range(2):
            model = timm.create_model(NAME, pretrained=True).eval()
            model.set_active_subnet(5)
            model(IMAGES[:1])
    assert len(shown) == 2 and all('not of the active sub-network' in str(warning.message) for warning in shown)


@pytest.mark.parametrize('name', [NAME, 'local-dir:{}'])
def test_statistics_of_a_subnet_that_is_asked_for_are_warned_of(folder, name):
    name = name.format(folder)
    model = timm.create_model(name, pretrained=True, active_subnet=5).eval()
    assert model.active_subnet == model.space.parse(5)
    with pytest.warns(UserWarning, match='not of the active sub-network'):
        model(IMAGES)


@pytest.mark.parametrize('name', [NAME, 'local-dir:{}'])
def test_statistics_of_a_folder_that_was_never_calibrated_are_warned_of(folders, name):
    """As `condnet-convert` writes it."""
    save_model(timm.create_model(NAME), folders / NAME)
    model = timm.create_model(name.format(folders / NAME), pretrained=True).eval()
    assert model.active_subnet is None
    model.set_active_subnet(5)
    with pytest.warns(UserWarning, match='not of the active sub-network'):
        model(IMAGES)


def test_statistics_that_training_has_changed_are_of_no_subnet(folder, folders, made):
    model = load_model(folder)
    save_model(model, folders / 'same')
    assert load_model(folders / 'same').active_subnet == made[1].active_subnet is not None
    model.set_active_subnet(5)
    model.train()(IMAGES)
    save_model(model, folders / 'trained')
    assert load_model(folders / 'trained').active_subnet is None


def test_tags_that_do_not_exist_are_refused_in_one_line(folder):
    folder.rename(folder.with_name('nb201_cond_supernet.mine'))
    with pytest.raises(ValueError, match="has no tag 'mine', expected one of cond1_.*loaded as local-dir:FOLDER"):
        timm.create_model('nb201_cond_supernet.mine', pretrained=True)


def _flip(folder: Path) -> None:
    content = bytearray((folder / 'model.safetensors').read_bytes())
    content[-5] ^= 1
    (folder / 'model.safetensors').write_bytes(content)


def _truncate(folder: Path) -> None:
    content = (folder / 'model.safetensors').read_bytes()
    (folder / 'model.safetensors').write_bytes(content[: len(content) // 2])


def _other_model(folder: Path) -> None:
    save_model(timm.create_model('macro_cond_supernet', in_chans=1, num_classes=26), folder)


def _other_shapes(folder: Path) -> None:
    save_model(timm.create_model(NAME, channels=(4, 4, 4)), folder)


def _other_weights(folder: Path) -> None:
    other = folder.parent / 'other'
    save_model(timm.create_model(NAME, active_subnet=6111), other)
    shutil.copy(other / 'model.safetensors', folder)


def _unsplit(folder: Path) -> None:
    save_model(timm.create_model(UNSPLIT), folder)


def _config(folder: Path) -> None:
    (folder / 'config.json').write_text('{"architecture": "nb201')


def _arguments(folder: Path) -> None:
    config = json.loads((folder / 'config.json').read_text())
    (folder / 'config.json').write_text(json.dumps(config | {'model_args': None}))


def _no_weights(folder: Path) -> None:
    (folder / 'model.safetensors').unlink()


@pytest.mark.parametrize(
    ('damage', 'message'),
    [
        (_flip, 'is damaged, or of another model: its SHA-256'),
        (_truncate, 'model.safetensors is damaged'),
        (_other_weights, 'is damaged, or of another model: its SHA-256'),
        (_other_model, "holds the model 'macro_cond_supernet', expected 'nb201_cond_supernet'"),
        (_other_shapes, 'the checkpoint does not fit'),
        (_unsplit, 'holds unsplit weights, expected split ones'),
        (_config, 'config.json is damaged'),
        (_arguments, 'config.json is damaged'),
        (_no_weights, 'lacks model.safetensors'),
    ],
)
def test_wrong_files_are_refused_in_one_line(folder, damage, message):
    damage(folder)
    with pytest.raises(ValueError, match=message) as error:
        timm.create_model(NAME, pretrained=True)
    assert '\n' not in str(error.value)
    if damage in (_flip, _truncate, _other_weights):
        for load in (load_model, lambda path: timm.create_model(f'local-dir:{path}', pretrained=True)):
            with pytest.raises(ValueError, match=message):
                load(folder)


def test_weights_that_do_not_exist_yet(folders, monkeypatch):
    monkeypatch.setattr(pretrained, 'PACKAGE', folders / 'package' / 'condnet')  # without what comes with the package
    monkeypatch.chdir(folders)
    for model, tags in pretrained.TAGS.items():  # without what was published
        without = {tag: pretrained.Tag(known.args) for tag, known in tags.items()}
        monkeypatch.setitem(pretrained.TAGS, model, without)
    name = 'macro_cond_supernet.spos_cifar10'
    assert condnet.list_pretrained() == []
    with pytest.raises(ValueError, match=f'no pretrained weights of {name} exist yet.* DATA --split-epoch 0$'):
        timm.create_model(name, pretrained=True)
    with pytest.raises(ValueError, match='no pretrained super-network nb201_cond_supernet.typo; there are'):
        load_model('nb201_cond_supernet.typo')
    monkeypatch.setenv(pretrained.CHECKPOINTS_VARIABLE, str(folders / 'nowhere'))
    with pytest.raises(ValueError, match='CONDNET_CHECKPOINTS names .*nowhere, which is not a directory'):
        timm.create_model(name, pretrained=True)


@pytest.mark.parametrize('command', [validate, search], ids=['validate', 'search'])
def test_a_name_without_its_images_says_how_to_get_them(folders, monkeypatch, capsys, command):
    name = 'nb201_cond_supernet.spos1_cifar10'
    make_folder(folders, name)
    monkeypatch.chdir(folders)
    arguments = ['--checkpoint', name] if command is validate else [name]
    assert command(arguments) == 2
    error = capsys.readouterr().err
    assert '--data-dir is missing' in error and '--download fetches CIFAR-10' in error and error.count('\n') == 1


# Over the Hub. Where it is is read when its client is imported, so this is another process; it forks for each command.

HUB = """
import dataclasses, hashlib, os, sys, time, torch, timm, condnet, huggingface_hub
from condnet.cli import hub
from condnet.models import pretrained
pretrained.PACKAGE = pretrained.Path('/nowhere/condnet')
torch.set_num_threads(1)
images = torch.randn(100, 1, 16, 16, generator=torch.Generator().manual_seed(0))

def pull(names, is_offline):
    huggingface_hub.constants.HF_HUB_OFFLINE = is_offline
    for name, sha in map(str.split, names):
        model, _, tag = name.partition('.')
        if tags := pretrained.TAGS.get(model):
            tags[tag] = dataclasses.replace(tags[tag], sha256=sha)
        started = time.perf_counter()
        try:
            model = timm.create_model(name, pretrained=True).eval()
            print(hashlib.sha256(model(images).detach().numpy().tobytes()).hexdigest())
        except ValueError as error:
            print(f'{time.perf_counter() - started:.2f} {error}')

folder, repo, *names = sys.argv[1:]
for function, *arguments in ((hub.main, ['publish', folder, repo]), (pull, names, False), (pull, names, True)):
    if not os.fork():
        sys.exit(function(*arguments))
    assert os.wait()[1] == 0
"""


def run_with_hub(server: HubServer, cache: Path, *args: str) -> list[str]:
    """The lines that a process prints for which the server is the Hub."""
    env = {key: value for key, value in os.environ.items() if not key.startswith(('HF_', 'CONDNET_CHECKPOINTS'))}
    env |= {'HF_ENDPOINT': server.url, 'HF_HOME': str(cache), 'HF_TOKEN': 'hf_test', 'HF_HUB_DISABLE_XET': '1'}
    process = subprocess.run([sys.executable, '-c', HUB, *args], env=env, capture_output=True, text=True, timeout=240)
    assert process.returncode == 0, process.stderr
    return process.stdout.splitlines()


@pytest.mark.slow
def test_push_and_pull_give_the_same_predictions(folder, made, tmp_path):
    expected = hashlib.sha256(made[1](IMAGES).detach().numpy().tobytes()).hexdigest()
    sha, repo = pretrained.file_sha256(folder / 'model.safetensors'), f'condnet/{NAME}'
    (folder / 'notes.txt').write_text('not to be published')
    wanted = (f'{NAME} {sha}', f'hf-hub:{repo} -', f'{NAME} {"f" * 64}', f'{UNSPLIT} {sha}')
    with HubServer() as server:
        printed = run_with_hub(server, tmp_path / 'cache', str(folder), repo, *wanted)
        assert printed[-9].endswith(f'/commit/{server.revision(repo)}')
        assert sorted(server.repos[repo]) == ['README.md', 'config.json', 'model.safetensors']
        assert f'PUT /objects/{sha}' in server.requests  # and not within the commit
    for first, second, other, missing in (printed[-8:-4], printed[-4:]):  # online, and then offline
        assert first == second == expected
        assert 'is not the file that this version of condnet knows' in other and str(tmp_path / 'cache') in other
        assert f'cannot get {UNSPLIT} from the Hub' in missing
        assert missing.endswith(' in; or train your own with condnet-train -c nb201_glyphs --split-epoch 0')
        assert float(missing.split()[0]) < 2


def test_what_is_not_complete_is_not_published(folder, made):
    save_model(made[1], folder)  # a card that was there before would describe other weights
    with pytest.raises(ValueError, match='has no card README.md'):
        publish(folder, 'condnet/test')
    _flip(folder)
    with pytest.raises(ValueError, match='is damaged'):
        publish(folder, 'condnet/test')


def test_config_says_what_it_is(folder):
    config = json.loads((folder / 'config.json').read_text())
    assert config['pretrained_cfg']['tag'] == 'cond_glyphs'
    assert config['model_args']['active_subnet'] == condnet.get_space('nb201').format((3, 3, 3, 1, 3, 2))
    assert config['training'] == {'data_name': 'glyphs'}
