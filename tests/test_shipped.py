"""What comes with the package: the pretrained super-networks of the letters do what their cards say."""

import json
from pathlib import Path

import pytest
import timm
import torch
from huggingface_hub import ModelCard

import condnet
from condnet.benchmarks.registry import find_benchmark
from condnet.cli.validate import main
from condnet.data.glyphs import render_glyphs
from condnet.models.pretrained import PACKAGE, file_sha256, find_pretrained, find_tag, read_config
from condnet.ranking.evaluate import accuracy_and_loss, evaluation_data
from condnet.ranking.results import read_predictions
from condnet.utils.device import hardware_name

RESULTS = Path(__file__).parents[1] / 'results'
NAMES = ('nb201_cond_supernet.cond_glyphs', 'nb201_cond_supernet.spos_glyphs')


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


def card_of(name):
    """Figures of a card by kind and name, and its text."""
    card = ModelCard.load(find_pretrained(name) / 'README.md')
    return {(r.metric_type, r.metric_name): r.metric_value for r in card.data.eval_results}, card.text


def test_they_are_small_and_listed():
    folders = [find_pretrained(name) for name in NAMES]
    assert {folder.parent for folder in folders} == {PACKAGE / 'models' / 'weights'}
    assert sum(file.stat().st_size for folder in folders for file in folder.iterdir()) < 1_500_000
    assert set(NAMES) <= set(condnet.list_pretrained())


def test_loaded_model_classifies_as_its_card_says(name):
    figures, text = card_of(name)
    model = timm.create_model(name, pretrained=True).eval().to(memory_format=torch.channels_last)
    images, config = render_glyphs(train=False), model.pretrained_cfg
    data = evaluation_data(images.select(torch.zeros(1, dtype=torch.int64)), images, config, channels_last=True)
    accuracy = accuracy_and_loss(model, data)[0]
    # The same machine and versions give the same number; with others, a few of the 5,200 images may tip over.
    computed = text[text.index('Computed from the saved file') :]
    is_same = hardware_name(torch.device('cpu')) in computed and f'torch {torch.__version__}' in computed
    assert accuracy == pytest.approx(figures['accuracy', 'Accuracy'], abs=1e-9 if is_same else 0.1)
    assert accuracy > 80


@pytest.mark.slow
def test_ranking_is_that_of_the_card(tmp_path, capsys, monkeypatch):
    """Of every eighth architecture of the table again, without a flag for data, from an empty directory.

    The figures of the card are those of the committed ranking of all.
    """
    name = NAMES[0]
    monkeypatch.chdir(tmp_path)
    committed = read_predictions(RESULTS / 'nb201_cond_glyphs.csv')
    archs = [f'index:{prediction.index}' for prediction in committed[::8]]
    assert main(['--checkpoint', name, '--calib-batches', '8', '--archs', *archs]) == 0
    assert 'ranked by' in capsys.readouterr().out
    for new, old in zip(read_predictions(Path('output/ranking.csv')), committed[::8], strict=True):
        assert new.index == old.index and new.loss == pytest.approx(old.loss, rel=1e-3)
        assert new.accuracy == pytest.approx(old.accuracy, abs=0.5)  # of 676 images a few may tip over
    summary = json.loads((RESULTS / 'nb201_cond_glyphs.json').read_text())
    figures, _ = card_of(name)
    assert summary['num_archs'] == len(find_benchmark('nb201', 'glyphs').packaged.read_text().splitlines()) - 1
    for by in ('accuracy', 'loss', 'flops'):
        expected = figures['kendall_tau', f'kendall_tau, ranked by {by}']
        assert summary[by]['kendall_tau'] == pytest.approx(expected, abs=0.001)
    assert (tmp_path / 'output' / 'ranking.png').is_file()


def test_both_are_of_one_trunk(name):
    config = read_config(find_pretrained(name))
    training = config['training']
    assert (training['data_name'], training['epochs'], training['seed']) == ('glyphs', 200, 0)
    assert training['split_epoch'] == (120 if name == NAMES[0] else None)
    assert config['weights_sha256'] == file_sha256(find_pretrained(name) / 'model.safetensors') == find_tag(name).sha256
