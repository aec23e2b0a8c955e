"""A plugin for timm's own tests (`pytest -p timm_hub`): the pretrained weights of our models come from a stand-in Hub.

The weights are untrained; what timm tests is the way that they take.
"""

import os
import tempfile
from dataclasses import replace
from pathlib import Path

from hub_server import HubServer

_server = HubServer().__enter__()
_folder = Path(tempfile.mkdtemp())
os.environ.update(HF_ENDPOINT=_server.url, HF_HOME=str(_folder / 'cache'))  # read when the Hub's client is imported

import timm  # noqa: E402

import condnet  # noqa: E402, F401
from condnet.checkpoints.folder import save_model  # noqa: E402
from condnet.models import pretrained  # noqa: E402

pretrained.PACKAGE = _folder / 'nothing' / 'condnet'
for _name in timm.list_pretrained('*_cond_supernet*'):
    _supernet = timm.create_model(_name)
    _supernet.set_active_subnet(next(iter(_supernet.space.shuffled(0))))
    save_model(_supernet, _folder / _name)
    _files = {file.name: file.read_bytes() for file in (_folder / _name).iterdir()}
    _server.repos[f'condnet/{_name}'] = _files
    _model, _, _tag = _name.partition('.')
    _sha256 = pretrained.file_sha256(_folder / _name / pretrained.WEIGHTS_NAME)
    pretrained.TAGS[_model][_tag] = replace(pretrained.TAGS[_model][_tag], sha256=_sha256)


def pytest_sessionfinish() -> None:
    """Every model was asked for, and came from the server."""
    for name in _server.repos:
        assert any(request.startswith(f'GET /{name}/resolve') for request in _server.requests), name
