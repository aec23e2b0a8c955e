"""Settings of a training, of which flags, recipes and checkpoints are made, and what is settled when it starts."""

import argparse
import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from condnet.checkpoints.training import SCHEDULE_FLAGS
from condnet.errors import show
from condnet.plugins import import_modules
from condnet.recipes import IMPORT, read_recipe
from condnet.training.task import SAMPLINGS
from condnet.utils.settings import SettingError, check_settings, setting

# Of every schedule, the settings that it depends on. timm's rsqrt is left out: it needs a warm-up.
SCHEDULES: dict[str, tuple[str, ...]] = {
    'cosine': ('min_lr',),
    'tanh': ('min_lr',),
    'poly': ('decay_rate', 'min_lr'),
    'wsd': ('decay_epochs', 'min_lr'),
    'step': ('decay_epochs', 'decay_rate'),
    'multistep': ('decay_milestones', 'decay_rate'),
    'plateau': ('patience_epochs', 'decay_rate', 'min_lr'),
    'constant': (),
    'none': (),
}
_DATA, _MODEL, _METHOD, _SCHEDULE = 'dataset', 'model', 'method', 'training'
_OPTIMIZER, _RATE, _REGULARIZATION = 'optimizer', 'learning rate schedule', 'augmentation and regularization'
_VALIDATION = 'validation during training, of a fixed sample of architectures'
_MOST = 2**31  # of sizes and epochs


@dataclass(frozen=True)
class TrainConfig:
    """Settings of a training; `condnet-train --help` says what each is.

    Raises:
        SettingError: If a value makes no sense, or does not go with another.
    """

    recipe: str | None = None  # where the others come from; it is no setting itself
    data_dir: str | None = setting(
        None, 'directory with CIFAR-10, or with another data set; glyphs needs none', group=_DATA
    )
    download: bool = setting(False, 'download CIFAR-10 into --data-dir if it is not there', group=_DATA)
    dataset: str | None = setting(None, "glyphs, or a data set by timm's name for it; default: small images in "
                                  '--data-dir, kept in memory', group=_DATA)  # fmt: skip
    train_split: str = setting('train', 'with --dataset: the part to train on', group=_DATA)
    val_split: str = setting('validation', 'with --dataset: the part to validate on', group=_DATA)
    num_classes: int | None = setting(None, 'default: those of the data; with --dataset 10', least=1, group=_DATA)
    input_size: tuple[int, int, int] | None = setting(
        None, 'default: that of the data; with --dataset 3 32 32', least=1, below=_MOST, group=_DATA
    )
    workers: int = setting(1, 'with --dataset: processes that load it', least=0, group=_DATA)
    output: str | None = setting(None, 'directory of checkpoints and summary.csv')
    experiment: str | None = setting(None, 'those of this training go into a folder of this name in --output')
    log_wandb: bool = setting(False, "show every epoch's line of summary.csv in Weights & Biases, too")
    tensorboard: bool = setting(False, 'show it in TensorBoard, too, from files in the folder of the training')

    model: str = setting('nb201_cond_supernet', 'name of a timm model', group=_MODEL)
    model_kwargs: dict[str, Any] = setting(
        {}, 'space=no_zero, arch=... (as --archs of condnet-validate), ...', group=_MODEL
    )
    pretrained: bool = setting(False, 'begin with the published weights of the model', group=_MODEL)
    initial_checkpoint: str | None = setting(
        None,
        'begin with these weights: a checkpoint, a folder of a model, or the name of a pretrained one',
        group=_MODEL,
        metavar='PATH',
    )
    channels_last: bool = setting(True, 'memory layout', group=_MODEL)
    device: str = setting('cpu', 'device to train on; cuda: under torchrun a GPU per process', group=_MODEL)
    amp: bool = setting(False, 'mixed precision', group=_MODEL)
    amp_dtype: str = setting('bfloat16', 'its data type; with float16 the loss is scaled', group=_MODEL,
                             choices=('bfloat16', 'float16'))  # fmt: skip
    torchcompile: bool = setting(
        False, 'compile the candidate operations (or a whole stand-alone network)', group=_MODEL
    )
    sync_bn: bool = setting(False, 'several GPUs normalise a batch together', group=_MODEL)

    sampling: str = setting('uniform', 'one architecture per step, or (fair) as many as there are operations, so that '
                            'each is trained once before an update', group=_METHOD, choices=SAMPLINGS)  # fmt: skip
    operation_weights: tuple[float, ...] | None = setting(
        None,
        'draw operations in these proportions, by their official numbers, instead of equally often',
        group=_METHOD,
    )
    share_momentum: bool = setting(
        False, "the authors' variant: the copies of a weight have one momentum", group=_METHOD
    )
    update_unsampled: bool = setting(False, "the authors' variant: weights that are not sampled decay and follow their "
                                     'momentum', group=_METHOD)  # fmt: skip

    epochs: int = setting(250, 'epochs of the schedule', group=_SCHEDULE, least=1)
    split_epoch: int = setting(0, 'split after so many epochs; 0 for never', group=_SCHEDULE)
    stop_epoch: int = setting(0, 'stop after so many epochs of the schedule; 0: never', group=_SCHEDULE)
    resume: str | None = setting(
        None,
        'continue from this checkpoint, or from the newest one in this folder; --output itself is started if it has '
        'none; with --split-epoch also an unsplit one with a split',
        group=_SCHEDULE,
        metavar='PATH',
    )
    recovery_interval: int = setting(
        0,
        'also write a checkpoint every so many batches of an epoch; 0 for only after it',
        group=_SCHEDULE,
        least=0,
    )
    checkpoint_seconds: float = setting(
        0.0,
        'after epochs, write a checkpoint only if the last one is so many seconds old; the best, and those before '
        'the split, after --keep-epochs, and at the end are always written',
        group=_SCHEDULE,
        least=0,
    )
    keep_epochs: tuple[int, ...] = setting(
        (), 'keep the checkpoints after these epochs', group=_SCHEDULE, least=1, below=_MOST
    )
    batch_size: int = setting(256, 'images per update, over all processes', group=_SCHEDULE, least=1)
    grad_accum_steps: int = setting(
        1,
        'parts into which a process divides its share of a batch to save memory; BatchNorm normalises each for itself',
        group=_SCHEDULE,
        least=1,
    )
    seed: int = setting(0, 'seed of weights, architectures, data order, augmentation', group=_SCHEDULE, least=0)

    opt: str = setting('momentum', "timm optimizer (timm's 'sgd' is Nesterov, 'momentum' is not)", group=_OPTIMIZER)
    lr: float = setting(0.025, 'learning rate', group=_RATE, least=0)
    min_lr: float = setting(1e-5, 'the lowest that it comes down to', group=_RATE, least=0)
    sched: str = setting(
        'cosine',
        f'{", ".join(SCHEDULES)}: as in timm, stepped once per epoch; plateau after every validation, by its loss, or '
        'with --eval-interval 0 by the training loss',
        group=_RATE,
    )
    decay_epochs: float | None = setting(None, 'step: epochs between two changes (default: 90); wsd: the last epochs, '
                                         'or a share of all (default: 0.2)', group=_RATE)  # fmt: skip
    decay_milestones: tuple[int, ...] | None = setting(None, 'multistep: the first epochs with another rate, counted '
                                                       'from 1 (default: 90 180 270)', group=_RATE)  # fmt: skip
    decay_rate: float | None = setting(
        None, 'step, multistep, plateau: factor; poly: power (default: 0.1)', group=_RATE
    )
    patience_epochs: int | None = setting(None, 'plateau: validations without a lower loss (default: 10)', group=_RATE)
    warmup_epochs: int = setting(
        0, 'the first epochs, in which the rate rises from --warmup-lr', group=_RATE, least=0, below=_MOST
    )
    warmup_lr: float = setting(1e-5, 'rate of the first warm-up epoch', group=_RATE, least=0)
    cooldown_epochs: int = setting(0, 'epochs after the schedule, at its last rate', group=_RATE, least=0, below=_MOST)
    momentum: float = setting(0.9, 'of optimizers that have one', group=_OPTIMIZER, least=0, below=1)
    weight_decay: float = setting(3e-4, 'not on BatchNorm and biases', group=_OPTIMIZER, least=0)
    opt_betas: tuple[float, ...] | None = setting(None, "default: the optimizer's", group=_OPTIMIZER, least=0, below=1)
    opt_eps: float | None = setting(None, "default: the optimizer's", group=_OPTIMIZER, least=0)
    clip_grad: float | None = setting(
        None, 'clip gradients to this norm, value, or factor; default: not at all', group=_OPTIMIZER, least=0
    )
    clip_mode: str = setting('norm', 'what is clipped', group=_OPTIMIZER, choices=('norm', 'value', 'agc'))
    model_ema: bool = setting(False, 'also average the weights', group=_OPTIMIZER)
    model_ema_decay: float = setting(
        0.9998, 'share of the average that a step keeps', group=_OPTIMIZER, least=0, below=1
    )

    drop: float = setting(0.0, "dropout, the model's drop_rate", group=_REGULARIZATION, least=0, below=1)
    smoothing: float = setting(0.0, 'label smoothing', group=_REGULARIZATION, least=0, below=1)
    mixup: float = setting(0.0, 'alpha of mixup; 0 for none', group=_REGULARIZATION, least=0)
    cutmix: float = setting(0.0, 'alpha of CutMix; 0 for none', group=_REGULARIZATION, least=0)
    mixup_prob: float = setting(
        1.0, 'probability that mixup or CutMix is applied', group=_REGULARIZATION, least=0, below=1.0000001
    )
    mixup_switch_prob: float = setting(
        0.5, 'of both, the probability that it is CutMix', group=_REGULARIZATION, least=0, below=1.0000001
    )
    mixup_mode: str = setting('batch', 'what one draw is for', group=_REGULARIZATION, choices=('batch', 'pair', 'elem'))
    mixup_off_epoch: int = setting(0, 'the first epoch without them; 0 for never', group=_REGULARIZATION, least=0)

    eval_interval: int = setting(1, 'every so many epochs; 0 for never', group=_VALIDATION, least=0)
    eval_archs: int = setting(4, 'architectures (drawn with seed 0)', group=_VALIDATION, least=1)
    eval_batches: int = setting(4, 'calibration batches of 256', group=_VALIDATION, least=1)
    eval_images: int | None = setting(
        None, 'withheld images (default: up to 1,000, equally many of a class)', group=_VALIDATION, least=1
    )
    log_interval: int = setting(50, 'batches between lines of the log', group=_VALIDATION, least=1)
    eval_metric: str | None = setting(None, 'keep the best checkpoint by it, as model_best.pth.tar', group=_VALIDATION,
                                      choices=('loss', 'accuracy'))  # fmt: skip
    checkpoint_hist: int = setting(0, 'with --eval-metric: also keep those of so many best epochs, as '
                                   'checkpoint-EPOCH.pth.tar', group=_VALIDATION, least=0)  # fmt: skip

    def __post_init__(self) -> None:
        check_settings(self)
        for name, last in (('split_epoch', self.epochs - 1), ('stop_epoch', self.total_epochs)):
            if not 0 <= getattr(self, name) <= last:
                of = f'of {self.epochs} epoch{"s" if self.epochs > 1 else ""}'
                raise SettingError(name, f'is {getattr(self, name)}, expected 1..{last} {of}, or 0 for never')
        if self.pretrained and self.initial_checkpoint:
            raise SettingError('pretrained', 'does not go with --initial-checkpoint: a training begins with one')
        self._check_files()
        self._check_schedule()
        self._check_company()

    @property
    def total_epochs(self) -> int:
        """Epochs of the training: those of the schedule, and those after it."""
        return self.epochs + self.cooldown_epochs

    @property
    def folder(self) -> Path | None:
        """Where checkpoints and tables are written: `output`, or the folder of the experiment in it."""
        return None if self.output is None else Path(self.output, self.experiment or '')

    @property
    def mixes(self) -> bool:
        """Whether images are mixed."""
        return self.mixup > 0 or self.cutmix > 0

    def _check_files(self) -> None:
        """Check the names and the choice of what is written."""
        name = self.experiment
        if name is not None and (name in ('', '.', '..') or {*name} & {'/', '\\', '\0'}):
            raise SettingError('experiment', f'is {show(name)}, expected the name of a folder in --output')
        if self.eval_metric and not self.eval_interval:
            raise SettingError('eval_metric', 'does nothing with --eval-interval 0')
        if self.checkpoint_hist and not self.eval_metric:
            raise SettingError('checkpoint_hist', 'does nothing without --eval-metric')

    def _check_company(self) -> None:
        """Check that what is set has what it needs to do anything."""
        needs = {'warmup_lr': self.warmup_epochs > 0, 'clip_mode': self.clip_grad is not None,
                 'mixup_prob': self.mixes, 'mixup_mode': self.mixes, 'mixup_off_epoch': self.mixes,
                 'mixup_switch_prob': self.mixup > 0 and self.cutmix > 0}  # fmt: skip
        flags = {
            'warmup_lr': '--warmup-epochs',
            'clip_mode': '--clip-grad',
            'mixup_switch_prob': '--mixup and --cutmix',
        }
        for name, has_it in needs.items():
            if getattr(self, name) != getattr(TrainConfig, name) and not has_it:
                raise SettingError(name, f'does nothing without {flags.get(name, "--mixup or --cutmix")}')
        if self.warmup_epochs >= self.epochs:
            raise SettingError('warmup_epochs', f'is {self.warmup_epochs}, expected less than the {self.epochs} epochs')

    def _check_schedule(self) -> None:
        """Check that there is such a schedule, that it depends on what is set, and that it does something."""
        if self.sched not in SCHEDULES:
            raise SettingError('sched', f'is {self.sched!r}, expected one of {", ".join(SCHEDULES)}')
        for name in SCHEDULE_FLAGS:
            if getattr(self, name) is not None and name not in SCHEDULES[self.sched]:
                raise SettingError(name, f'does nothing with the schedule {self.sched}')
        # timm counts milestones from 1: the epoch of that number is the first one with another rate.
        first = {'step': self.decay_epochs or 90, 'multistep': min(self.decay_milestones or [90]) - 1}.get(self.sched)
        if first is not None and first >= self.epochs:
            raise SettingError('sched', f'{self.sched} changes the rate after {first:g} epochs, of {self.epochs}: set '
                               f'{SCHEDULES[self.sched][0]}')  # fmt: skip

    @classmethod
    def from_recipe(cls, name: str, **changes: Any) -> 'TrainConfig':
        """The settings of a recipe. The modules that it names under `import` are imported.

        Args:
            name: Name of a packaged one, or the path of a YAML file, such as the args.yaml of a training.
            **changes: Settings that are other ones. Where `epochs` is one, and the recipe's split would come too late,
                it comes after the same share of them.

        Raises:
            CondnetError: If there is no such recipe, or a value makes no sense.
        """
        recipe = read_recipe(name, cls)
        if names := recipe.pop(IMPORT, ''):
            import_modules(names.split(','))
        before, split, epochs = recipe.get('epochs', cls.epochs), recipe.get('split_epoch', 0), changes.get('epochs')
        if type(epochs) is int and 1 < epochs <= split:
            recipe['split_epoch'] = max(1, round(split * epochs / before))
        return cls(**{'recipe': name, **recipe, **changes})


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
