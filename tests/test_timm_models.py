"""Stand-alone networks of other families of timm: trained with its flags, stopped, continued, and validated."""

import os
import signal

import pytest
import torch

from condnet.checkpoints.loading import load_model
from condnet.checkpoints.training import LAST, read_training_checkpoint
from condnet.cli.train import main
from condnet.cli.validate import main as validate
from condnet.training.step import TrainingStep
from tools.kill_training import differences, final_state, noise_images

FLAGS = [
    ('--clip-grad', '1', '--warmup-epochs', '1', '--warmup-prefix', '--sched-on-updates'),
    ('--mixup', '0.4', '--cutmix-minmax', '0.3', '0.8', '--bce-loss', '--drop-path', '0.1'),
    ('--opt', 'adamw', '--opt-betas', '0.8', '0.9', '--layer-decay', '0.7', '--eval-metric', 'loss'),
    ('--cooldown-epochs', '1', '--clip-grad', '0.1', '--clip-mode', 'agc', '--lr-noise', '0.5', '--no-aug'),
    ('--eval-metric', 'accuracy', '--checkpoint-hist', '2', '--smoothing', '0.1', '--lr-k-decay', '2', '--drop', '0.2'),
]
MODELS = {
    'resnet18': ('layers=(1,1,1,1)',),
    'mobilenetv3_small_050': (),
    'convnext_atto': (),
    'regnetx_002': (),
    'densenet121': ('block_config=(2,2,2,2)',),
    'vit_tiny_patch16_224': ('img_size=32', 'patch_size=4', 'depth=4'),
    'gmlp_ti16_224': ('img_size=32',),
    'efficientnet_lite0': (),
    'ghostnet_050': (),
    'starnet_s050': (),
}
STEPS = 2  # of an epoch


@pytest.fixture(scope='module')
def few_images(tmp_path_factory):
    """Of 10 classes, each with 3 to train on and one that is withheld."""
    return noise_images(tmp_path_factory.mktemp('few'), per_class=4)


@pytest.mark.slow
@pytest.mark.parametrize(('number', 'name'), list(enumerate(MODELS)), ids=list(MODELS))
def test_trained_stopped_continued_and_validated(few_images, tmp_path, monkeypatch, capsys, number, name):
    more = ('--model-kwargs', *MODELS[name], *FLAGS[number % len(FLAGS)], '--lr', '0.001')
    more = ('--model', name, '--epochs', '2', '--batch-size', '14', '--eval-batches', '1', *more)
    arguments = ['--data-dir', str(few_images), *more, '--output']
    assert main([*arguments, str(tmp_path / 'whole')]) == 0
    step = TrainingStep.__call__

    def stopped(self, input, target):
        if self.task.step == STEPS:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, input, target)

    monkeypatch.setattr(TrainingStep, '__call__', stopped)
    output = tmp_path / 'out'
    assert main([*arguments, str(output)]) == 128 + signal.SIGTERM
    monkeypatch.undo()
    progress = read_training_checkpoint(output / LAST)['progress']
    assert (progress['epoch'], progress['batch']) == (1, 1)
    assert main([*arguments, str(output), '--resume', str(output)]) == 0
    assert differences(final_state(tmp_path / 'whole'), final_state(output)) == []
    summary = read_training_checkpoint(output / LAST)['progress']['summary']
    assert all(0 <= row['eval_accuracy'] <= 100 for row in summary)
    scores = load_model(output / LAST).eval()(torch.zeros(2, 3, 32, 32))
    assert scores.shape == (2, 10) and scores.isfinite().all()
    capsys.readouterr()
    assert validate(['--checkpoint', str(output / LAST), '--data-dir', str(few_images)]) == 0
    validated = f'accuracy {summary[-1]["eval_accuracy"]:.2f}%, loss {summary[-1]["eval_loss"]:.4f} on 10 images '
    assert capsys.readouterr().out.startswith(validated)
