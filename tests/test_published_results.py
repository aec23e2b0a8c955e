"""The committed results and the README's table say the same, and agree with the tables they are judged by."""

import json
from pathlib import Path

import pytest

from condnet import get_space
from condnet.benchmarks import load_benchmark
from condnet.checkpoint import load_model, sha256
from condnet.results import TABLE_END, TABLE_START, format_table, read_predictions, summarize_predictions

ROOT = Path(__file__).parent.parent
SUMMARIES = sorted((ROOT / 'results').glob('*.json'))


def test_table_in_the_readme_is_generated_from_the_results(monkeypatch):
    monkeypatch.chdir(ROOT)
    text = (ROOT / 'README.md').read_text()
    table = text.split(TABLE_START)[1].split(TABLE_END)[0].strip()
    assert table == format_table('results')


@pytest.mark.parametrize('path', SUMMARIES, ids=lambda path: path.stem)
def test_metrics_follow_from_predictions_and_truth(path, data_dir):
    summary = json.loads(path.read_text())
    name, subset = summary['space'].split('/')
    predictions = read_predictions(path.with_suffix('.csv'))
    assert all(prediction.index in get_space(name, subset) for prediction in predictions)
    table = load_benchmark(name, str(data_dir / 'benchmarks'))
    recomputed = json.loads(json.dumps(summarize_predictions(predictions, table)))
    assert {key: summary[key] for key in recomputed} == recomputed


@pytest.mark.parametrize('path', SUMMARIES, ids=lambda path: path.stem)
def test_checkpoint_behind_a_result_is_the_committed_one(path):
    summary = json.loads(path.read_text())
    folder = ROOT / 'checkpoints' / summary['checkpoint']
    assert sha256(folder) == summary['checkpoint_sha256']
    assert load_model(folder).is_split == summary['split']
