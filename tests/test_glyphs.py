"""The rendered letters, and the commands on them: no directory, no download."""

import json
import time

import pytest
import torch
from conftest import pixel_digests

from condnet.benchmarks.registry import find_benchmark
from condnet.benchmarks.tables import load_benchmark
from condnet.checkpoints.folder import save_model
from condnet.checkpoints.loading import load_model, training_of
from condnet.checkpoints.training import read_training_checkpoint
from condnet.cli.search import main as search_main
from condnet.cli.train import main as train_main
from condnet.cli.train import parse_args
from condnet.cli.validate import main as validate_main
from condnet.data import dataset_name, glyphs, withheld_indices
from condnet.data.glyphs import draw_letters, render_glyphs
from condnet.ranking.costs import NetworkCosts
from condnet.spaces.registry import get_space
from condnet.training.data import create_data, open_data
from condnet.utils.distributed import Group

FOUR_EPOCHS = [
    '--dataset', 'glyphs', '--model-kwargs', 'cells_per_stage=1', 'channels=(4,4,4)', '--epochs', '4',
    '--eval-interval', '0', '--batch-size', '1024',
]  # fmt: skip


def num_params(net):
    return sum(weight.numel() for weight in net.parameters())


@pytest.fixture
def rendered_again(monkeypatch):
    """The letters are not those that this process has rendered before."""
    draw = glyphs.draw_letters
    monkeypatch.setattr(glyphs, 'draw_letters', lambda: draw())


def test_what_is_done_to_images_is_not_done_to_those_of_others(images):
    before = images.sha256()
    render_glyphs().images.zero_()
    assert render_glyphs().sha256() == before


@pytest.fixture(scope='module')
def images():
    return render_glyphs()


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    output = tmp_path_factory.mktemp('trained')
    assert train_main([*FOUR_EPOCHS, '--stop-epoch', '1', '--output', str(output)]) == 0
    return output / 'last.pth.tar'


def test_the_same_images_every_time(images, rendered_again):
    torch.manual_seed(1)
    state, started = torch.get_rng_state(), time.process_time()
    assert render_glyphs().sha256() == images.sha256()
    assert time.process_time() - started < 10  # about a second, on a quiet machine less
    assert torch.equal(torch.get_rng_state(), state)


def test_sizes_and_classes(images):
    test = render_glyphs(train=False)
    assert images.images.shape == (6760, 1, 16, 16) and test.images.shape == (5200, 1, 16, 16)
    for part, num in ((images, 260), (test, 200)):
        assert ''.join(part.classes) == 'ABCDEFGHIJKLMNOPQRSTUVWXYZ' and part.images.dtype == torch.uint8
        assert torch.equal(part.targets, torch.arange(26).repeat_interleave(num))
    assert len(withheld_indices(images.targets)[0]) >= 2048
    assert dataset_name(images) == 'glyphs'
    assert dataset_name(images.select(torch.arange(100))) == 'glyphs'


def test_no_image_is_there_twice(images):
    digests = pixel_digests(images) + pixel_digests(render_glyphs(train=False))
    assert len(set(digests)) == len(digests)


def test_statistics_are_those_of_the_training_set(images):
    pixels = images.images.float() / 255
    assert abs(float(pixels.mean()) - glyphs.MEAN[0]) < 0.01 and abs(float(pixels.std()) - glyphs.STD[0]) < 0.01


def test_letters_can_be_told_apart_but_not_easily(images):
    """By the nearest mean of a class, of which chance would get 1 / 26 right."""
    trained, withheld = (images.select(indices) for indices in withheld_indices(images.targets))
    means = torch.stack([trained.images[trained.targets == i].float().mean(dim=0).flatten() for i in range(26)])
    nearest = torch.cdist(withheld.images.float().flatten(1), means).argmin(dim=1)
    assert 0.15 < float((nearest == withheld.targets).float().mean()) < 0.6


def test_letters_are_whole():
    letters = draw_letters()
    border = torch.ones(64, 64, dtype=torch.bool)
    border[1:-1, 1:-1] = False
    assert letters.shape == (26, 1, 64, 64) and letters.unique(dim=0).shape[0] == 26
    assert float(letters.max()) == 1 and not letters[:, 0, border].any() and letters.mean(dim=(1, 2, 3)).min() > 0.03


def test_pillow_without_freetype(monkeypatch, rendered_again):
    monkeypatch.setattr('PIL.features.check', lambda name: False)
    with pytest.raises(ValueError, match='no FreeType'):
        render_glyphs()


def data_of(*flags):
    config, device, group = parse_args(list(flags)), torch.device('cpu'), Group()
    images, settled = open_data(config, device, group)
    return create_data(config, settled, images, {'mean': glyphs.MEAN, 'std': glyphs.STD}, device, group)


def test_letters_are_neither_mirrored_nor_moved_far():
    batches, _ = data_of(*FOUR_EPOCHS)
    assert (batches.hflip, batches.padding) == (0, 1)


def test_model_knows_its_images(checkpoint, tmp_path):
    save_model(load_model(checkpoint), tmp_path / 'folder', training_of(checkpoint))
    for path in (checkpoint, tmp_path / 'folder'):
        model, config = load_model(path), load_model(path).pretrained_cfg
        assert (model.in_chans, model.num_classes, training_of(path)['data_name']) == (1, 26, 'glyphs')
        sizes = tuple(config['input_size']), tuple(config['mean']), tuple(config['std'])
        assert sizes == ((1, 16, 16), glyphs.MEAN, glyphs.STD)
        model.set_active_subnet(0)
        assert tuple(model.get_active_subnet().pretrained_cfg['mean']) == glyphs.MEAN


def test_resumed_with_another_pillow(checkpoint, tmp_path, monkeypatch, rendered_again):
    before = glyphs.draw_letters()
    monkeypatch.setattr('condnet.data.glyphs.draw_letters', lambda: 0.98 * before)
    call = [*FOUR_EPOCHS, '--stop-epoch', '2', '--resume', str(checkpoint), '--output', str(tmp_path)]
    assert train_main(call) == 0
    assert read_training_checkpoint(tmp_path / 'last.pth.tar')['epoch'] == 1


def rank(checkpoint, output, *more):
    return validate_main([
        '--checkpoint', str(checkpoint), '--dataset', 'glyphs', '--calib-batches', '1', '--eval-images', '26',
        '--results-file', str(output / 'ranking.csv'), *more,
    ])  # fmt: skip


def test_ranking_needs_no_directory(checkpoint, tmp_path, capsys):
    assert rank(checkpoint, tmp_path, '--num-archs', '12') == 0
    assert 'KT all' in capsys.readouterr().out
    assert (tmp_path / 'ranking.png').read_bytes().startswith(b'\x89PNG')
    summary = json.loads((tmp_path / 'ranking.json').read_text())
    assert (summary['num_archs'], summary['dataset'], summary['eval_images']) == (12, 'glyphs', 26)
    assert summary['table']['file'] == 'nb201_glyphs.csv'
    indices = [int(line.split(',')[0]) for line in (tmp_path / 'ranking.csv').read_text().splitlines()[1:]]
    table = load_benchmark('nb201', dataset='glyphs').select(indices)  # they are all in it
    assert summary['truth_max'] == table.accuracy.max()


def test_what_has_no_truth_is_not_compared(checkpoint, tmp_path, capsys):
    """Unless a table is named that should have it, or random ones are to be of the table."""
    known = load_benchmark('nb201', dataset='glyphs').indices.tolist()
    unknown = next(index for index in range(15_625) if index not in known)
    named = find_benchmark('nb201', 'glyphs').packaged
    assert rank(checkpoint, tmp_path, '--archs', str(known[0]), str(unknown), '--benchmark', str(named)) == 2
    assert 'lacks 1 of 2 architectures' in capsys.readouterr().err
    assert rank(checkpoint, tmp_path, '--num-archs', str(len(known) + 1)) == 2
    assert f'expected 1..{len(known)}' in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    assert rank(checkpoint, tmp_path, '--archs', str(known[0]), str(unknown)) == 0
    assert 'no ground truth' in capsys.readouterr().out
    summary = json.loads((tmp_path / 'ranking.json').read_text())
    assert summary['table'] is None and 'accuracy' not in summary and summary['num_archs'] == 2


def test_by_default_all_that_have_a_truth(checkpoint, tmp_path, monkeypatch):
    ranked = []
    monkeypatch.setattr('condnet.ranking.run.rank_architectures', lambda model, archs, *_: ranked.extend(archs) or [])
    monkeypatch.setattr('condnet.ranking.ranking.Ranking.write', lambda *_: None)
    monkeypatch.setattr('condnet.ranking.ranking.Ranking.__str__', lambda _: '')
    assert rank(checkpoint, tmp_path) == 0
    table = load_benchmark('nb201', dataset='glyphs')
    assert [get_space('nb201').index(arch) for arch in ranked] == table.indices.tolist()


def test_other_weights_and_missing_directory(checkpoint, tmp_path, capsys):
    assert train_main(['--output', str(tmp_path / 'out')]) == 2
    assert '--data-dir is missing' in capsys.readouterr().err


def test_check_after_an_epoch_takes_equally_many_letters_by_default():
    _, data = data_of('--dataset', 'glyphs')
    assert data.targets.bincount().tolist() == [26] * 26


@pytest.mark.parametrize('dataset', [('--dataset', 'glyphs'), ()])  # the checkpoint says what it was trained on
def test_search_knows_the_small_networks(checkpoint, tmp_path, dataset):
    costs, space = NetworkCosts.of(load_model(checkpoint), (1, 16, 16)), get_space('nb201')
    limit = costs((1,) * 6).flops  # its skip connections carry a convolution
    assert limit < space.cost((0,) * 6, 'glyphs').flops  # its channels are not the benchmark's
    call = [
        str(checkpoint), *dataset, '--calib-batches', '1', '--eval-images', '26', '--num-evals', '4',
        '--max-flops', str(limit), '--sampler', 'random', '--output', str(tmp_path),
    ]  # fmt: skip
    assert search_main(call) == 0
    winner = json.loads((tmp_path / 'search.json').read_text())['winner']
    assert winner['flops'] == costs(space.parse(winner['arch'])).flops <= limit


def test_latency_is_that_of_the_small_networks(checkpoint, tmp_path, monkeypatch, capsys):
    sizes = []

    def measure(self, net, image):
        sizes.append((num_params(net), tuple(image.shape)))
        return 0.001

    monkeypatch.setattr('condnet.searching.latency.MeasuredLatency.time_once', measure)
    call = [str(checkpoint), '--calib-batches', '1', '--eval-images', '26', '--num-evals', '1', '--sampler', 'random']
    assert search_main([*call, '--objectives', 'loss,latency', '--output', str(tmp_path)]) == 0
    index = json.loads((tmp_path / 'search.json').read_text())['winner']['index']
    assert search_main([*call, '--objectives', 'loss,latency', '--latency-table', 'hw.csv']) == 2
    assert 'is of the networks for CIFAR-10, those for glyphs are others' in capsys.readouterr().err
    assert sizes[0] == (num_params(load_model(checkpoint).new_subnet(index)), (1, 1, 16, 16))


def test_training_from_pretrained_weights_makes_a_model_with_nobodys_statistics(tmp_path):
    more = ['--dataset', 'glyphs', '--model-kwargs', 'pretrained=True', '--epochs', '1', '--batch-size', '2048']
    more += ['--eval-interval', '0', '--output', str(tmp_path / 'out')]
    assert train_main(['--model', 'nb201_cond_supernet.spos_glyphs', *more]) == 0
    model = load_model(tmp_path / 'out' / 'last.pth.tar')
    assert model.active_subnet is model.calibrated_subnet is None
    save_model(model, tmp_path / 'folder')
    assert load_model(tmp_path / 'folder').active_subnet is None


def test_packaged_table_is_refused_where_it_does_not_belong():
    path = find_benchmark('nb201', 'glyphs').packaged
    with pytest.raises(ValueError, match='lacks cifar10_test_acc'):
        load_benchmark('nb201', path)
    with pytest.raises(ValueError, match="no macro table of the data set 'glyphs'"):
        load_benchmark('macro', dataset='glyphs')


def test_packaged_table_is_found_in_a_directory_by_its_name(tmp_path):
    with pytest.raises(ValueError, match=f'no nb201_glyphs.csv in {tmp_path}, nor in its benchmarks folder'):
        load_benchmark('nb201', tmp_path, dataset='glyphs')
    copy = tmp_path / 'benchmarks' / 'nb201_glyphs.csv'
    copy.parent.mkdir()
    copy.write_bytes(find_benchmark('nb201', 'glyphs').packaged.read_bytes())
    assert load_benchmark('nb201', tmp_path, dataset='glyphs').path == str(copy)
