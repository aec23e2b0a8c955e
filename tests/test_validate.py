"""The ranking command on a small data set and made-up tables, and what it refuses."""

import json
import pickle
import re
import shutil

import numpy as np
import pytest
import timm
import torch
from conftest import train_args, write_table
from small import CONVS

from condnet import get_space
from condnet.benchmarks.tables import load_benchmark
from condnet.checkpoints.folder import save_model
from condnet.checkpoints.loading import load_model, sha256, training_of
from condnet.cli.convert import main as checkpoint_main
from condnet.cli.train import main as train_main
from condnet.cli.validate import main
from condnet.data import load_images
from condnet.ranking.evaluate import Prediction, choose_images, evaluate_subnet, evaluation_data
from condnet.ranking.results import read_predictions, summarize_predictions, write_predictions
from condnet.ranking.run import open_evaluation_images
from tools.readme_table import TABLE_END, TABLE_START
from tools.readme_table import main as results_main

SPACE = get_space('nb201')
ARCHS = sorted(map(SPACE.index, get_space('nb201', 'only_conv')))[:6]


@pytest.fixture(autouse=True)
def no_plot(monkeypatch):
    """Draws nothing, which takes as long as all the rest."""
    monkeypatch.setattr('condnet.ranking.ranking.Ranking.plot', lambda ranking: None)
    monkeypatch.setattr('condnet.ranking.ranking.to_png', lambda figure: b'plot')


@pytest.fixture(scope='module')
def checkpoint(tiny_data, tmp_path_factory):
    """A checkpoint of the training command, split."""
    output = tmp_path_factory.mktemp('trained')
    assert train_main(train_args(tiny_data, output, *CONVS)) == 0
    return output / 'last.pth.tar'


@pytest.fixture(scope='module')
def table(tmp_path_factory):
    return write_table(tmp_path_factory.mktemp('table') / 'nas-bench-201.csv', ARCHS)


def arguments(checkpoint, tiny_data, table, output, *more):
    return [
        '--checkpoint', str(checkpoint), '--data-dir', str(tiny_data), '--benchmark', str(table), '--results-file',
        str(output / 'ranking.csv'), '--calib-batches', '1', '--archs', *map(str, ARCHS), *more,
    ]  # fmt: skip


def test_results_are_reproducible_in_any_order(checkpoint, tiny_data, table, tmp_path, capsys, monkeypatch):
    monkeypatch.undo()  # with their plots
    few = ARCHS[:3]
    archs = [SPACE.format(index) for index in reversed(few)]
    assert main(arguments(checkpoint, tiny_data, table, tmp_path / 'a', '--archs', *map(str, few))) == 0
    assert 'KT all' in capsys.readouterr().out
    assert main([*arguments(checkpoint, tiny_data, table, tmp_path / 'b'), '--archs', *archs]) == 0
    first, second = (tmp_path / name / 'ranking.csv' for name in 'ab')
    for suffix in ('.csv', '.png'):
        assert first.with_suffix(suffix).read_bytes() == second.with_suffix(suffix).read_bytes()
    predictions = read_predictions(first)
    assert [p.index for p in predictions] == few
    assert (tmp_path / 'a' / 'ranking.png').read_bytes().startswith(b'\x89PNG')


def test_summary_says_what_made_it_and_agrees_with_the_predictions(checkpoint, tiny_data, table, tmp_path):
    assert main(arguments(checkpoint, tiny_data, table, tmp_path, '--calib-batches', '9')) == 0
    summary = json.loads((tmp_path / 'ranking.json').read_text())
    recomputed = summarize_predictions(read_predictions(tmp_path / 'ranking.csv'), load_benchmark('nb201', str(table)))
    assert {key: summary[key] for key in recomputed} == recomputed
    assert summary['split'] is True and summary['space'] == 'nb201/only_conv' and summary['num_archs'] == 6
    assert re.fullmatch(r'[0-9a-f]{64}', summary['checkpoint_sha256'])
    assert str(tiny_data) not in json.dumps(summary)
    assert set(summary['versions']) == {'condnet', 'torch', 'timm'}
    assert summary['calibration'] == {'batches': 1, 'batch_size': 256, 'augmented': True, 'momentum': None}


@pytest.mark.slow
def test_calibration_is_augmented_unless_that_is_turned_off(checkpoint, tiny_data, table, tmp_path):
    two = ('--archs', *map(str, ARCHS[:2]))
    assert main(arguments(checkpoint, tiny_data, table, tmp_path / 'a', *two)) == 0
    assert main(arguments(checkpoint, tiny_data, table, tmp_path / 'b', '--no-calib-augment', *two)) == 0
    summaries = [json.loads((tmp_path / name / 'ranking.json').read_text()) for name in 'ab']
    assert [summary['calibration']['augmented'] for summary in summaries] == [True, False]
    predictions = [read_predictions(tmp_path / name / 'ranking.csv') for name in 'ab']
    model, images = load_model(checkpoint).to(memory_format=torch.channels_last), load_images(tiny_data)
    for augmented, (first, *_) in zip((True, False), predictions, strict=True):
        chosen = choose_images(images, 1, augmented=augmented)
        data = evaluation_data(*chosen, model.pretrained_cfg, channels_last=True)
        assert evaluate_subnet(model, first.index, data) == first
    assert predictions[0][0] != predictions[1][0]


@pytest.mark.slow
def test_unfinished_ranking_of_more_architectures(checkpoint, tiny_data, table, tmp_path, monkeypatch, capsys):
    """It is continued with fewer, of which the results are then, and only of them."""

    def no_space(*_):
        raise OSError('no space')

    fewer = ['--archs', *map(str, (ARCHS[1], ARCHS[4], ARCHS[2]))]
    kept = [ARCHS[1], ARCHS[2], ARCHS[4]]
    call = arguments(checkpoint, tiny_data, table, tmp_path / 'continued')
    with monkeypatch.context() as patch:
        patch.setattr('condnet.ranking.ranking.Ranking.write', no_space)
        assert main(call) == 2 and 'error: no space' in capsys.readouterr().err
    with monkeypatch.context() as patch:
        patch.setattr('condnet.ranking.run.predict', lambda model, archs, data: iter(archs and [None]))
        assert main([*call, *fewer]) == 0
    assert main([*arguments(checkpoint, tiny_data, table, tmp_path / 'fresh'), *fewer]) == 0
    continued, fresh = ({p.name: p.read_bytes() for p in (tmp_path / n).iterdir()} for n in ('continued', 'fresh'))
    assert continued == fresh and [p.index for p in read_predictions(tmp_path / 'fresh' / 'ranking.csv')] == kept


@pytest.mark.slow
def test_predictions_of_a_folder_do_not_depend_on_the_validation_batch(checkpoint, tiny_data, table, tmp_path):
    assert checkpoint_main([str(checkpoint), str(tmp_path / 'model')]) == 0
    for size in ('7', '1000'):
        more = ['--batch-size', size, '--archs', *map(str, ARCHS[:2])]
        assert main(arguments(tmp_path / 'model', tiny_data, table, tmp_path / size, *more)) == 0
    small, large = (read_predictions(tmp_path / size / 'ranking.csv') for size in ('7', '1000'))
    assert len(small) == 2
    for a, b in zip(small, large, strict=True):
        assert a.index == b.index and abs(a.loss - b.loss) < 1e-4
    training = json.loads((tmp_path / '7' / 'ranking.json').read_text())['training']
    assert (training['trained_epochs'], training['split_epoch'], training['lr']) == (4, 2, 0.025)


def test_prediction_files_round_trip(tmp_path):
    predictions = [Prediction(3, 10.1, 0.1 + 0.2), Prediction(1, 100 / 3, 1e-17)]
    write_predictions(tmp_path / 'p.csv', predictions)
    assert read_predictions(tmp_path / 'p.csv') == predictions[::-1]
    (tmp_path / 'p.csv').write_text('index,accuracy,loss\n1,2,3\n1,2,3\n')
    with pytest.raises(ValueError, match='twice'):
        read_predictions(tmp_path / 'p.csv')
    (tmp_path / 'p.csv').write_text('a,b\n1,2\n')
    with pytest.raises(ValueError, match='no predictions'):
        read_predictions(tmp_path / 'p.csv')


def test_results_table_of_the_readme(checkpoint, tiny_data, table, tmp_path, capsys):
    assert main(arguments(checkpoint, tiny_data, table, tmp_path / 'results')) == 0
    readme = tmp_path / 'README.md'
    readme.write_text(f'before\n{TABLE_START}\nold\n{TABLE_END}\nafter\n')
    call = ['--readme', str(readme), '--results', str(tmp_path / 'results')]
    assert results_main(call) == 0 and 'updated' in capsys.readouterr().out
    assert results_main(call) == 0 and 'up to date' in capsys.readouterr().out
    text = readme.read_text()
    assert (
        text.startswith('before')
        and text.endswith('after\n')
        and 'old' not in text
        and '| 4 epochs, split at 2, seed 0 | 6 | accuracy |' in text
    )


@pytest.fixture
def refuse(checkpoint, tiny_data, table, tmp_path, capsys):
    """Run with one thing changed, expect one line, and nothing written."""

    def run(*more, **changes):
        parts = {'checkpoint': checkpoint, 'tiny_data': tiny_data, 'table': table, 'output': tmp_path / 'out'} | changes
        assert main(arguments(*parts.values(), *more)) == 2
        assert not (tmp_path / 'out').exists()
        captured = capsys.readouterr()
        error = captured.err.strip().splitlines()[-1]
        assert error.startswith('condnet-validate: error: ') and 'Traceback' not in captured.err
        return error

    return run


def test_bad_architectures_and_flags(refuse):
    assert 'unknown operation' in refuse('--archs', '|conv~0|+|none~0|none~1|+|none~0|none~1|none~2|')
    assert '0..15624' in refuse('--archs', '15625')
    assert '--calib-batches is 0' in refuse('--calib-batches', '0')
    assert 'ends in .csv' in refuse('--results-file', 'x.txt')
    assert "--num-archs is 'many'" in refuse('--num-archs', 'many')
    assert '--num-archs is 3 beside --archs' in refuse('--num-archs', '3', '--archs', '5')
    with pytest.raises(SystemExit):  # as of an empty variable of the shell; it would rank 200 random ones
        main(['--checkpoint', 'x', '--archs'])
    assert '--calib-momentum is 7.0' in refuse('--calib-momentum', '7')
    assert '--device nowhere is not available' in refuse('--device', 'nowhere')
    assert 'no averaged weights' in refuse('--use-ema')


def test_bad_checkpoints(refuse, checkpoint, tmp_path):
    assert 'no checkpoint file' in refuse(checkpoint=tmp_path / 'missing.pth.tar')
    (tmp_path / 'cut.pth.tar').write_bytes(checkpoint.read_bytes()[:5000])
    assert 'damaged' in refuse(checkpoint=tmp_path / 'cut.pth.tar')
    save_model(timm.create_model('nb201_net'), tmp_path / 'net')
    assert 'a stand-alone network has none' in refuse(checkpoint=tmp_path / 'net')
    assert "not 'macro_cond_supernet'" in refuse('--model', 'macro_cond_supernet')
    save_model(load_model(checkpoint), tmp_path / 'folder')
    weights = (tmp_path / 'folder' / 'model.safetensors').read_bytes()
    (tmp_path / 'folder' / 'model.safetensors').write_bytes(weights[: len(weights) // 2])
    assert 'model.safetensors is damaged' in refuse(checkpoint=tmp_path / 'folder')
    (tmp_path / 'folder' / 'model.safetensors').unlink()
    assert 'lacks model.safetensors' in refuse(checkpoint=tmp_path / 'folder')


def test_checkpoint_folder_of_another_space(refuse, checkpoint, tmp_path):
    save_model(timm.create_model('nb201_cond_supernet', space='only_conv'), tmp_path / 'convs')
    assert 'not in the subset' in refuse('--archs', '0', checkpoint=tmp_path / 'convs')
    config = (tmp_path / 'convs' / 'config.json').read_text()
    (tmp_path / 'convs' / 'config.json').write_text(config.replace('only_conv', 'full'))
    assert 'does not fit' in refuse(checkpoint=tmp_path / 'convs')


def test_malicious_pickle_as_checkpoint_does_not_run(refuse, tmp_path):
    class Malicious:
        def __reduce__(self):
            return open, (str(tmp_path / 'owned'), 'w')

    torch.save(Malicious(), tmp_path / 'evil.pth.tar')
    assert 'more than tensors' in refuse(checkpoint=tmp_path / 'evil.pth.tar')
    (tmp_path / 'raw.pth.tar').write_bytes(pickle.dumps(Malicious()))
    assert 'more than tensors' in refuse(checkpoint=tmp_path / 'raw.pth.tar')
    assert not (tmp_path / 'owned').exists()


def test_bad_data(refuse, tiny_data, tmp_path):
    assert str(tmp_path / 'missing') in refuse(tiny_data=tmp_path / 'missing')
    (tmp_path / 'empty').mkdir()
    assert 'empty' in refuse(tiny_data=tmp_path / 'empty')
    from PIL import Image

    for file in shutil.copytree(tiny_data, tmp_path / 'small').rglob('*.png'):
        Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(file)
    assert 'images have 3 channels and 16x16 pixels' in refuse(tiny_data=tmp_path / 'small')


def test_data_set_without_a_benchmark(checkpoint, tiny_data, table, tmp_path, refuse):
    """Predictions without a comparison; a table of another data set is refused."""
    other = shutil.copytree(tiny_data, tmp_path / 'other')
    (other / 'train' / 'truck').rename(other / 'train' / 'wagon')
    assert "was trained on data 'cifar10', not on 'other'" in refuse(tiny_data=other)
    few = (*CONVS, '--epochs', '1', '--split-epoch', '0', '--eval-interval', '0')
    assert train_main(train_args(other, tmp_path / 'trained', *few)) == 0
    checkpoint = tmp_path / 'trained' / 'last.pth.tar'
    assert "data set 'other'; expected cifar10" in refuse(tiny_data=other, checkpoint=checkpoint)
    call = arguments(checkpoint, other, table, tmp_path / 'results')
    del call[call.index('--benchmark') : call.index('--results-file')]
    assert main(call) == 0
    summary = json.loads((tmp_path / 'results' / 'ranking.json').read_text())
    assert summary['num_archs'] == 6 and summary['dataset'] == 'other' and 'accuracy' not in summary
    assert len(read_predictions(tmp_path / 'results' / 'ranking.csv')) == 6
    shutil.copy(other / 'train' / 'frog' / '0001.png', other / 'train' / 'frog' / '0000.png')
    assert 'was trained on other images than those of' in refuse(tiny_data=other, checkpoint=checkpoint)


@pytest.mark.slow
def test_bad_tables(refuse, tmp_path):
    def table(indices=ARCHS, **changes):
        return write_table(tmp_path / 'table.csv', indices, **changes)

    assert 'no such benchmark table' in refuse(table=tmp_path / 'table.csv')
    assert f'lacks 1 of 6 architectures: index {ARCHS[-1]}' in refuse(table=table(ARCHS[:-1]))
    assert 'accuracy nan' in refuse(table=table(cifar10_test_acc='nan'))
    assert '2 times' in refuse(table=table([*ARCHS, ARCHS[0]]))
    assert 'of a cifar10 network' in refuse(table=table(params_MB='0.5'))
    cost = get_space('macro').cost(0)
    macro = {'00000000': {'mean_acc': 80.0, 'params': cost.params, 'flops': cost.flops, 'test_acc': [80.0]}}
    (tmp_path / 'table.json').write_text(json.dumps(macro))
    assert 'table.json lacks index, arch_str' in refuse(table=tmp_path / 'table.json')


def test_one_architecture_is_predicted_without_a_comparison(checkpoint, tiny_data, table, tmp_path):
    assert main([*arguments(checkpoint, tiny_data, table, tmp_path), '--archs', '(3, 3, 3, 3, 3, 3)']) == 0
    assert [p.index for p in read_predictions(tmp_path / 'ranking.csv')] == [SPACE.index((3,) * 6)]


def test_table_beside_the_data_is_found(checkpoint, tiny_data, table, tmp_path):
    data = shutil.copytree(tiny_data, tmp_path / 'data')
    (data / 'benchmarks').mkdir()
    shutil.copy(table, data / 'benchmarks' / 'nas-bench-201.csv')
    call = arguments(checkpoint, data, table, tmp_path / 'out')
    del call[call.index('--benchmark') : call.index('--results-file')]
    assert main(call) == 0
    assert json.loads((tmp_path / 'out' / 'ranking.json').read_text())['table']['file'] == 'nas-bench-201.csv'


def test_weights_are_what_was_read_first(checkpoint, tiny_data, table, tmp_path, monkeypatch):
    """A training that is running replaces its checkpoint while it is ranked."""
    replaced = shutil.copy(checkpoint, tmp_path / 'last.pth.tar')

    def load(*args):
        shutil.copy(checkpoint.with_name('previous.pth.tar'), replaced)
        return open_evaluation_images(*args)

    monkeypatch.setattr('condnet.ranking.run.open_evaluation_images', load)
    assert main(arguments(replaced, tiny_data, table, tmp_path)) == 0
    summary = json.loads((tmp_path / 'ranking.json').read_text())
    assert summary['checkpoint_sha256'] == sha256(checkpoint) != sha256(replaced)
    assert summary['training'] == training_of(checkpoint) != training_of(replaced)
