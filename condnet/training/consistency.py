"""Which settings of a training go together: what one of them needs to do anything, and what a schedule depends on."""

from typing import TYPE_CHECKING

import torch
from timm.scheduler import create_scheduler_v2

from condnet.checkpoints.training import SCHEDULE_FLAGS
from condnet.errors import show
from condnet.utils.settings import SettingError

if TYPE_CHECKING:
    from condnet.training.config import TrainConfig

_ALL = ('lr_noise', 'warmup_prefix', 'sched_on_updates')
# Of every schedule, the settings that it depends on. timm's rsqrt is left out: it needs a warm-up.
SCHEDULES: dict[str, tuple[str, ...]] = {
    'cosine': ('min_lr', 'lr_cycle_limit', 'lr_k_decay', *_ALL),
    'tanh': ('min_lr', 'lr_cycle_limit', *_ALL),
    'poly': ('decay_rate', 'min_lr', 'lr_cycle_limit', 'lr_k_decay', *_ALL),
    'wsd': ('decay_epochs', 'min_lr', 'lr_decay_fn', *_ALL),
    'step': ('decay_epochs', 'decay_rate', *_ALL),
    'multistep': ('decay_milestones', 'decay_rate', *_ALL),
    'plateau': ('patience_epochs', 'decay_rate', 'min_lr', 'lr_noise'),
    'constant': _ALL,
    'none': (),
}
_OF_TRANSFORMS = ('train_crop_mode', 'scale', 'ratio', 'vflip', 'color_jitter', 'color_jitter_prob', 'grayscale_prob',
                  'gaussian_blur_prob', 'aa', 'reprob')  # fmt: skip
_OF_TIMMS_LOADER = (*_OF_TRANSFORMS, 'train_interpolation', 'pin_mem', 'worker_seeding')
_MOST = 2**31  # epochs
_BLURRED = 11  # pixels to each side, by timm


def check_consistency(config: 'TrainConfig') -> None:
    """Check that what is set does something.

    Raises:
        SettingError: If it does nothing beside the others.
    """
    _check_epochs(config)
    if config.pretrained and config.initial_checkpoint:
        raise SettingError('pretrained', 'does not go with `initial_checkpoint`: a training begins with one')
    _check_files(config)
    _check_schedule(config)
    _check_company(config)
    _check_ranges(config)


def is_set(config: 'TrainConfig', name: str) -> bool:
    """Whether a setting differs from its default."""
    return bool(getattr(config, name) != getattr(type(config), name))


def schedule_epochs(config: 'TrainConfig') -> int:
    """Epochs of a schedule as timm counts them: of all its cycles, and of a warm-up that comes before it."""
    if config.lr_cycle_limit == 1:
        return config.epochs + (config.warmup_epochs if config.warmup_prefix else 0)
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    _, epochs = create_scheduler_v2(
        optimizer,
        num_epochs=config.epochs,
        cycle_mul=config.lr_cycle_mul,
        cycle_limit=config.lr_cycle_limit,
        warmup_epochs=config.warmup_epochs,
        warmup_prefix=config.warmup_prefix,
    )
    return int(epochs)


def base_rate(config: 'TrainConfig') -> float:
    """The rate that `lr_base` makes, as timm's train.py does: in proportion to the images of an update, or its root.

    Raises:
        SettingError: If a rate is set beside it.
    """
    if is_set(config, 'lr'):
        raise SettingError('lr_base', f'is {config.lr_base:g}, and `lr` is {config.lr:g}: one of them says the rate')
    ratio, is_adaptive = config.batch_size / config.lr_base_size, any(o in config.opt.lower() for o in ('ada', 'lamb'))
    scale = config.lr_base_scale or ('sqrt' if is_adaptive else 'linear')
    return (config.lr_base or 0.0) * (ratio**0.5 if scale == 'sqrt' else ratio)


def _check_epochs(config: 'TrainConfig') -> None:
    if config.lr_cycle_limit > 1 and schedule_epochs(config) >= _MOST:
        raise SettingError('lr_cycle_limit', f'is {config.lr_cycle_limit}, which makes {_MOST:,} epochs or more')
    epochs = schedule_epochs(config)
    for name, last in (('split_epoch', epochs - 1), ('stop_epoch', config.total_epochs)):
        if not 0 <= getattr(config, name) <= last:
            of = f'of {epochs} epoch{"s" if epochs > 1 else ""}'
            expected = f'1..{last} {of}, or 0 for never' if last else f'0 for never: {of} none comes after another'
            raise SettingError(name, f'is {getattr(config, name)}, expected {expected}')
    if config.warmup_epochs >= epochs:
        raise SettingError('warmup_epochs', f'is {config.warmup_epochs}, expected less than the {epochs} epochs')


def _check_files(config: 'TrainConfig') -> None:
    """Check the names and the choice of what is written."""
    name = config.experiment
    if name is not None and (name in ('.', '..') or {*name} & {'/', '\\', '\0'}):
        raise SettingError('experiment', f'is {show(name)}, expected the name of a folder in `output`')
    if config.eval_metric and not config.eval_interval:
        raise SettingError('eval_metric', 'does nothing with `eval_interval` 0')
    if config.checkpoint_hist and not config.eval_metric:
        raise SettingError('checkpoint_hist', 'does nothing without `eval_metric`')


def _check_schedule(config: 'TrainConfig') -> None:
    """Check that there is such a schedule, that it depends on what is set, and that it does something."""
    sched = config.sched
    if sched not in SCHEDULES:
        raise SettingError('sched', f'is {sched!r}, expected one of {", ".join(SCHEDULES)}')
    for name in (*SCHEDULE_FLAGS, 'lr_cycle_limit', 'lr_k_decay', 'lr_decay_fn', *_ALL):
        if is_set(config, name) and name not in SCHEDULES[sched]:
            raise SettingError(name, f'does nothing with the schedule {sched}')
    # timm counts milestones from 1: the epoch of that number is the first one with another rate.
    first = {'step': config.decay_epochs or 90, 'multistep': min(config.decay_milestones or [90]) - 1}.get(sched)
    if first is not None and first >= config.epochs:
        raise SettingError('sched', f'{sched} changes the rate after {first:g} epochs, of {config.epochs}: set '
                           f'`{SCHEDULES[sched][0]}`')  # fmt: skip


def _check_company(config: 'TrainConfig') -> None:
    """Check that what is set has what it needs to do anything."""
    cuts = config.cutmix > 0 or config.cutmix_minmax is not None
    in_memory = config.dataset in (None, 'glyphs')
    policy = config.aa is not None and '3a' not in config.aa  # timm jitters colours beside no other
    needs = (
        (('warmup_lr', 'warmup_prefix'), config.warmup_epochs > 0, 'without `warmup_epochs`'),
        (('clip_mode',), config.clip_grad is not None, 'without `clip_grad`'),
        (('mixup_prob', 'mixup_mode', 'mixup_off_epoch'), config.mixes, 'without `mixup` or `cutmix`'),
        (('mixup_switch_prob',), config.mixup > 0 and cuts, 'without `mixup` and `cutmix`'),
        (('cutmix',), config.cutmix_minmax is None, 'with `cutmix_minmax`'),
        (('lr_base_size', 'lr_base_scale'), config.lr_base is not None, 'without `lr_base`'),
        (('lr_cycle_mul', 'lr_cycle_decay'), config.lr_cycle_limit > 1, 'without `lr_cycle_limit`'),
        (('lr_noise_pct', 'lr_noise_std'), config.lr_noise is not None, 'without `lr_noise`'),
        (('fast_norm',), config.amp, 'without `amp`'),
        (_OF_TIMMS_LOADER, not in_memory, 'without `dataset`: images in memory are cropped and flipped on the device'),
        (('hflip', *_OF_TRANSFORMS), not config.no_aug, 'with `no_aug`'),
        (('remode', 'recount'), config.reprob > 0, 'without `reprob`'),
        (('color_jitter', 'color_jitter_prob'), not policy, f'with `aa` {config.aa}'),
        (('color_jitter_prob',), config.color_jitter > 0, 'with `color_jitter` 0'),
        (('grayscale_prob',), config.input_size is None or config.input_size[0] > 1, 'with images of one channel'),
        (('bce_sum', 'bce_target_thresh', 'bce_pos_weight'), config.bce_loss, 'without `bce_loss`'),
        (('bce_target_thresh',), config.mixes or config.smoothing > 0, 'without `mixup`, `cutmix` or `smoothing`'),
        (('model_ema_warmup',), config.model_ema, 'without `model_ema`'),
    )
    for names, has_it, why in needs:
        for name in names:
            if not has_it and is_set(config, name):
                raise SettingError(name, f'does nothing {why}')


def _check_ranges(config: 'TrainConfig') -> None:
    """Check pairs of numbers, of which the first is not the larger one, and the size of images that are blurred."""
    if config.gaussian_blur_prob and config.input_size and min(config.input_size[1:]) <= _BLURRED:
        raise SettingError('gaussian_blur_prob', f'needs images of more than {_BLURRED} pixels, as timm blurs so far')
    for name, may_be_one in (('scale', False), ('ratio', False), ('cutmix_minmax', False), ('lr_noise', True)):
        pair = getattr(config, name)
        if pair is None or (may_be_one and len(pair) == 1):
            continue
        if len(pair) != 2 or pair[0] > pair[1] or (pair[0] == pair[1] and name in ('cutmix_minmax', 'lr_noise')):
            raise SettingError(name, f'is {" ".join(f"{n:g}" for n in pair)}, expected a range, from lowest to highest')
