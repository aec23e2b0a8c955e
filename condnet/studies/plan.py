"""Studies as they are written: a YAML file, and the steps that follow from it."""

import dataclasses
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
import yaml

from condnet.checkpoints.training import LAST
from condnet.choice import ChoiceBlock
from condnet.errors import CondnetError, show
from condnet.models import Supernet
from condnet.plugins import import_modules
from condnet.ranking.config import RankConfig
from condnet.recipes import IMPORT, find_study, parse_settings, read_recipe
from condnet.studies.runner import Step
from condnet.training.config import TrainConfig
from condnet.utils.settings import SettingError

_KEYS = ('recipe', 'seeds', 'split_epochs', 'stop_epochs', 'train', 'rank', 'variants', 'seconds_per_epoch',
         'seconds_per_ranking')  # fmt: skip
_VARIANT_KEYS = ('recipe', 'train', 'rank')
_OWN_SETTINGS = ('config', 'seed', 'split_epoch', 'stop_epoch', 'keep_epochs', 'output', 'resume', 'checkpoint',
                 'archs', 'results_file')  # fmt: skip


@dataclass(frozen=True)
class Variant:
    """One of the super-networks that a study compares.

    Args:
        name: Its name, also of its folder.
        settings: Settings of its trainings, by the names that recipes use.
        rank_flags: Flags of its rankings.
        epochs: Epochs of its schedule.
        space: Search space, such as `nb201/full`.
        checkpoint_bytes: About how large its checkpoints are before the split and after it.
    """

    name: str
    settings: dict[str, Any]
    rank_flags: tuple[str, ...]
    epochs: int
    space: str
    checkpoint_bytes: tuple[int, int]


@dataclass(frozen=True)
class Study:
    """What a study is made of, see the module.

    Args:
        name: Its name.
        variants: At least one.
        seeds: Of the trainings.
        split_epochs: After how many epochs a super-network is split, one for each.
        stop_epochs: After how many epochs the trunk is ranked as well, as if its training had ended there.
        seconds_per_epoch: Roughly, of a training; None if unknown.
        seconds_per_ranking: Roughly; None if unknown.
    """

    name: str
    variants: tuple[Variant, ...]
    seeds: tuple[int, ...]
    split_epochs: tuple[int, ...]
    stop_epochs: tuple[int, ...]
    seconds_per_epoch: float | None
    seconds_per_ranking: float | None

    @property
    def arms(self) -> list[str]:
        """What is compared, by name: `baseline`, `split150`, ..., `stop150`, ..."""
        splits, stops = (f'split{epoch}' for epoch in self.split_epochs), (f'stop{epoch}' for epoch in self.stop_epochs)
        return ['baseline', *splits, *stops]


def read_study(name: str) -> Study:
    """Read a study, by path or by the name of a packaged one, and check it.

    Raises:
        CondnetError: If it is no study, or makes no sense.
    """
    path = find_study(name)
    source = f'study {path.stem}'
    try:
        content = yaml.safe_load(path.read_text(encoding='utf-8'))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise CondnetError(f'{source} is not YAML: {" ".join(str(error).split())}') from error
    _check_keys(source, content, _KEYS)
    if not content.get('recipe') or not content.get('seeds'):
        raise CondnetError(f'{source} lacks {"seeds" if content.get("recipe") else "a recipe"}')
    given = content.get('variants') or {str(content['recipe']): {}}
    _check_keys(f'{source}, variants', given)
    variants = tuple(_read_variant(source, str(name), variant or {}, content) for name, variant in given.items())
    last = min(variant.epochs for variant in variants) - 1
    return Study(
        path.stem,
        variants,
        _numbers(source, content, 'seeds', 0, 2**31 - 1),
        _numbers(source, content, 'split_epochs', 1, last),
        _numbers(source, content, 'stop_epochs', 1, last),
        _seconds(source, content, 'seconds_per_epoch'),
        _seconds(source, content, 'seconds_per_ranking'),
    )


def _check_keys(source: str, content: Any, known: tuple[str, ...] | None = None) -> None:
    """Check that content is a mapping, of known names if they are given."""
    if not isinstance(content, dict):
        raise CondnetError(f'{source} holds {show(content)}, expected settings by name')
    for key in content:
        if known is not None and key not in known:
            raise CondnetError(f'{source}: unknown setting {key!r}, expected some of {", ".join(known)}')


def _numbers(source: str, content: dict[str, Any], key: str, low: int, high: int) -> tuple[int, ...]:
    values = content.get(key) or []
    if not isinstance(values, list) or not all(type(value) is int and low <= value <= high for value in values):
        raise CondnetError(f'{source}: {key} is {values!r}, expected a list of integers in {low}..{high}')
    if len(set(values)) != len(values):
        raise CondnetError(f'{source}: {key} is {values!r}, expected each once')
    return tuple(sorted(values))


def _seconds(source: str, content: dict[str, Any], key: str) -> float | None:
    value = content.get(key)
    if value is not None and (type(value) not in (int, float) or not value > 0):
        raise CondnetError(f'{source}: {key} is {value!r}, expected seconds')
    return value


def _read_variant(source: str, name: str, content: dict[str, Any], study: dict[str, Any]) -> Variant:
    where = f'{source}, variant {name}'
    _check_keys(where, content, _VARIANT_KEYS)
    if not re.fullmatch(r'\w[\w.-]*', name):
        raise CondnetError(f'{where}: expected a name of letters, digits, points, hyphens and underscores')
    settings: dict[str, Any] = {}
    recipe = str(content.get('recipe') or study['recipe'])
    for layer in (read_recipe(recipe, TrainConfig), _settings(where, study, 'train'),
                  _settings(where, content, 'train')):  # fmt: skip
        _check_keys(f'{where}, model_kwargs', kwargs := layer.get('model_kwargs') or {})
        settings |= layer | {'model_kwargs': settings.get('model_kwargs', {}) | kwargs}
    for key in ('split_epoch', 'keep_epochs', 'stop_epoch', 'seed'):
        settings.pop(key, None)  # of the recipe; the study has its own
    settings = parse_settings(where, settings, TrainConfig)
    if names := settings.get(IMPORT):
        import_modules(names.split(','))
    try:
        config = TrainConfig(**{name: value for name, value in settings.items() if name != IMPORT})
    except SettingError as error:
        raise CondnetError(f'{where}: {error}') from error
    space, sizes = _describe_model(where, config)
    rank = {**_settings(where, study, 'rank'), **_settings(where, content, 'rank')}
    return Variant(name, settings, tuple(_flags(where, rank)), config.epochs, space, sizes)


def _settings(source: str, content: dict[str, Any], key: str) -> dict[str, Any]:
    """The settings of trainings (`train`) or rankings (`rank`) in a study or variant."""
    settings = content.get(key) or {}
    if not isinstance(settings, dict):
        raise CondnetError(f'{source}: {key} is {settings!r}, expected settings by name')
    for name in settings:
        if name in _OWN_SETTINGS:
            raise CondnetError(f'{source}: {key} holds {name}, which the study itself sets')
    if type(settings.get('num_archs')) is int:
        settings = {**settings, 'num_archs': str(settings['num_archs'])}  # it may also be 'all'
    return settings


def _flags(source: str, settings: dict[str, Any]) -> Iterator[str]:
    """Settings of a ranking as flags."""
    is_on = {field.name: field.default is True for field in dataclasses.fields(RankConfig)}  # by default
    for key, value in parse_settings(source, settings, RankConfig).items():
        flag = key.replace('_', '-')
        if isinstance(value, bool):
            yield from (f'--{flag}',) if value else (f'--no-{flag}',) if is_on[key] else ()
        else:
            yield from (f'--{flag}', *map(str, value if isinstance(value, list) else [value]))


def _describe_model(source: str, config: TrainConfig) -> tuple[str, tuple[int, int]]:
    """The search space of a model, and about how large its checkpoints are before the split and after it."""
    try:
        with torch.device('meta'):  # only its shapes matter
            model = timm.create_model(config.model, **config.model_kwargs)
    except (RuntimeError, TypeError) as error:
        raise CondnetError(f'{source}: cannot build the model {config.model!r}: {error}') from error
    if not isinstance(model, Supernet) or model.is_split:
        raise CondnetError(f'{source}: {config.model} is not an unsplit super-network')
    numbers_per_weight = 2 + config.model_ema + ('adam' in config.opt)  # weights, momentum
    unsplit = sum(p.numel() for p in model.parameters())
    added = sum(
        (model.space.num_contexts(block.decision) - 1) * sum(p.numel() for p in block.parameters())
        for block in model.modules()
        if isinstance(block, ChoiceBlock)
    )
    return str(model.space), (4 * numbers_per_weight * unsplit, 4 * numbers_per_weight * (unsplit + added))


@dataclass(frozen=True)
class Flags:
    """Flags of the steps of a study beside its own.

    Args:
        where: Of data and device, which may change when a study goes on.
        train: Of all trainings.
        rank: Of all rankings.
    """

    where: tuple[str, ...] = ()
    train: tuple[str, ...] = ()
    rank: tuple[str, ...] = ()


def plan_steps(study: Study, output: Path, flags: Flags) -> list[Step]:
    """All steps of a study, seed by seed, so that what is finished can be compared.

    Args:
        study: The study.
        output: Its folder.
        flags: Those beside its own.
    """
    return [
        step
        for seed in study.seeds
        for variant in study.variants
        for step in _plan_seed(study, variant, seed, output, flags)
    ]


def _plan_seed(study: Study, variant: Variant, seed: int, output: Path, flags: Flags) -> Iterator[Step]:
    folder = output / variant.name / f'seed{seed}'
    trunk = folder / 'trunk'

    def training(name: str, split_epoch: int, *more: str) -> Step:
        command = ('condnet.cli.train', '-c', str(output / variant.name / 'recipe.yaml'), *flags.where, *flags.train,
                   '--seed', str(seed), '--split-epoch', str(split_epoch), '--output', str(folder / name),
                   *more)  # fmt: skip
        identity = {'settings': variant.settings, 'flags': list(flags.train)}
        start = trunk / f'milestone-{split_epoch}.pth.tar' if split_epoch else None
        return Step(f'{variant.name}/seed{seed}/{name}', 'train', command, folder, name, identity, start,
                    variant.epochs - split_epoch, folder / name)  # fmt: skip

    def ranking(arm: str, checkpoint: Path, after: str | None) -> Step:
        own = [*variant.rank_flags, *flags.rank]
        command = ('condnet.cli.validate', '--checkpoint', str(checkpoint), '--results-file',
                   str(folder / 'rankings' / f'{arm}.csv'), *flags.where, *own)  # fmt: skip
        return Step(f'{variant.name}/seed{seed}/rank-{arm}', 'rank', command, folder, f'rank-{arm}', {'flags': own},
                    checkpoint, after=after)  # fmt: skip

    milestones = sorted({*study.split_epochs, *study.stop_epochs})
    first = training('trunk', 0, '--keep-epochs', *map(str, milestones))
    yield first
    yield ranking('baseline', trunk / LAST, first.name)
    for epoch in study.stop_epochs:
        yield ranking(f'stop{epoch}', trunk / f'milestone-{epoch}.pth.tar', None)
    for epoch in study.split_epochs:
        step = training(f'split{epoch}', epoch, '--keep-epochs')
        yield step
        yield ranking(f'split{epoch}', folder / f'split{epoch}' / LAST, step.name)
