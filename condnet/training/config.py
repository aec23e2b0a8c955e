"""Settings of a training, of which flags, recipes and checkpoints are made, and what is settled when it starts."""

import argparse
import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from condnet.plugins import import_modules
from condnet.recipes import IMPORT, read_recipe
from condnet.training.consistency import SCHEDULES, base_rate, check_consistency, schedule_epochs
from condnet.training.task import SAMPLINGS
from condnet.utils.settings import check_settings, make_config, setting

# Headings of timm's train.py, in its order; those of ours in between.
_DATA, _MODEL, _SUPERNET = 'Dataset parameters', 'Model parameters', 'Super-network parameters'
_DEVICE, _OPTIMIZER, _RATE = 'Device parameters', 'Optimizer parameters', 'Learning rate schedule parameters'
_AUGMENTATION, _BN = 'Augmentation and regularization parameters', 'Batch norm parameters'
_EMA, _MISC = 'Model exponential moving average parameters', 'Miscellaneous parameters'
_VALIDATION = 'Validation during training, of a fixed sample of architectures'
_MOST = 2**31  # of sizes and epochs
_UP_TO_1 = 1.0000001


@dataclass(frozen=True)
class TrainConfig:
    """Settings of a training; `condnet-train --help` says what each is. Where timm has one, it has timm's name.

    Raises:
        SettingError: If a value makes no sense, or does not go with another.
    """

    recipe: str | None = None  # where the others come from; it is no setting itself
    data_dir: str | None = setting(
        None, 'directory with CIFAR-10, or with another data set; glyphs needs none', group=_DATA
    )
    dataset: str | None = setting(None, "glyphs, or a data set by timm's name for it; default: small images in "
                                  '--data-dir, kept in memory', group=_DATA)  # fmt: skip
    train_split: str = setting('train', 'with --dataset: the part to train on', group=_DATA)
    val_split: str = setting('validation', 'with --dataset: the part to validate on', group=_DATA)
    download: bool = setting(False, 'download CIFAR-10 into --data-dir if it is not there', group=_DATA)

    model: str = setting('nb201_cond_supernet', 'name of a timm model', group=_MODEL)
    pretrained: bool = setting(False, 'begin with the published weights of the model', group=_MODEL)
    initial_checkpoint: str | None = setting(None, 'begin with these weights: a checkpoint, a folder of a model, or '
                                             'the name of a pretrained one', group=_MODEL, metavar='PATH')  # fmt: skip
    resume: str | None = setting(
        None,
        'continue from this checkpoint, or from the newest one in this folder; --output itself is started if it has '
        'none; with --split-epoch also an unsplit one with a split',
        group=_MODEL,
        metavar='PATH',
    )
    num_classes: int | None = setting(None, 'default: those of the data; with --dataset 10', least=1, group=_MODEL)
    input_size: tuple[int, int, int] | None = setting(
        None, 'default: that of the data; with --dataset 3 32 32', least=1, below=_MOST, group=_MODEL
    )
    batch_size: int = setting(256, 'images per update, over all processes', group=_MODEL, least=1)
    channels_last: bool = setting(True, 'memory layout', group=_MODEL)
    grad_accum_steps: int = setting(1, 'parts into which a process divides its share of a batch to save memory; '
                                    'BatchNorm normalises each for itself', group=_MODEL, least=1)  # fmt: skip
    fast_norm: bool = setting(False, "with --amp: timm's LayerNorm and GroupNorm in reduced precision", group=_MODEL)
    model_kwargs: dict[str, Any] = setting(
        {}, 'space=no_zero, arch=... (as --archs of condnet-validate), ...', group=_MODEL
    )
    torchcompile: bool = setting(
        False, 'compile the candidate operations (or a whole stand-alone network)', group=_MODEL
    )

    split_epoch: int = setting(0, 'split after so many epochs; 0 for never', group=_SUPERNET)
    sampling: str = setting('uniform', 'one architecture per step, or (fair) as many as there are operations, so that '
                            'each is trained once before an update', group=_SUPERNET, choices=SAMPLINGS)  # fmt: skip
    operation_weights: tuple[float, ...] | None = setting(None, 'draw operations in these proportions, by their '
                                     'official numbers, instead of equally often', group=_SUPERNET)  # fmt: skip
    share_momentum: bool = setting(
        False, "the authors' variant: the copies of a weight have one momentum", group=_SUPERNET
    )
    update_unsampled: bool = setting(False, "the authors' variant: weights that are not sampled decay and follow their "
                                     'momentum', group=_SUPERNET)  # fmt: skip

    device: str = setting('cpu', 'device to train on; cuda: under torchrun a GPU per process', group=_DEVICE)
    amp: bool = setting(False, 'mixed precision', group=_DEVICE)
    amp_dtype: str = setting('bfloat16', 'its data type; with float16 the loss is scaled', group=_DEVICE,
                             choices=('bfloat16', 'float16'))  # fmt: skip

    opt: str = setting('momentum', "timm optimizer (timm's 'sgd' is Nesterov, 'momentum' is not)", group=_OPTIMIZER)
    opt_eps: float | None = setting(None, "default: the optimizer's", group=_OPTIMIZER, least=0)
    opt_betas: tuple[float, ...] | None = setting(None, "default: the optimizer's", group=_OPTIMIZER, least=0, below=1)
    momentum: float = setting(0.9, 'of optimizers that have one', group=_OPTIMIZER, least=0, below=1)
    weight_decay: float = setting(3e-4, 'not on BatchNorm and biases', group=_OPTIMIZER, least=0)
    clip_grad: float | None = setting(
        None, 'clip gradients to this norm, value, or factor; default: not at all', group=_OPTIMIZER, least=0
    )
    clip_mode: str = setting('norm', 'what is clipped', group=_OPTIMIZER, choices=('norm', 'value', 'agc'))
    layer_decay: float | None = setting(None, 'factor of the learning rate from a layer to the one before it; default: '
                                        'none', group=_OPTIMIZER, least=0, below=_UP_TO_1)  # fmt: skip
    opt_kwargs: dict[str, Any] = setting({}, "key=value: other arguments of timm's optimizer", group=_OPTIMIZER)

    sched: str = setting(
        'cosine',
        f'{", ".join(SCHEDULES)}: as in timm, stepped once per epoch; plateau after every validation, by its loss, or '
        'with --eval-interval 0 by the training loss',
        group=_RATE,
    )
    sched_on_updates: bool = setting(False, 'step the schedule after every update', group=_RATE)
    lr: float = setting(0.025, 'learning rate', group=_RATE, least=0)
    lr_base: float | None = setting(None, 'instead of --lr: the rate for --lr-base-size images per update; what it '
                                    'makes for --batch-size is recorded as --lr', group=_RATE, least=0)  # fmt: skip
    lr_base_size: int = setting(256, 'images per update that --lr-base is for', group=_RATE, least=1)
    lr_base_scale: str | None = setting(None, 'how the rate grows with them; default: sqrt for the families of Adam '
                                        'and Lamb, else linear', group=_RATE, choices=('linear', 'sqrt'))  # fmt: skip
    lr_noise: tuple[float, ...] | None = setting(None, 'noise of the rate from this share of the epochs on, and up to '
                                                 'another', group=_RATE, least=0, below=_UP_TO_1)  # fmt: skip
    lr_noise_pct: float = setting(0.67, 'most of it, as a share of the rate', group=_RATE, least=0.01, below=_UP_TO_1)
    lr_noise_std: float = setting(1.0, 'its standard deviation', group=_RATE, least=0, below=100)
    lr_cycle_mul: float = setting(1.0, 'a cycle is so many times as long as the one before', group=_RATE, least=1,
                                  below=100)  # fmt: skip
    lr_cycle_decay: float = setting(0.5, 'its highest rate, as a share of that of the one before', group=_RATE, least=0,
                                    below=_UP_TO_1)  # fmt: skip
    lr_cycle_limit: int = setting(1, 'cycles, of which the first has --epochs', group=_RATE, least=1, below=100)
    lr_k_decay: float = setting(1.0, 'cosine, poly: power of the time', group=_RATE, least=0.01, below=100)
    lr_decay_fn: str | None = setting(None, 'wsd: how the rate decays at the end (default: 1-sqrt)', group=_RATE,
                                      choices=('linear', '1-sqrt', 'cosine', 'power', 'exp'))  # fmt: skip
    warmup_lr: float = setting(1e-5, 'rate of the first warm-up epoch', group=_RATE, least=0)
    min_lr: float = setting(1e-5, 'the lowest that it comes down to', group=_RATE, least=0)
    epochs: int = setting(250, 'epochs of the schedule, or of its first cycle', group=_RATE, least=1)
    stop_epoch: int = setting(0, 'stop after so many epochs of the schedule; 0: never', group=_RATE)
    decay_milestones: tuple[int, ...] | None = setting(
        None, 'multistep: first epochs with another rate, from 1 (default: 90 180 270)', group=_RATE, least=1
    )
    decay_epochs: float | None = setting(None, 'step: epochs between two changes (default: 90); wsd: the last epochs, '
                                         'or a share of all (default: 0.2)', group=_RATE, least=1e-6)  # fmt: skip
    warmup_epochs: int = setting(
        0, 'the first epochs, in which the rate rises from --warmup-lr', group=_RATE, least=0, below=_MOST
    )
    warmup_prefix: bool = setting(False, 'they come before --epochs, and are none of them', group=_RATE)
    cooldown_epochs: int = setting(0, 'epochs after the schedule, at its last rate', group=_RATE, least=0, below=_MOST)
    patience_epochs: int | None = setting(None, 'plateau: validations without a lower loss (default: 10)', group=_RATE,
                                          least=0)  # fmt: skip
    decay_rate: float | None = setting(
        None, 'step, multistep, plateau: factor; poly: power (default: 0.1)', group=_RATE, least=0
    )

    no_aug: bool = setting(False, 'no augmentation', group=_AUGMENTATION)
    train_crop_mode: str | None = setting(None, 'with --dataset: the random crop is resized (rrc, the default), or the '
                'resized image is cropped in the centre (rkrc) or anywhere (rkrr), and padded by its mirror image',
                group=_AUGMENTATION, choices=('rrc', 'rkrc', 'rkrr'))  # fmt: skip
    scale: tuple[float, float] | None = setting(None, 'with --dataset: area of the random crop, as a share of the '
                'image (default: 0.08 1, of the other modes 0.8 1)', group=_AUGMENTATION, least=0.0001,
                below=_UP_TO_1)  # fmt: skip
    ratio: tuple[float, float] | None = setting(None, 'with --dataset: its width, as a share of the height (default: '
                '0.75 1.33, of the other modes 0.9 1.11)', group=_AUGMENTATION, least=0.01, below=100)  # fmt: skip
    hflip: float | None = setting(None, 'probability of a horizontal flip (default: 0.5, of letters 0)',
                                  group=_AUGMENTATION, least=0, below=_UP_TO_1)  # fmt: skip
    vflip: float = setting(0.0, 'with --dataset: that of a vertical one', group=_AUGMENTATION, least=0, below=_UP_TO_1)
    color_jitter: float = setting(0.4, 'with --dataset: colour jitter', group=_AUGMENTATION, least=0, below=100)
    color_jitter_prob: float | None = setting(None, 'with --dataset: its probability (default: 1)',
                                              group=_AUGMENTATION, least=0, below=_UP_TO_1)  # fmt: skip
    grayscale_prob: float = setting(0.0, 'with --dataset: probability that an image loses its colours',
                                    group=_AUGMENTATION, least=0, below=_UP_TO_1)  # fmt: skip
    gaussian_blur_prob: float = setting(0.0, 'with --dataset: probability that an image is blurred, over 23 pixels',
                                        group=_AUGMENTATION, least=0, below=_UP_TO_1)  # fmt: skip
    aa: str | None = setting(None, "with --dataset: timm's policy: rand-m9-mstd0.5-inc1, augmix-m3-w3, original, "
                             '3a, ...', group=_AUGMENTATION)  # fmt: skip
    bce_loss: bool = setting(False, 'binary cross-entropy, of each class by itself', group=_AUGMENTATION)
    bce_sum: bool = setting(False, 'its sum over the classes, instead of the mean', group=_AUGMENTATION)
    bce_target_thresh: float | None = setting(None, 'its targets are 1 above this and 0 below, however they are '
                                    'smoothed or mixed', group=_AUGMENTATION, least=0, below=1)  # fmt: skip
    bce_pos_weight: float | None = setting(None, 'its weight of the classes that are there', group=_AUGMENTATION,
                                           least=0)  # fmt: skip
    reprob: float = setting(0.0, 'with --dataset: probability that regions of an image are erased', group=_AUGMENTATION,
                            least=0, below=_UP_TO_1)  # fmt: skip
    remode: str = setting('pixel', 'by black, by one colour, or by noise', group=_AUGMENTATION,
                          choices=('const', 'rand', 'pixel'))  # fmt: skip
    recount: int = setting(1, 'most regions that are erased', group=_AUGMENTATION, least=1, below=1000)
    mixup: float = setting(0.0, 'alpha of mixup; 0 for none', group=_AUGMENTATION, least=0)
    cutmix: float = setting(0.0, 'alpha of CutMix; 0 for none', group=_AUGMENTATION, least=0)
    cutmix_minmax: tuple[float, float] | None = setting(None, 'instead of alpha: least and largest share of height and '
                                         'width', group=_AUGMENTATION, least=0, below=_UP_TO_1)  # fmt: skip
    mixup_prob: float = setting(
        1.0, 'probability that mixup or CutMix is applied', group=_AUGMENTATION, least=0, below=_UP_TO_1
    )
    mixup_switch_prob: float = setting(
        0.5, 'of both, the probability that it is CutMix', group=_AUGMENTATION, least=0, below=_UP_TO_1
    )
    mixup_mode: str = setting('batch', 'what one draw is for', group=_AUGMENTATION, choices=('batch', 'pair', 'elem'))
    mixup_off_epoch: int = setting(0, 'the first epoch without them; 0 for never', group=_AUGMENTATION, least=0)
    smoothing: float = setting(0.0, 'label smoothing', group=_AUGMENTATION, least=0, below=1)
    train_interpolation: str = setting('bilinear', 'with --dataset: of the random crop', group=_AUGMENTATION,
                                       choices=('random', 'bilinear', 'bicubic'))  # fmt: skip
    drop: float = setting(0.0, "dropout, the model's drop_rate", group=_AUGMENTATION, least=0, below=1)
    drop_path: float = setting(0.0, "the model's drop_path_rate", group=_AUGMENTATION, least=0, below=1)

    sync_bn: bool = setting(False, 'several GPUs normalise a batch together', group=_BN)

    model_ema: bool = setting(False, 'also average the weights', group=_EMA)
    model_ema_decay: float = setting(0.9998, 'share of the average that a step keeps', group=_EMA, least=0, below=1)
    model_ema_warmup: bool = setting(False, 'the first steps keep less', group=_EMA)

    seed: int = setting(0, 'seed of weights, architectures, data order, augmentation', group=_MISC, least=0)
    worker_seeding: str = setting('all', "with --dataset: NumPy's numbers in a worker by timm, or (part) by torch",
                                  group=_MISC, choices=('all', 'part'))  # fmt: skip
    log_interval: int = setting(50, 'batches between lines of the log', group=_MISC, least=1)
    recovery_interval: int = setting(0, 'also write a checkpoint every so many batches of an epoch; 0 for only after '
                                     'it', group=_MISC, least=0)  # fmt: skip
    checkpoint_hist: int = setting(0, 'with --eval-metric: also keep those of so many best epochs, as '
                                   'checkpoint-EPOCH.pth.tar', group=_MISC, least=0)  # fmt: skip
    checkpoint_seconds: float = setting(
        0.0,
        'after epochs, write a checkpoint only if the last one is so many seconds old; the best, and those before '
        'the split, after --keep-epochs, and at the end are always written',
        group=_MISC,
        least=0,
    )
    keep_epochs: tuple[int, ...] = setting(
        (), 'keep the checkpoints after these epochs', group=_MISC, least=1, below=_MOST
    )
    workers: int = setting(1, 'with --dataset: processes that load it', least=0, group=_MISC)
    pin_mem: bool = setting(False, 'with --dataset: load into pinned memory', group=_MISC)
    output: str | None = setting(None, 'directory of checkpoints and summary.csv', group=_MISC)
    experiment: str | None = setting(
        None, 'those of this training go into a folder of this name in --output', group=_MISC
    )
    eval_metric: str | None = setting(None, 'keep the best checkpoint by it, as model_best.pth.tar', group=_MISC,
                                      choices=('loss', 'accuracy'))  # fmt: skip
    log_wandb: bool = setting(False, "show every epoch's line of summary.csv in Weights & Biases, too", group=_MISC)
    tensorboard: bool = setting(False, 'show it in TensorBoard, too, from files in the folder of the training',
                                group=_MISC)  # fmt: skip

    eval_interval: int = setting(1, 'every so many epochs; 0 for never', group=_VALIDATION, least=0)
    eval_archs: int = setting(4, 'architectures (drawn with seed 0)', group=_VALIDATION, least=1)
    eval_batches: int = setting(4, 'calibration batches of 256, or fewer of fewer images', group=_VALIDATION, least=1)
    eval_images: int | None = setting(
        None, 'withheld images (default: up to 1,000, equally many of a class)', group=_VALIDATION, least=1
    )

    def __post_init__(self) -> None:
        check_settings(self)
        check_consistency(self)
        if self.lr_base is not None:  # from here on the rate is what says it, whatever becomes of the batch size
            object.__setattr__(self, 'lr', base_rate(self))
            for name in ('lr_base', 'lr_base_size', 'lr_base_scale'):
                object.__setattr__(self, name, getattr(TrainConfig, name))

    @property
    def total_epochs(self) -> int:
        """Epochs of the training: those of the schedule, and those after it."""
        return schedule_epochs(self) + self.cooldown_epochs

    @property
    def folder(self) -> Path | None:
        """Where checkpoints and tables are written: `output`, or the folder of the experiment in it."""
        return None if self.output is None else Path(self.output, self.experiment or '')

    @property
    def mixes(self) -> bool:
        """Whether images are mixed."""
        return self.mixup > 0 or self.cutmix > 0 or self.cutmix_minmax is not None

    @classmethod
    def from_recipe(cls, name: str, **changes: Any) -> 'TrainConfig':
        """The settings of a recipe. The modules that it names under `import` are imported.

        Args:
            name: Name of a packaged one, or the path of a YAML file, such as the args.yaml of a training.
            **changes: Settings that are other ones. Where `epochs` is one, and the recipe's split would come too late,
                it comes after the same share of them.

        Raises:
            CondnetError: If there is no such recipe or setting, or a value makes no sense.
        """
        recipe = read_recipe(name, cls)
        if names := recipe.pop(IMPORT, ''):
            import_modules(names.split(','))
        if changes.get('lr_base') is not None:
            recipe.pop('lr', None)  # which says the rate in another way
        before, split, epochs = recipe.get('epochs', cls.epochs), recipe.get('split_epoch', 0), changes.get('epochs')
        if type(epochs) is int and 1 < epochs <= split:
            recipe['split_epoch'] = max(1, round(split * epochs / before))
        return make_config(cls, None, {'recipe': name, **recipe, **changes})


@dataclass(frozen=True)
class Settled:
    """What is settled when a training starts, by its data and the machine.

    Args:
        num_classes: Classes of the model.
        input_size: Channels, height and width of the images.
        data_name: Name of the data set.
        data_sha256: Hash of the training images; None for glyphs, and for what goes through timm.
        data_fingerprint: Theirs, see `condnet.data.fingerprint`; None likewise.
        num_processes: Processes that train together.
        hardware: Name of the GPU or CPU.
        mean: Means of the channels; None where the name of the data set says them, or nothing is known.
        std: Standard deviations, likewise.
        label_names: Names of the classes, likewise.
    """

    num_classes: int
    input_size: tuple[int, int, int]
    data_name: str | None
    data_sha256: str | None = None
    data_fingerprint: Any = None
    num_processes: int = 1
    hardware: str = ''
    mean: list[float] | None = None
    std: list[float] | None = None
    label_names: list[str] | None = None


OF_OTHER_DATA = ('mean', 'std', 'label_names')  # recorded where they say something


def recorded_args(config: TrainConfig, settled: Settled) -> argparse.Namespace:
    """Settings as a checkpoint and args.yaml hold them, with what is settled."""
    known = {name: value for name, value in vars(settled).items() if name not in OF_OTHER_DATA or value is not None}
    args = _as_lists(vars(config) | known)
    return argparse.Namespace(config=args.pop('recipe'), **args)


def _as_lists(settings: dict[str, Any]) -> dict[str, Any]:
    """With the sequences that are settings as YAML has them; a model's arguments stay as they are."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in settings.items()}


def recorded_settings(args: argparse.Namespace) -> tuple[TrainConfig, Settled]:
    """Settings of a checkpoint, and what was settled. What is newer than the checkpoint has its default.

    Args:
        args: As `recorded_args` makes them, or an earlier version did.

    Raises:
        CondnetError: If a value makes no sense.
    """
    recorded = {**vars(args), 'recipe': getattr(args, 'config', None)}
    config, settled = (
        {field.name: recorded[field.name] for field in dataclasses.fields(kind) if field.name in recorded}
        for kind in (TrainConfig, Settled)
    )
    settled['input_size'] = tuple(settled['input_size'])
    return TrainConfig(**config), Settled(**settled)
