"""Flags of timm's train.py and validate.py that the commands do not have: why, and what there is instead."""

import sys
from collections.abc import Mapping
from fnmatch import fnmatchcase

from condnet.errors import CondnetError

_OF_BOTH = {
    '--class-map': 'classes are numbered as the part that is trained on has them',
    '--input-key --target-key --input-img-mode': "images and labels are where timm's reader looks for them by itself",
    '--dataset-trust-remote-code': 'code that comes with a data set is not run',
    '--task --target-format --multilabel-threshold': 'an image has one class here',
    '--num-gpu --local_rank --local-rank': 'torchrun starts a process for every GPU',
    '--device-modules': '--device takes those that PyTorch has by itself',
    '--model-dtype': 'weights are kept in float32; --amp-dtype says in what is computed',
    '--torchscript --fuser --aot-autograd': 'PyTorch gives them up; training has --torchcompile',
    '--naflex-*': 'all images have one size here',
}

# By flags, or beginnings of them.
TRAIN: Mapping[str, str] = {
    **_OF_BOTH,
    '--jsd-loss --aug-splits --aug-repeats --resplit --split-bn': 'several versions of an image in a batch would be '
    'normalised together, which calibration cannot repeat; --aa augmix-m3-w3 mixes them into one',
    '--kd-* --distill-loss-weight --task-loss-weight': 'there is no teacher: training is on labels alone',
    '--loss --loss-* --class-stats --asl-* --poly-* --twoway-* --db-*': 'the loss is cross-entropy, or with --bce-loss '
    'binary cross-entropy',
    '--drop-connect': 'it is --drop-path',
    '--drop-block': 'models that have it take --model-kwargs drop_block_rate=0.1',
    '--bn-momentum --bn-eps': 'models that have them take --model-kwargs bn_momentum=0.1 bn_eps=1e-5',
    '--gp': 'models that have a choice take --model-kwargs global_pool=avg',
    '--dist-bn': "statistics are averaged over the processes after every epoch, as by timm's reduce",
    '--img-size --in-chans': 'it is --input-size, of channels, height and width',
    '--mean --std': 'they are measured on the training images, or those published for the data set',
    '--crop-pct --interpolation --tta': 'an image is validated once, and resized without a margin, as it is when '
    'architectures are ranked',
    '-vb --validation-batch-size': 'validation takes 256 images at a time',
    '--train-num-samples --val-num-samples': 'a data set knows its size, as streamed ones are not taken; --eval-images '
    'is how many are validated on',
    '--pretrained-path': 'it is --initial-checkpoint',
    '--no-resume-opt': '--initial-checkpoint begins with the weights of a checkpoint alone',
    '--start-epoch': 'a checkpoint knows its epoch: --resume',
    '--epoch-repeats': 'an epoch has every image once: --epochs',
    '--head-init-scale --head-init-bias': 'a classifier begins as its model makes it',
    '--grad-checkpointing': '--grad-accum-steps saves memory',
    '--torchcompile-mode': "--torchcompile is PyTorch's default mode",
    '--apex-amp --native-amp --amp-impl': "--amp is PyTorch's own",
    '--no-ddp-bb --synchronize-step': 'gradients travel by themselves, without DistributedDataParallel',
    '--layer-decay-min-scale --layer-decay-no-opt-scale': '--layer-decay goes down to the first layer',
    '--lr-stable-timescale': 'it is for --sched rsqrt, which is not taken',
    '--input-size-* --batch-size-* --batch-choice-* --batch-schedule-*': 'images and batches have one size here',
    '--model-ema-force-cpu': 'the averaged weights are where the model is',
    '--val-interval': 'it is --eval-interval',
    '--save-images': 'no images are written',
    '--no-prefetcher': "timm's loader always has it here, and images in memory need none",
    '--use-multi-epochs-loader': 'workers that live on would not load the same after a resume',
    '--wandb-project --wandb-tags --wandb-resume-id': "wandb's own variables say it (WANDB_PROJECT, WANDB_TAGS), and a "
    'training goes on in its run',
}
VALIDATE: Mapping[str, str] = {
    **_OF_BOTH,
    '--pretrained': '--checkpoint takes the name of a pretrained model as well',
    '--num-classes --in-chans --img-size --input-size --use-train-size --mean --std --gp --model-kwargs': 'the '
    'checkpoint says it',
    '--crop-pct --crop-mode --crop-border-pixels --interpolation --tta --test-pool --tf-preprocessing': 'an image is '
    'evaluated once, and resized without a margin',
    '--num-samples': '--eval-images is how many are validated on',
    '--real-labels --valid-labels': 'labels are those of the data set',
    '--metrics-avg': 'metrics are those of rankings, and accuracy and loss',
    '--results-format': 'the results file is a CSV, with a .json beside it',
    '--workers -j --pin-mem --no-prefetcher': 'images are loaded once, and kept in memory',
    '--log-freq': 'progress is shown by itself',
    '--amp': '--amp-dtype says it alone, such as bfloat16',
    '--fast-norm --reparam': 'networks are evaluated as they were trained',
    '--torchcompile --torchcompile-mode': 'nothing is compiled for an evaluation; --amp-dtype and --device speed it up',
    '--retry': 'a smaller --batch-size saves memory, and changes results by rounding alone',
}


def refuse(argv: list[str] | None, reasons: Mapping[str, str]) -> None:
    """Refuse flags of timm's in one line.

    Args:
        argv: What was typed; None for the command line.
        reasons: `TRAIN` or `VALIDATE`.

    Raises:
        CondnetError: If there is one of them. It says of each why.
    """
    found: dict[str, dict[str, None]] = {}
    for text in sys.argv[1:] if argv is None else argv:
        name = text.partition('=')[0]
        for flags, reason in reasons.items():
            if any(fnmatchcase(name, flag) for flag in flags.split()):
                found.setdefault(reason, {})[name] = None
    if found:
        raise CondnetError('; '.join(f'there is no {" or ".join(names)}: {reason}' for reason, names in found.items()))
