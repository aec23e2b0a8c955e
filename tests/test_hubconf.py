"""torch.hub finds the models in a checkout, from anywhere and without condnet being installed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch

REPO = Path(__file__).parents[1]
KWARGS = {
    'nb201_cond_supernet': {'space': 'no_zero', 'num_classes': 7},
    'macro_cond_supernet': {'split': True},
    'nb201_net': {'arch': 6111},
    'macro_net': {'arch': '01201201'},
}

# torch.hub.list and torch.hub.help know no local source: they take the repository from torch.hub's cache.
SCRIPT = """
import json, sys, torch
repo, kwargs = sys.argv[1], json.loads(sys.argv[2])
github = 'owner/condnet:main'
answers = {'list': torch.hub.list(github, trust_repo=True), 'models': {}}
answers['help'] = {name: torch.hub.help(github, name, trust_repo=True) for name in kwargs}
for name in kwargs:
    torch.manual_seed(0)
    model = torch.hub.load(repo, name, source='local', **kwargs[name])
    answers['models'][name] = {key: value.double().sum().item() for key, value in model.state_dict().items()}
pretrained = torch.hub.load(repo, 'nb201_cond_supernet', source='local', pretrained=True, tag='cond_glyphs')
answers['active_subnet'] = pretrained.active_subnet
answers['condnet'] = sys.modules['condnet'].__file__
answers['heavy'] = sorted({'matplotlib', 'optuna', 'plotly'} & set(sys.modules))
print(json.dumps(answers))
"""


@pytest.fixture(scope='module')
def answers(tmp_path_factory) -> dict:
    """What torch.hub answers in an isolated process in another directory."""
    folder = tmp_path_factory.mktemp('elsewhere')
    cached = folder / 'cache' / 'hub' / 'owner_condnet_main'
    cached.parent.mkdir(parents=True)
    cached.symlink_to(REPO, target_is_directory=True)
    process = subprocess.run(
        [sys.executable, '-I', '-c', SCRIPT, str(REPO), json.dumps(KWARGS)],
        cwd=folder,
        env={**os.environ, 'TORCH_HOME': str(folder / 'cache')},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout.splitlines()[-1])


def test_entry_points_are_listed_and_documented(answers):
    assert sorted(answers['list']) == sorted(KWARGS)
    assert all('pretrained' in text and 'num_classes' in text for text in answers['help'].values())


@pytest.mark.parametrize('name', KWARGS)
def test_model_is_that_of_timm(answers, name):
    assert Path(answers['condnet']).resolve() == REPO / 'condnet' / '__init__.py'
    torch.manual_seed(0)
    expected = timm.create_model(name, **KWARGS[name]).state_dict()
    assert answers['models'][name] == {key: value.double().sum().item() for key, value in expected.items()}


def test_import_is_light(answers):
    """Who only builds a model waits neither for figures nor for the search."""
    assert answers['heavy'] == []


def test_tag_of_pretrained_weights(answers):
    expected = timm.create_model('nb201_cond_supernet.cond_glyphs', pretrained=True).active_subnet
    assert tuple(answers['active_subnet']) == expected


@pytest.mark.parametrize('name', ['nb201_net', 'macro_net'])
def test_missing_pretrained_weights_are_one_clear_error(name):
    with pytest.raises(ValueError, match=f'no pretrained weights of {name}.* exist yet.*condnet-train -c') as error:
        torch.hub.load(str(REPO), name, source='local', pretrained=True)
    assert len(str(error.value).splitlines()) == 1
