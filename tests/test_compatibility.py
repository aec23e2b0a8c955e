"""What an earlier version has trained goes on as it would have there, and is ranked alike."""

import csv
import dataclasses
import json
from pathlib import Path

import pytest

import condnet
from condnet.checkpoints.training import LAST, read_training_checkpoint
from condnet.cli.validate import main as validate
from condnet.training.config import recorded_settings

OLD = Path(__file__).parent / 'data' / 'old_training'
TOLERANCE = 1e-4  # another processor rounds otherwise


def ranked(checkpoint, output):
    more = ['--num-archs', '4', '--calib-batches', '1', '--eval-images', '104', '--results-file', str(output)]
    assert validate(['--checkpoint', str(checkpoint), *more]) == 0
    with output.open(newline='') as file:
        return {row['index']: float(row['loss']) for row in csv.DictReader(file)}


@pytest.mark.slow
def test_an_old_training_goes_on_and_is_ranked_as_it_was(tmp_path):
    """Resumed, and split on the way."""
    expected = json.loads((OLD / 'numbers.json').read_text())
    before = read_training_checkpoint(OLD / 'milestone-1.pth.tar')
    config, settled = recorded_settings(before['args'])
    changes = {'output': str(tmp_path), 'resume': str(OLD / 'milestone-1.pth.tar'), 'split_epoch': 2, 'stop_epoch': 0}
    changes |= {'num_classes': None, 'input_size': None, 'keep_epochs': []}
    changes['checkpoint_seconds'] = 0.0  # newer than the checkpoint
    run = condnet.train(dataclasses.replace(config, **changes))
    assert run.model.is_split and run.output == tmp_path
    for found, row in zip(run.history, expected['history'], strict=True):
        assert {name: found[name] for name in row} == pytest.approx(row, rel=TOLERANCE)
    before, after = vars(before['args']), vars(read_training_checkpoint(tmp_path / LAST)['args'])
    changes |= {'num_classes': settled.num_classes, 'input_size': list(settled.input_size)}
    expected_args = before | changes | {'hardware': after['hardware']}
    after = {name: value for name, value in after.items() if name in expected_args}  # others are newer settings
    assert after == expected_args
    assert {name: type(value) for name, value in after.items()} == {n: type(v) for n, v in expected_args.items()}
    ranks = pytest.approx(expected['ranked_at_the_end'], rel=TOLERANCE)
    assert ranked(tmp_path / LAST, tmp_path / 'after.csv') == ranks


def test_an_old_checkpoint_is_ranked_as_it_was(tmp_path):
    expected = json.loads((OLD / 'numbers.json').read_text())['ranked_before_the_split']
    assert ranked(OLD / 'milestone-1.pth.tar', tmp_path / 'r.csv') == pytest.approx(expected, rel=TOLERANCE)
