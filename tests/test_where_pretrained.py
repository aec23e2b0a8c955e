"""Where pretrained weights are available, how soon one knows that they are not, and what `pretrained=True` takes."""

import socket
import time
import warnings
from pathlib import Path

import pytest
import timm
import torch
from hub_server import HubServer
from huggingface_hub import constants

import condnet
from condnet.checkpoints.folder import save_model
from condnet.models import fetch, pretrained

CIFAR = 'nb201_cond_supernet.cond1_cifar10'
LETTERS = 'nb201_cond_supernet.cond_glyphs'
REPO = Path(__file__).parents[1]


@pytest.fixture
def installed(tmp_path, monkeypatch) -> Path:
    """As where the package was installed from a wheel, in an empty working directory: the letters come with it."""
    monkeypatch.delenv(pretrained.CHECKPOINTS_VARIABLE, raising=False)
    monkeypatch.setattr(pretrained, 'PACKAGE', tmp_path / 'site-packages' / 'condnet')
    weights = tmp_path / 'site-packages' / 'condnet' / 'models' / 'weights'
    weights.parent.mkdir(parents=True)
    weights.symlink_to(REPO / 'condnet' / 'models' / 'weights', target_is_directory=True)
    monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(tmp_path / 'cache'))
    (tmp_path / 'empty').mkdir()
    monkeypatch.chdir(tmp_path / 'empty')
    return tmp_path / 'empty'


@pytest.fixture
def hub(monkeypatch):
    """A stand-in for the Hub, of which some names are asked in this process."""
    with HubServer() as server:
        _ask(monkeypatch, server.url)
        yield server


def _ask(monkeypatch, url: str) -> None:
    def hf_hub_url(repo, file, revision=None):
        return f'{url}/{repo}/resolve/{revision or "main"}/{file}'

    monkeypatch.setattr(fetch, 'hf_hub_url', hf_hub_url)


@pytest.mark.parametrize('load', [lambda name: timm.create_model(name, pretrained=True), condnet.load_model])
@pytest.mark.parametrize('is_silent', [True, False], ids=['silent', 'refused'])
def test_without_a_network_one_knows_within_two_seconds(installed, monkeypatch, load, is_silent):
    """A host that never answers, or where nothing listens."""
    with socket.create_server(('127.0.0.1', 0)) as host:
        _ask(monkeypatch, f'http://127.0.0.1:{host.getsockname()[1]}')
        if not is_silent:
            host.close()
        started = time.perf_counter()
        with pytest.raises(condnet.CondnetError, match=f'cannot get {CIFAR} from the Hub') as error:
            load(CIFAR)
        assert time.perf_counter() - started < 2
    text = str(error.value)
    assert f'checkpoints/{CIFAR}' in text and 'CONDNET_CHECKPOINTS' in text and '\n' not in text


def test_it_says_where_each_is(installed, hub):
    hub.repos[f'condnet/{CIFAR}'] = {'config.json': b'{}', 'model.safetensors': b''}
    where = condnet.where_pretrained()
    assert list(where) == condnet.list_pretrained()
    assert where[CIFAR] == f'https://huggingface.co/condnet/{CIFAR}'
    assert where['macro_cond_supernet.cond_cifar10'].startswith('nowhere: not on this machine, and not on the Hub')
    assert (Path(where[LETTERS]) / 'config.json').is_file()


def test_a_checkout_is_found_in_the_working_directory(installed, hub):
    """As after `pip install .` in it."""
    (installed / 'checkpoints').symlink_to(REPO / 'checkpoints', target_is_directory=True)
    assert condnet.where_pretrained()[CIFAR] == str(installed / 'checkpoints' / CIFAR)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert timm.create_model('nb201_cond_supernet', pretrained=True).pretrained_cfg['tag'] == 'cond1_cifar10'
    assert hub.requests == []


def test_without_a_tag_it_is_what_is_there(installed, hub):
    with pytest.warns(UserWarning, match=f'{CIFAR} are not available now; these are {LETTERS}'):
        model = timm.create_model('nb201_cond_supernet', pretrained=True)
    expected = timm.create_model(LETTERS, pretrained=True)
    assert model.active_subnet == expected.active_subnet and model.is_split
    images = torch.zeros(1, 1, 16, 16)
    assert torch.equal(model.eval()(images), expected.eval()(images))
    with pytest.warns(UserWarning, match=f'these are {LETTERS}'):
        loaded = torch.hub.load(str(REPO), 'nb201_cond_supernet', source='local', pretrained=True)
    assert loaded.pretrained_cfg['tag'] == 'cond_glyphs'
    with pytest.raises(condnet.CondnetError, match='cannot get macro_cond_supernet.cond_cifar10 from the Hub'):
        timm.create_model('macro_cond_supernet', pretrained=True)


def test_without_a_tag_the_default_comes_first(tmp_path, monkeypatch):
    monkeypatch.setenv(pretrained.CHECKPOINTS_VARIABLE, str(tmp_path))
    model = timm.create_model(CIFAR)
    model.set_calibrated_subnet(7)
    save_model(model, tmp_path / CIFAR)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        model = timm.create_model('nb201_cond_supernet', pretrained=True)
    assert model.active_subnet == model.space.parse(7) and model.pretrained_cfg['tag'] == 'cond1_cifar10'
