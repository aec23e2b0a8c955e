"""The committed results and the README's table say the same, and agree with the tables they are judged by."""

import json
from pathlib import Path

import pytest
import timm
import torch
from huggingface_hub import ModelCard

from condnet.checkpoints.loading import load_model, sha256
from condnet.data import load_images
from condnet.hub.card import ranking_table
from condnet.models.pretrained import find_tag, read_config
from condnet.ranking.evaluate import accuracy_and_loss, evaluation_data
from condnet.ranking.results import describe_training
from tools.readme_table import TABLE_END, TABLE_START, format_table
from tools.summarize import stored_ranking

ROOT = Path(__file__).parent.parent
SUMMARIES = sorted((ROOT / 'results').glob('*.json'))
CHECKPOINTS = sorted(path.parent for path in (ROOT / 'checkpoints').glob('*/config.json'))


def test_table_in_the_readme_is_generated_from_the_results(monkeypatch):
    monkeypatch.chdir(ROOT)
    text = (ROOT / 'README.md').read_text()
    table = text.split(TABLE_START)[1].split(TABLE_END)[0].strip()
    assert table == format_table('results')


@pytest.mark.parametrize('path', SUMMARIES, ids=lambda path: path.stem)
def test_metrics_follow_from_predictions_and_truth(path, data_dir):
    summary = json.loads(path.read_text())
    recomputed = stored_ranking(path, data_dir / 'benchmarks').metrics()
    assert recomputed.keys() >= {'accuracy', 'loss', 'flops', 'params', 'loss+flops', 'truth_max'}
    for key, value in json.loads(json.dumps(recomputed)).items():  # another processor may add up in another order
        assert summary[key] == pytest.approx(value, rel=1e-9)


@pytest.mark.parametrize(
    ('trained', 'more', 'text'),
    [
        (4, {}, '4 epochs, unsplit, seed 0'),
        (3, {}, '4 epochs, stopped at 3, unsplit, seed 0'),
        (6, {'cooldown_epochs': 2}, '4 epochs, unsplit, seed 0, cooldown_epochs 2'),
    ],
)
def test_a_training_that_has_cooled_down_was_not_stopped(trained, more, text):
    assert describe_training({'epochs': 4, 'trained_epochs': trained, 'split_epoch': None, 'seed': 0, **more}) == text


def test_card_has_the_figures_of_its_ranking():
    for path in SUMMARIES:
        summary = json.loads(path.read_text())
        if (folder := ROOT / 'checkpoints' / summary['checkpoint']).is_dir():
            card = ModelCard.load(folder / 'README.md')
            assert ranking_table(summary) in card.text
            figures = {(r.dataset_type, r.metric_name): r.metric_value for r in card.data.eval_results}
            assert (
                figures[summary['space'], 'kendall_tau, ranked by loss+flops'] == summary['loss+flops']['kendall_tau']
            )


@pytest.mark.parametrize('path', SUMMARIES, ids=lambda path: path.stem)
def test_checkpoint_behind_a_result_is_the_committed_one(path):
    summary = json.loads(path.read_text())
    folder = ROOT / 'checkpoints' / summary['checkpoint']
    checkpoint = folder if folder.is_dir() else summary['checkpoint']  # the name of a packaged one
    assert sha256(checkpoint) == summary['checkpoint_sha256']
    assert load_model(checkpoint).is_split == summary['split']


@pytest.mark.parametrize('folder', CHECKPOINTS, ids=lambda folder: folder.name)
def test_checkpoint_is_what_its_name_promises(folder):
    """Once it is on the Hub, any other file would be refused."""
    assert sha256(folder) == read_config(folder)['weights_sha256'] == find_tag(folder.name).sha256


@pytest.fixture(scope='module')
def test_images(data_dir):
    return load_images(data_dir, train=False)


@pytest.mark.slow
@pytest.mark.parametrize(('name', 'num', 'tolerance'), [
    # Of so few images they have standard deviations of 0.8 and 1.2; images normalised to -1..1 cost 11 and 13. That the
    # weights are those of the card is held by their hash.
    ('nb201_cond_supernet.cond1_cifar10', 2000, 2.5),
    ('macro_cond_supernet.cond_cifar10', 1000, 4),
])  # fmt: skip
def test_model_classifies_as_its_card_says(name, num, tolerance, test_images):
    """One of each space, the slower one on a part of the images."""
    folder = ROOT / 'checkpoints' / name
    model = timm.create_model(folder.name, pretrained=True).eval().to(memory_format=torch.channels_last)
    images = test_images.select(torch.randperm(10_000, generator=torch.Generator().manual_seed(0))[:num])
    data = evaluation_data(images.select([0]), images, model.pretrained_cfg, channels_last=True)
    figure = ModelCard.load(folder / 'README.md').data.eval_results[0]
    assert figure.metric_type == 'accuracy'
    assert accuracy_and_loss(model, data)[0] == pytest.approx(figure.metric_value, abs=tolerance)
