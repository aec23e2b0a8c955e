"""Flags of timm's train.py and validate.py that are not taken: refused in one line, and all others are there."""

import sys
from pathlib import Path

import pytest

from condnet.cli import train, validate
from condnet.cli.refused import TRAIN, VALIDATE, refuse
from condnet.errors import CondnetError

DOCS = Path(__file__).parents[1] / 'docs'
# Of timm 1.0.31, as far as they are known: its package does not hold the scripts.
TIMM_TRAIN = """
--config -c --data-dir --dataset --train-split --val-split --train-num-samples --val-num-samples --dataset-download
--class-map --input-img-mode --input-key --target-key --dataset-trust-remote-code --task --target-format
--multilabel-threshold --model --pretrained --pretrained-path --initial-checkpoint --resume --no-resume-opt
--num-classes --gp --img-size --in-chans --input-size --crop-pct --mean --std --interpolation -b --batch-size -vb
--validation-batch-size --channels-last --fuser --grad-accum-steps --grad-checkpointing --fast-norm --model-kwargs
--head-init-scale --head-init-bias --torchcompile-mode --torchscript --torchcompile --device --amp --amp-dtype
--model-dtype --no-ddp-bb --synchronize-step --local_rank --device-modules --opt --opt-eps --opt-betas --momentum
--weight-decay --clip-grad --clip-mode --layer-decay --layer-decay-min-scale --layer-decay-no-opt-scale --opt-kwargs
--sched --sched-on-updates --lr --lr-base --lr-base-size --lr-base-scale --lr-noise --lr-noise-pct --lr-noise-std
--lr-cycle-mul --lr-cycle-decay --lr-cycle-limit --lr-k-decay --lr-decay-fn --lr-stable-timescale --warmup-lr --min-lr
--epochs --stop-epoch --epoch-repeats --start-epoch --decay-milestones --decay-epochs --warmup-epochs --warmup-prefix
--cooldown-epochs --patience-epochs --decay-rate --dr --no-aug --train-crop-mode --scale --ratio --hflip --vflip
--color-jitter --color-jitter-prob --grayscale-prob --gaussian-blur-prob --aa --aug-repeats --aug-splits --loss
--loss-class-weight --loss-pos-weight --loss-weight-power --class-stats --poly-epsilon --poly-gamma --jsd-loss
--bce-loss --bce-sum --bce-target-thresh --bce-pos-weight --reprob --remode --recount --resplit --mixup --cutmix
--cutmix-minmax --mixup-prob --mixup-switch-prob --mixup-mode --mixup-off-epoch --smoothing --train-interpolation
--drop --drop-connect --drop-path --drop-block --bn-momentum --bn-eps --sync-bn --dist-bn --split-bn --model-ema
--model-ema-force-cpu --model-ema-decay --model-ema-warmup --seed --worker-seeding --log-interval --val-interval
--save-epochs --recovery-interval --checkpoint-hist -j --workers --save-images --pin-mem --no-prefetcher --output
--experiment --eval-metric --tta --use-multi-epochs-loader --log-wandb --wandb-project --wandb-tags --wandb-resume-id
--naflex-loader --naflex-train-seq-lens --naflex-max-seq-len --naflex-patch-sizes --naflex-patch-size-probs
--naflex-loss-scale --kd-model-name --kd-distill-type --kd-loss-type --distill-loss-weight --task-loss-weight
--kd-temperature --kd-student-feature-dim --kd-teacher-feature-dim --kd-token-distill-type
""".split()
TIMM_VALIDATE = """
--data-dir --dataset --split --num-samples --dataset-download --class-map --input-key --input-img-mode --target-key
--dataset-trust-remote-code --task --target-format --multilabel-threshold -m --model --pretrained -j --workers -b
--batch-size --img-size --in-chans --input-size --use-train-size --crop-pct --crop-mode --crop-border-pixels --mean
--std --interpolation --num-classes --gp --log-freq --checkpoint --num-gpu --test-pool --no-prefetcher --pin-mem
--channels-last --device --amp --amp-dtype --model-dtype --tf-preprocessing --use-ema --fuser --fast-norm --reparam
--model-kwargs --torchcompile --torchcompile-mode --torchscript --aot-autograd --results-file --results-format
--real-labels --valid-labels --retry --seed --metrics-avg --naflex-loader --naflex-max-seq-len
""".split()
COMMANDS = [(train, TRAIN, TIMM_TRAIN, 'training.md'), (validate, VALIDATE, TIMM_VALIDATE, 'ranking.md')]


@pytest.mark.parametrize(
    ('command', 'argv', 'message'),
    [
        (train, ['--epochs', '2', '--jsd-loss', '--num-gpu=2', '--aug-splits', '3'],
         'condnet-train: error: there is no --jsd-loss or --aug-splits: several versions of an image in a batch would '
         'be normalised together, which calibration cannot repeat; --aa augmix-m3-w3 mixes them into one; there is no '
         '--num-gpu: torchrun starts a process for every GPU'),
        (train, ['--kd-temperature', '4'],
         'condnet-train: error: there is no --kd-temperature: there is no teacher: training is on labels alone'),
        (validate, ['-m', 'nb201_net', '--amp'],
         'condnet-validate: error: there is no --amp: --amp-dtype says it alone, such as bfloat16'),
    ],
)  # fmt: skip
def test_refused_in_one_line(capsys, monkeypatch, command, argv, message):
    assert command.main(argv) == 2
    monkeypatch.setattr(sys, 'argv', ['condnet', *argv])
    assert command.main() == 2
    assert capsys.readouterr().err.splitlines() == [message, message]


def is_refused(flag, reasons):
    try:
        refuse([flag], reasons)
    except CondnetError:
        return True
    return False


@pytest.mark.parametrize(('command', 'reasons', 'flags', 'page'), COMMANDS, ids=['train', 'validate'])
def test_flags_of_timm_are_taken_or_refused(command, reasons, flags, page):
    shown = command.make_parser().format_help().replace(',', ' ').split()
    ours = {word for word in shown if word.startswith('-')}
    assert [flag for flag in flags if (flag in ours) == is_refused(flag, reasons)] == []
    assert [flag for flag in ours if is_refused(flag, reasons)] == []
    told = (DOCS / page).read_text()
    families = [flag[:-1] for row in reasons for flag in row.split() if flag.endswith('*')]
    missing = [flag for flag in flags if f'`{flag}`' not in told and not flag.startswith(tuple(families))]
    assert missing == []


@pytest.mark.parametrize('argv', [['--aug-split', '3'], ['--bce'], ['--mixup-o', '1'], ['--dist'], ['--drop-p', '0.1']])
def test_flags_are_not_shortened(capsys, argv):
    """So that none is taken for another one."""
    with pytest.raises(SystemExit, match='2'):
        train.parse_args(['--data-dir', 'x', *argv])
    assert 'unrecognized arguments' in capsys.readouterr().err


def test_other_names_that_timm_has():
    config = train.parse_args('--data-dir x -b 64 -j 3 --sched step --dr 0.5 --epochs 99 --save-epochs 2 4'.split())
    assert (config.batch_size, config.workers, config.decay_rate, config.keep_epochs) == (64, 3, 0.5, (2, 4))
    args = validate.make_parser().parse_args('--checkpoint x -b 64 -m nb201_net --split test'.split())
    assert (args.batch_size, args.model, args.val_split) == (64, 'nb201_net', 'test')
