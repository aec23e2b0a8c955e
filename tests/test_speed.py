"""The benchmark of speed: its figures are of the same computation, and are written as promised."""

import json
import math

import pytest
import timm
import torch

from condnet.checkpoints.folder import save_model
from tools import speed

pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """An untrained super-network; a small one, as bf16 is slow on many a CPU."""
    folder = tmp_path_factory.mktemp('untrained') / 'nb201'
    torch.manual_seed(0)
    save_model(timm.create_model('nb201_cond_supernet', split=True, cells_per_stage=1, channels=(4, 4, 4)), folder)
    return str(folder)


@pytest.fixture
def run(folder, tiny_data, tmp_path, monkeypatch):
    """Measures with little of everything; returns the figures."""
    monkeypatch.setattr(speed, 'choose_archs', lambda model: model.space.sample_distinct(4, 0))

    def benchmark():
        arguments = ['--data-dir', str(tiny_data), '--results-file', str(tmp_path / 'speed.json')]
        counts = ['--calib-batches', '1', '--eval-images', '10', '--plain-archs', '2', '--tau-archs', '3']
        assert speed.main(['ranking', *arguments, '--checkpoints', folder, *counts, '--tau-images', '10']) == 0
        return json.loads((tmp_path / 'speed.json').read_text())

    return benchmark


def test_figures_of_ranking(run, capsys):
    figures = run()
    single, half, plain = (figures['nb201'][key] for key in ('float32', 'bfloat16', 'plain'))
    assert single['identical'] is True and single['compared'] == 2 and single['architectures'] == 4
    for row in (single, half):
        assert math.isclose(row['speedup'], plain['seconds_per_architecture'] * row['archs_per_second'])
        assert 50 < row['peak_memory_mb'] < 20_000
    assert -1 <= half['kendall_tau'] <= 1 or math.isnan(half['kendall_tau'])  # on ten images accuracies may all tie
    assert figures['settings']['calib_batches'] == 1 and 'torch' in figures['settings']['versions']
    assert 'nb201   float32' in (printed := capsys.readouterr().out) and 'identical logits' in printed


def test_different_logits_are_noticed(run, monkeypatch):
    """As they would be if the engine forgot a calibration image."""
    run_engine = speed.run_engine

    def forgetful(model, data, archs, dtype):
        data = speed.replace(data, calibration=data.calibration[1:])
        return run_engine(model, data, archs, dtype)

    monkeypatch.setattr(speed, 'run_engine', forgetful)
    assert run()['nb201']['float32']['identical'] is False


def test_bad_numbers(tiny_data, capsys):
    assert speed.main(['ranking', '--data-dir', str(tiny_data), '--plain-archs', '0']) == 2
    assert '--plain-archs is 0, expected at least 1' in capsys.readouterr().err


@pytest.mark.slow
def test_figures_of_training(tiny_data, tmp_path, monkeypatch):
    monkeypatch.setattr('tools.speed_training._MODELS', ('nb201_cond_supernet',))
    file = tmp_path / 'training.json'
    counts = ['--steps', '2', '--batch-size', '16']
    assert speed.main(['training', '--data-dir', str(tiny_data), '--results-file', str(file), *counts]) == 0
    figures = json.loads(file.read_text())['nb201']
    assert {'supernet_over_standalone', 'split_over_unsplit', 'memory_split_over_unsplit', 'loader_share',
            'images_per_second', 'speedup_over_plain'} <= figures.keys()  # fmt: skip
    profile = figures.pop('profile')
    assert 'aten::mkldnn_convolution' in profile and 0.3 < sum(profile.values()) <= 1
    assert all(value > 0 for value in figures.values())
    added = (4_567_642 - 782_938) * 4 * 2 / 1e6  # the paper's sizes; fp32 weights and momentum
    assert math.isclose(figures['added_weights_and_momentum_mb'], added)
    growth = figures['memory_mb'] * (figures['memory_split_over_unsplit'] - 1)
    assert added / 2 < growth < 1.01 * added  # two steps give not all weights momentum
