"""Validation of stand-alone networks, by `condnet.validate` and by the command."""

import pytest
import timm
import torch
import torch.nn.functional as F

import condnet
from condnet.checkpoints.loading import preprocessing
from condnet.checkpoints.training import LAST, read_training_checkpoint
from condnet.cli.train import main as train
from condnet.cli.validate import main
from condnet.data import load_images, withheld_indices
from condnet.data.glyphs import render_glyphs
from tools.kill_training import noise_images

RESNET = ('--model', 'resnet18', '--model-kwargs', 'layers=(1,1,1,1)')


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """A network, trained on few images: of 10 classes, each with 3 to train on and one that is withheld."""
    folder = tmp_path_factory.mktemp('trained')
    data = noise_images(folder, per_class=4)
    flags = (*RESNET, '--epochs', '1', '--batch-size', '14', '--eval-interval', '1')
    assert train(['--data-dir', str(data), *flags, '--output', str(folder / 'out')]) == 0
    return data, folder / 'out' / LAST


def test_it_is_what_the_training_has_validated(trained, capsys):
    data, checkpoint = trained
    row = read_training_checkpoint(checkpoint)['progress']['summary'][-1]
    assert main(['--checkpoint', str(checkpoint), '--data-dir', str(data)]) == 0
    assert capsys.readouterr().out == (
        f'accuracy {row["eval_accuracy"]:.2f}%, loss {row["eval_loss"]:.4f} on 10 images that it was not trained on\n'
    )


def test_folder_of_a_network_is_validated_on_the_withheld_images(tmp_path):
    torch.manual_seed(0)
    model = timm.create_model('nb201_net', arch=1462, channels=(2, 2, 2), cells_per_stage=1, in_chans=1, num_classes=26,
                              pretrained_cfg_overlay=preprocessing('glyphs', (1, 16, 16))).eval()  # fmt: skip
    condnet.save_model(model, tmp_path / 'network')
    letters = render_glyphs(train=True)
    withheld = letters.select(withheld_indices(letters.targets)[1])
    cfg = model.pretrained_cfg
    pixels = (withheld.images.float() / 255 - cfg['mean'][0]) / cfg['std'][0]
    with torch.no_grad():
        logits = model(pixels)
    for network in (tmp_path / 'network', model):
        found = condnet.validate(network, data=letters)
        assert found.num_images == len(withheld) and found.dataset == 'glyphs'
        assert found.loss == pytest.approx(F.cross_entropy(logits, withheld.targets).item(), rel=1e-5)
        assert found.accuracy == pytest.approx(100 * (logits.argmax(1) == withheld.targets).float().mean().item())
    assert condnet.validate(model, data=letters, eval_images=52).num_images == 52


def test_no_images_to_calibrate_on_are_needed(trained, tmp_path, capsys):
    """A folder with fewer training images than the first calibration batch."""
    data, checkpoint = trained
    images = load_images(data)
    for split, indices in zip(('train', 'validation'), withheld_indices(images.targets), strict=True):
        for number, index in enumerate(indices.tolist()):
            path = tmp_path / 'data' / split / str(int(images.targets[index])) / f'{number}.png'
            path.parent.mkdir(parents=True, exist_ok=True)
            save_png(images.images[index], path)
    where = ['--dataset', 'folder', '--data-dir', str(tmp_path / 'data')]
    flags = [*where, *RESNET, '--epochs', '1', '--batch-size', '14', '--eval-interval', '1', '--workers', '0']
    assert train([*flags, '--output', str(tmp_path / 'out')]) == 0
    capsys.readouterr()
    assert main(['--checkpoint', str(tmp_path / 'out' / LAST), *where]) == 0
    assert ' on 10 images of folder ' in capsys.readouterr().out


def save_png(image, path):
    from PIL import Image

    Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)


@pytest.mark.parametrize(
    ('flags', 'message'),
    [
        (('--num-archs', '5'), '--num-archs is for super-networks: a stand-alone network is validated as it is'),
        (('--calib-batches', '3'), '--calib-batches is for super-networks'),
        (('--report',), '--report is for super-networks'),
        (('--results-file', 'x.csv'), '--results-file is for rankings, and a stand-alone network has none'),
        (('--model', 'resnet34'), "holds the model 'resnet18', not 'resnet34'"),
        (('--use-ema',), 'has no averaged weights'),
    ],
)
def test_what_is_of_rankings_is_refused(trained, capsys, flags, message):
    data, checkpoint = trained
    assert main(['--checkpoint', str(checkpoint), '--data-dir', str(data), *flags]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert message in error


def test_super_network_is_refused():
    with pytest.raises(condnet.CondnetError, match='is a super-network, which has one accuracy for each architecture'):
        condnet.validate('nb201_cond_supernet.cond_glyphs')
