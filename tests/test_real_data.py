"""The real CIFAR-10 and the published table, where they are there: all tests that need its training images."""

import json

import pytest
import torch
from conftest import pixel_digests
from test_data import are_crops_of
from test_fingerprint import reencode, swapped
from test_published_results import CHECKPOINTS

import condnet.data.fingerprint as module
from condnet.cli.validate import main
from condnet.data import Images, match_images, withheld_indices
from condnet.models.pretrained import read_config
from condnet.ranking.evaluate import choose_images
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


def test_cifar10(cifar10):
    assert cifar10.classes == (
        *('airplane', 'automobile', 'bird', 'cat', 'deer'),
        *('dog', 'frog', 'horse', 'ship', 'truck'),
    )
    assert cifar10.images.shape == (50_000, 3, 32, 32)
    assert cifar10.targets.equal(torch.arange(10).repeat_interleave(5000))


def test_withheld_of_cifar10(cifar10):
    trained, withheld = withheld_indices(cifar10.targets)
    positions = [5000 * target + position for target in range(10) for position in range(4500, 5000)]
    assert withheld.tolist() == positions
    assert sorted(trained.tolist() + withheld.tolist()) == list(range(50_000))
    seen = set(pixel_digests(cifar10.select(trained)))
    assert len(seen) == 45_000
    assert seen.isdisjoint(pixel_digests(cifar10.select(withheld)))


def test_calibration_of_cifar10(cifar10):
    calibration, validation = choose_images(cifar10, augmented=False)
    trained, withheld = withheld_indices(cifar10.targets)
    assert len(set(pixel_digests(calibration))) == 5120
    assert set(pixel_digests(calibration)) <= set(pixel_digests(cifar10.select(trained)))
    assert pixel_digests(validation) == pixel_digests(cifar10.select(withheld))
    crops, not_cropped = choose_images(cifar10)
    assert pixel_digests(not_cropped) == pixel_digests(validation) and crops.targets.equal(calibration.targets)
    assert pixel_digests(crops) == pixel_digests(choose_images(cifar10)[0])
    are_crops_of(crops.images[:2000], calibration.images[:2000], padding=4, hflip=True)


def test_packaged_fingerprint_is_of_cifar10(cifar10):
    (sha256,) = module.PACKAGED
    assert match_images(cifar10, {'data_sha256': sha256}, None, 'CHECKPOINT', 'DATA')[1]['how']
    images = Images(cifar10.images // 2 * 2, cifar10.targets, cifar10.classes)
    how = match_images(images, {'data_sha256': sha256}, None, 'CHECKPOINT', 'DATA')[1]
    assert how['how'] == 'same images, re-encoded' and how['largest_distance'] < 2 and how['tolerance'] == 3
    with pytest.raises(ValueError, match='of 5000 withheld ones 1 differ, first cat 4999'):
        match_images(swapped(images, 19999, 15000), {'data_sha256': sha256}, None, 'CHECKPOINT', 'DATA')


def test_no_encoding_is_as_far_away_as_another_image(cifar10):
    withheld = cifar10.select(withheld_indices(cifar10.targets)[1])
    rows, others = module.pooled_rows(withheld), module.pooled_rows(cifar10)
    for encoding in ('jpeg60', 'noise'):
        distances = module.rms(module.pooled_rows(reencode(withheld, encoding)) - rows)
        assert len(distances) == 5000 and 0 < distances.max() < 2.5 < module.TOLERANCE
    closer = 0
    for target in range(10):
        pairs = torch.cdist(rows[withheld.targets == target], others[cifar10.targets == target]) / rows.shape[1] ** 0.5
        closer += int((pairs < module.TOLERANCE).sum()) - 500  # each withheld one is among the others as well
    assert closer <= 5


def test_checkpoints_were_trained_on_the_images_that_withheld_ones_are_tested_on(cifar10):
    """`test_withheld_of_cifar10` shows by content that no withheld image is among the training images of this set."""
    trainings = [read_config(folder)['training'] for folder in CHECKPOINTS]
    assert trainings and len({training['data_sha256'] for training in trainings}) == 1
    assert match_images(cifar10, trainings[0], None, CHECKPOINTS[0].name, '')[1] is not None
