"""Model folders for the Hub: what `prepare` writes is what a freshly loaded model does."""

import json
import shutil

import pytest
import torch
from conftest import train_args, write_table
from huggingface_hub import ModelCard

from condnet.checkpoints.folder import save_model
from condnet.checkpoints.loading import load_model
from condnet.cli.convert import main as convert
from condnet.cli.hub import main
from condnet.cli.train import main as train
from condnet.cli.validate import main as validate
from condnet.data import load_images
from condnet.data.fingerprint import PACKAGED
from condnet.ranking.evaluate import accuracy_and_loss, choose_images, evaluation_data


@pytest.fixture(scope='module')
def checkpoint(tiny_data, tmp_path_factory):
    output = tmp_path_factory.mktemp('trained')
    assert train(train_args(tiny_data, output, '--model-ema', '--model-ema-decay', '0.5', '--eval-interval', '0')) == 0
    return output / 'last.pth.tar'


@pytest.fixture(scope='module')
def flags(tiny_data, tmp_path_factory):
    table = write_table(tmp_path_factory.mktemp('table') / 'table.csv', [*range(0, 15625, 250), 7, 6111])
    return ['--data-dir', str(tiny_data), '--benchmark', str(table), '--calib-batches', '1']


@pytest.fixture(scope='module')
def results(checkpoint, flags, tmp_path_factory):
    """A ranking of 10 architectures by the checkpoint."""
    path = tmp_path_factory.mktemp('results') / 'ranking.csv'
    arguments = ['--checkpoint', str(checkpoint), *flags, '--num-archs', '10', '--results-file', str(path)]
    assert validate(arguments) == 0
    return path


def test_converted_checkpoint(checkpoint, tmp_path, capsys):
    folder = tmp_path / 'folder'
    assert convert([str(checkpoint), str(folder)]) == 0
    assert capsys.readouterr().out == f'wrote {folder / "model.safetensors"}, {folder / "config.json"}\n'
    assert torch.equal(load_model(folder).head.weight, load_model(checkpoint).head.weight.half().float())


def test_loaded_model_reproduces_its_card(checkpoint, results, flags, tiny_data, tmp_path, capsys):
    folder = tmp_path / 'nb201_cond_supernet.tiny'
    assert main(['prepare', str(checkpoint), str(folder), '--results', str(results), *flags]) == 0
    files = [folder / name for name in ('model.safetensors', 'config.json', 'README.md')]
    assert capsys.readouterr().out == f'wrote {", ".join(map(str, files))}\n' and set(files) == set(folder.iterdir())
    card = ModelCard.load(folder / 'README.md')
    figures = {(r.metric_type, r.metric_name): r.metric_value for r in card.data.eval_results}
    model = load_model(folder).eval().to(memory_format=torch.channels_last)
    calibration, validation = choose_images(load_images(tiny_data), 1)
    data = evaluation_data(calibration, validation, model.pretrained_cfg, channels_last=True)
    assert figures['accuracy', 'Accuracy'] == accuracy_and_loss(model, data)[0]
    summary = json.loads(results.with_suffix('.json').read_text())
    for by in ('accuracy', 'loss', 'flops'):
        assert figures['kendall_tau', f'kendall_tau, ranked by {by}'] == summary[by]['kendall_tau']
    rows = [line.split(',') for line in results.read_text().splitlines()[1:]]
    best = max(rows, key=lambda row: (float(row[1]), -float(row[2])))
    assert model.space.index(model.active_subnet) == int(best[0])
    assert '4 epochs, split at 2, seed 0' in card.text and f'(index {best[0]})' in card.text
    assert "'hf-hub:ORGANIZATION/nb201_cond_supernet.tiny'" in card.text  # it has no tag of ours
    assert all(len(line) <= 200 for line in card.text.splitlines())


@pytest.mark.slow
def test_card_is_of_the_test_images_where_there_are_some(checkpoint, results, flags, tiny_data, tmp_path, capsys):
    """The active sub-network was chosen on the withheld ones. Damaged test images are not taken for missing ones."""
    data = shutil.copytree(tiny_data, tmp_path / 'data')
    shutil.copytree(tiny_data / 'train', data / 'test')
    arguments = ['prepare', str(checkpoint), str(tmp_path / 'folder'), '--results', str(results), *flags]
    arguments[arguments.index('--data-dir') + 1] = str(data)
    assert main(arguments) == 0
    assert '% of 300 test images.' in ModelCard.load(tmp_path / 'folder' / 'README.md').text
    (data / 'test' / 'cat' / '0000.png').write_bytes(b'no image')
    assert main(arguments) == 2
    assert 'cannot read the image' in capsys.readouterr().err
    assert not (tmp_path / 'folder' / 'README.md').exists()  # it would be another's


def test_results_of_another_checkpoint_are_refused(results, flags, tiny_data, tmp_path, capsys):
    more = ['--seed', '1', '--epochs', '2', '--split-epoch', '1', '--eval-interval', '0']
    assert train(train_args(tiny_data, tmp_path / 'other', *more)) == 0
    arguments = [str(tmp_path / 'other' / 'last.pth.tar'), str(tmp_path / 'folder'), '--results', str(results), *flags]
    assert main(['prepare', *arguments]) == 2
    error = capsys.readouterr().err
    assert 'ranks with training' in error and error.count('\n') == 1
    assert not (tmp_path / 'folder').exists()


@pytest.mark.slow
def test_card_without_a_comparison(checkpoint, flags, tmp_path):
    results, folder = tmp_path / 'one.csv', tmp_path / 'folder'
    assert validate(['--checkpoint', str(checkpoint), *flags, '--archs', '6111', '--results-file', str(results)]) == 0
    assert main(['prepare', str(checkpoint), str(folder), '--results', str(results), *flags]) == 0
    card = ModelCard.load(folder / 'README.md')
    assert 'no benchmark to compare' in card.text and [r.metric_type for r in card.data.eval_results] == ['accuracy']


@pytest.mark.slow
def test_averaged_weights_have_their_own_ranking(checkpoint, flags, tmp_path, capsys):
    checkpoint, results = str(checkpoint), str(tmp_path / 'ranking.csv')
    arguments = ['--checkpoint', checkpoint, *flags, '--use-ema', '--archs', '7', '6111', '--results-file', results]
    assert validate(arguments) == 0
    arguments = ['prepare', checkpoint, str(tmp_path / 'folder'), '--results', results, *flags]
    assert main(arguments) == 2
    assert 'ranks with ema True' in capsys.readouterr().err
    assert main([*arguments, '--use-ema']) == 0
    averaged = load_model(checkpoint, use_ema=True).head.weight.half().float()
    assert torch.equal(load_model(tmp_path / 'folder').head.weight, averaged)


@pytest.mark.parametrize(('sha256', 'is_stored'), [('0' * 64, True), (next(iter(PACKAGED)), False)])
def test_a_fingerprint_that_the_package_has_is_not_stored_again(checkpoint, tmp_path, sha256, is_stored):
    save_model(load_model(checkpoint), tmp_path / 'x', {'data_sha256': sha256}, fingerprint={'counts': [1]})
    assert ('data_fingerprint' in json.loads((tmp_path / 'x' / 'config.json').read_text())) == is_stored
