"""The commands on the real CIFAR-10 and the published table, where they are there."""

import json

import pytest

from condnet.cli.validate import main
from condnet.ranking.results import read_predictions

pytestmark = pytest.mark.slow


def test_ranking_of_a_published_checkpoint(data_dir, cifar10, tmp_path, monkeypatch):
    monkeypatch.setattr('condnet.data.sources.load_images', lambda *_, **__: cifar10)  # read once for all tests
    archs, csv = ['index:0', 'index:3280', 'index:6560'], tmp_path / 'ranking.csv'
    arguments = ['--checkpoint', 'macro_cond_supernet.cond_cifar10', '--data-dir', str(data_dir), '--archs', *archs]
    few = ['--calib-batches', '1', '--eval-images', '200', '--results-file', str(csv)]
    assert main([*arguments, '--benchmark', str(data_dir / 'benchmarks'), *few]) == 0
    summary = json.loads(csv.with_suffix('.json').read_text())
    assert summary['dataset'] == 'cifar10' and summary['table'] is not None
    small, middle, large = (prediction.accuracy for prediction in read_predictions(csv))
    assert small < min(middle, large) and middle > 60 and large > 60
    assert summary['accuracy']['kendall_tau'] > 0
