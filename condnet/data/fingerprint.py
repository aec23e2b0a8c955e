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
# Of data sets whose checkpoints record no more than their SHA-256: what `json.dumps(fingerprint_of(images))` gave.
PACKAGED = {
    '1b85ea14a6ec6155c5ab9c4d5520788d09fc7bafbe268d330795b77a02215b13': 'cifar10.json',
}


def fingerprint_of(images: Images) -> dict[str, Any]:
    """What a training set is recognised by, for a JSON file: images by class, rows of the withheld and of the others.

    Raises:
        CondnetError: If a class has only one image.
    """
    rows = pooled_rows(images)
    withheld = rows[withheld_indices(images.targets)[1]]
    return {'counts': _counts(images), 'withheld': _encode(withheld), 'trained': _encode(_runs(images, rows))}


def match_images(
    images: Images, training: dict[str, Any], recorded: Any, checkpoint: str, source: str, has_names: bool = True
) -> tuple[Images, dict[str, Any] | None]:
    """Check that a training set is the one that a model was trained on, so that it has seen nothing withheld.

    Args:
        images: The training set, in canonical order.
        training: How the model was trained, see `condnet.checkpoints.loading.training_of`.
        recorded: What `fingerprint_of` gave for its checkpoint; None if there is none.
        checkpoint: Name of the checkpoint, for errors.
        source: Name of the training set, for errors.
        has_names: Whether names of files say which image is which. Otherwise withheld images that stand elsewhere in
            their class are found by content and put where they belong; the others keep their order.

    Returns:
        The training set, and how it matches, for a results file: by identical pixels, or re-encoded, with the largest
        distance of a withheld image. None if the checkpoint records nothing of its images.

    Raises:
        CondnetError: If images are missing, others, or in another order, or the fingerprint is damaged.
    """
    sha256 = training.get('data_sha256')
    if sha256 is None and recorded is None:
        return images, None
    if sha256 == images.sha256():
        return images, {'how': 'identical pixels'}
    refused = f'{checkpoint} was trained on other images than those of {source}'
    if recorded is None and str(sha256) in PACKAGED:
        recorded = json.loads((Path(__file__).parent / 'fingerprints' / PACKAGED[str(sha256)]).read_text())
    if recorded is None:
        raise CondnetError(f'{refused}: their SHA-256 differs, and it records nothing else to tell a copy by; it may '
                           'have seen what is withheld here')  # fmt: skip
    if _counts(images) != (counts := recorded.get('counts') if isinstance(recorded, dict) else None):
        raise CondnetError(f'{refused}: they are {_counts(images)} by class, expected {counts}')
    return _match(images, *_read(recorded, images, checkpoint), refused, has_names)


def _match(
    images: Images, expected: torch.Tensor, expected_runs: torch.Tensor, refused: str, has_names: bool
) -> tuple[Images, dict[str, Any]]:
    """Compare with recorded rows."""
    rows, withheld = pooled_rows(images), withheld_indices(images.targets)[1]
    how, tolerance, distances = 'same images, re-encoded', _tolerance(expected), rms(rows[withheld] - expected)
    moves = not has_names and bool((distances > tolerance).any())
    if moves:
        order = _find(images, rows, expected)
        images, rows, how = images.select(order), rows[order], 'same images, re-encoded, in another order'
        distances = rms(rows[withheld] - expected)
    if others := withheld[distances > tolerance].tolist():
        raise CondnetError(
            f'{refused}: of {len(withheld)} withheld ones {len(others)} differ, first {_name(images, others[0])}; '
            'expected the same ones in the same order, so it may have seen what is withheld here'
        )
    if not moves and bool((rms(_runs(images, rows) - expected_runs) > _tolerance(expected_runs)).any()):
        raise CondnetError(f'{refused}: the withheld ones are the same, but not those to train on, or their order')
    distance = round(float(distances.max()), 3)
    return images, {'how': how, 'largest_distance': distance, 'tolerance': round(tolerance, 3)}


def _find(images: Images, rows: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
    """Order (N,) of the images in which those of a class that come closest to the withheld ones are in their places."""
    withheld = withheld_indices(images.targets)[1]
    order = torch.arange(len(images))
    for target in images.targets.unique():
        members = (images.targets == target).nonzero().flatten()
        found = torch.cdist(expected[images.targets[withheld] == target], rows[members]).argmin(1)
        others = torch.ones(len(members), dtype=torch.bool)
        others[found] = False
        if int(others.sum()) + len(found) == len(members):  # else one image is the closest to two of them
            order[members] = members[torch.cat([others.nonzero().flatten(), found])]
    return order


def _tolerance(rows: torch.Tensor) -> float:
    """The largest distance from recorded rows that is taken for another encoding.

    Where even the images of a class look alike, that is less than `TOLERANCE`: a third of what neighbours differ by.
    """
    neighbours = rms(rows.diff(dim=0))
    return min(TOLERANCE, float(neighbours.median()) / 3) if len(neighbours) else TOLERANCE


def rms(differences: torch.Tensor) -> torch.Tensor:
    return differences.pow(2).mean(1).sqrt()


def _name(images: Images, index: int) -> str:
    """Class of an image and its position within it."""
    target = images.targets[index]
    return f'{images.classes[target]} {index - int((images.targets < target).sum())}'


def _counts(images: Images) -> list[int]:
    return images.targets.bincount(minlength=len(images.classes)).tolist()


def pooled_rows(images: Images) -> torch.Tensor:
    """Rows (N, 16 + C): luma in 4x4 parts and the mean of each of C channels."""
    channels = images.images.shape[1]
    weights = torch.tensor(_LUMA if channels == 3 else [1 / channels] * channels).view(-1, 1, 1)
    rows = []
    for chunk in images.images.cpu().split(4096):  # as float32, all at once would fill the memory
        luma = (chunk.float() * weights).sum(1, keepdim=True)
        rows.append(torch.cat([F.adaptive_avg_pool2d(luma, _GRID).flatten(1), chunk.float().mean((2, 3))], 1))
    return torch.cat(rows)


def _runs(images: Images, rows: torch.Tensor) -> torch.Tensor:
    """Means (R, 16 + C) of the rows of images that are not withheld, over runs within a class."""
    trained = withheld_indices(images.targets)[0]
    return torch.stack([run.mean(0) for run in rows[trained].split(_run_lengths(images.targets[trained]))])


def _run_lengths(targets: torch.Tensor) -> list[int]:
    """How many images each run has, of classes (N,) in ascending order."""
    most = -(-len(targets) // _NUM_RUNS)
    return [min(most, count - start) for count in targets.bincount().tolist() for start in range(0, count, most)]


def _encode(rows: torch.Tensor) -> str:
    steps = (rows / _STEP).round().to(torch.uint8)
    return base64.b85encode(zlib.compress(steps.numpy().tobytes(), 9)).decode()


def _read(recorded: dict[str, Any], images: Images, checkpoint: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Recorded rows of the withheld images and of runs of the others."""
    trained, withheld = withheld_indices(images.targets)
    width = _GRID**2 + images.images.shape[1]
    try:
        lengths = {'withheld': len(withheld), 'trained': len(_run_lengths(images.targets[trained]))}
        first, second = (_decode(recorded[key], lengths[key], width) for key in lengths)
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError, zlib.error) as error:
        raise CondnetError(f'the fingerprint of the training images in {checkpoint} is damaged') from error
    return first, second


def _decode(text: str, num: int, width: int) -> torch.Tensor:
    """Rows (num, width); what holds more or fewer of them does not fit the view."""
    content = zlib.decompressobj().decompress(base64.b85decode(text), num * width + 1)
    return torch.frombuffer(bytearray(content), dtype=torch.uint8).view(num, width).float() * _STEP
