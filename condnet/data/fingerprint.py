"""Recognising: whether a data set holds the images that a model was trained on, however they are encoded.

CIFAR-10 as its authors publish it, a folder of PNG files and a JPEG copy hold the same images and differ in nearly
every pixel. What they share is coarse: the mean luma of the 4x4 parts of an image and the mean of each channel, in
steps of 2. A fingerprint of a training set has such a row for every withheld image, and for the others one for each of
up to about a thousand runs of images. Two rows differ by their root mean square distance, in grey levels of 0..255.

On the 5,000 withheld images of CIFAR-10, each of them encoded as JPEG of quality 60 to 95 or WebP, or with noise of one
level, is at most 2.1 away from itself; in the median, another image is 17 away even if it is the nearest of its class.
Of 25 million pairs with another image, three are closer than `TOLERANCE`: two prints of one photograph each.
"""

import base64
import json
import zlib
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from condnet.data.images import Images
from condnet.data.splits import withheld_indices
from condnet.errors import CondnetError

TOLERANCE = 3.0
_GRID, _STEP, _NUM_RUNS = 4, 2, 1000
_LUMA = (0.299, 0.587, 0.114)
# Of data sets whose checkpoints recorded no more than their SHA-256: what `json.dumps(fingerprint(images))` gave.
_PACKAGED = {
    '1b85ea14a6ec6155c5ab9c4d5520788d09fc7bafbe268d330795b77a02215b13': 'cifar10.json',
}


def fingerprint(images: Images) -> dict[str, Any]:
    """What a training set is recognised by, for a JSON file: images by class, rows of the withheld and of the others.

    Raises:
        CondnetError: If a class has only one image.
    """
    withheld, trained = _rows(images)
    return {'counts': _counts(images), 'withheld': _encode(withheld), 'trained': _encode(trained)}


def match_images(
    images: Images, training: dict[str, Any], recorded: Any, checkpoint: str, source: str
) -> dict[str, Any] | None:
    """Check that a training set is the one that a model was trained on, so that it has seen nothing withheld.

    Args:
        images: The training set, in canonical order.
        training: How the model was trained, see `condnet.checkpoint.training_of`.
        recorded: The `fingerprint` in its checkpoint; None if there is none.
        checkpoint: Name of the checkpoint, for errors.
        source: Name of the training set, for errors.

    Returns:
        How they match, for a results file: by identical pixels, or re-encoded, with the largest distance of a withheld
        image. None if the checkpoint records nothing of its images.

    Raises:
        CondnetError: If images are missing, others, or in another order, or the fingerprint is damaged.
    """
    sha256 = training.get('data_sha256')
    if sha256 is None and recorded is None:
        return None
    if sha256 == images.sha256():
        return {'how': 'identical pixels'}
    refused = f'{checkpoint} was trained on other images than those of {source}'
    if recorded is None and sha256 in _PACKAGED:
        recorded = json.loads((Path(__file__).parent / 'fingerprints' / _PACKAGED[sha256]).read_text())
    if recorded is None:
        raise CondnetError(f'{refused}: their SHA-256 differs, and it records nothing else to tell a copy by; it may '
                           'have seen what is withheld here')  # fmt: skip
    counts, wanted = _counts(images), recorded.get('counts') if isinstance(recorded, dict) else None
    if counts != wanted:
        raise CondnetError(f'{refused}: they are {counts} by class, expected {wanted}')
    withheld, trained = _rows(images)
    distances, tolerance = _compare(withheld, recorded, 'withheld', checkpoint)
    if num := int((distances > tolerance).sum()):
        raise CondnetError(
            f'{refused}: {num} of {len(withheld)} withheld ones differ, first {_name(images, distances > tolerance)}; '
            'expected the same ones in the same order, so it may have seen what is withheld here'
        )
    other, other_tolerance = _compare(trained, recorded, 'trained', checkpoint)
    if num := int((other > other_tolerance).sum()):
        raise CondnetError(f'{refused}: those to train on differ, or their order does, in {num} of {len(trained)} '
                           'places')  # fmt: skip
    return {
        'how': 'same images, re-encoded',
        'largest_distance': round(float(distances.max()), 3),
        'tolerance': round(tolerance, 3),
    }


def _counts(images: Images) -> list[int]:
    return images.targets.bincount(minlength=len(images.classes)).tolist()


def _rows(images: Images) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows (M, 16 + C) of withheld images, and of runs of the others."""
    trained, withheld = withheld_indices(images.targets)
    rows = torch.cat([_coarse(chunk) for chunk in images.images.cpu().split(4096)])  # one by one, for their memory
    run = -(-len(trained) // _NUM_RUNS)
    by_class = [rows[trained[images.targets[trained] == target]] for target in images.targets.unique()]
    return rows[withheld], torch.stack([part.mean(0) for group in by_class for part in group.split(run)])


def _coarse(images: torch.Tensor) -> torch.Tensor:
    """Luma in 4x4 parts and the mean of each channel, float32 (N, 16 + C), of uint8 (N, C, H, W)."""
    pixels, channels = images.float(), images.shape[1]
    weights = torch.tensor(_LUMA if channels == 3 else [1 / channels] * channels)
    luma = (pixels * weights.view(-1, 1, 1)).sum(1, keepdim=True)
    return torch.cat([F.adaptive_avg_pool2d(luma, _GRID).flatten(1), pixels.mean((2, 3))], 1)


def _encode(rows: torch.Tensor) -> str:
    steps = (rows / _STEP).round().to(torch.uint8)
    return base64.b85encode(zlib.compress(steps.numpy().tobytes(), 9)).decode()


def _decode(text: str, shape: torch.Size) -> torch.Tensor:
    content = zlib.decompressobj().decompress(base64.b85decode(text), shape.numel() + 1)
    return torch.frombuffer(bytearray(content), dtype=torch.uint8).view(shape).float() * _STEP


def _compare(rows: torch.Tensor, recorded: dict[str, Any], key: str, checkpoint: str) -> tuple[torch.Tensor, float]:
    """Distances (M,) from the recorded rows, and the largest that is taken for another encoding.

    Where even the images of a class look alike, that is less than `TOLERANCE`: a quarter of what neighbours differ by.
    """
    try:
        expected = _decode(recorded[key], rows.shape)
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError, zlib.error) as error:
        raise CondnetError(f'the fingerprint of the training images in {checkpoint} is damaged ({key})') from error
    neighbours = _rms(expected.diff(dim=0))
    tolerance = min(TOLERANCE, float(neighbours.median()) / 4) if len(neighbours) else TOLERANCE
    return _rms(rows - expected), tolerance


def _rms(differences: torch.Tensor) -> torch.Tensor:
    return differences.pow(2).mean(1).sqrt()


def _name(images: Images, is_other: torch.Tensor) -> str:
    """Class and position of the first of the withheld images that `is_other` (M,) marks."""
    index = withheld_indices(images.targets)[1][is_other][0]
    target = images.targets[index]
    return f'{images.classes[target]} {int(index - (images.targets < target).sum())}'
