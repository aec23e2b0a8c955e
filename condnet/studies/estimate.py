"""What a study is going to take: steps, hours, disk."""

from typing import TYPE_CHECKING

from condnet.studies.runner import Step

if TYPE_CHECKING:
    from condnet.studies.plan import Study


def describe_plan(study: 'Study', steps: list[Step], jobs: int) -> str:
    """Every step with its state, the seeds in one line; hours and disk in all (dry run)."""
    lines = _describe_steps(steps)
    open_steps = [step for step in steps if not step.is_done()]
    trainings = [step for step in open_steps if step.kind == 'train']
    epochs = sum(step.epochs_left() for step in trainings)
    rankings = len(open_steps) - len(trainings)
    lines.append(f'{study.name}: {len(steps)} steps, {len(open_steps)} to do: {len(trainings)} trainings of {epochs} '
                 f'epochs, {rankings} rankings')  # fmt: skip
    per_epoch = _mean([seconds for step in steps for seconds in step.seconds_per_epoch()])
    per_ranking = _mean([seconds for step in steps if step.kind == 'rank' for seconds in step.seconds()])
    where = [('measured' if measured else 'the study says') for measured in (per_epoch, per_ranking)]
    per_epoch, per_ranking = per_epoch or study.seconds_per_epoch, per_ranking or study.seconds_per_ranking
    if None in (per_epoch, per_ranking):
        lines.append('hours: unknown, the study names no seconds_per_epoch and seconds_per_ranking')
    else:
        hours = (epochs * per_epoch + rankings * per_ranking) / 3600  # type: ignore[operator]
        beside = f', at best {hours / jobs:.3g} with `jobs` {jobs}' if jobs > 1 else ''
        lines.append(f'hours: about {hours:.3g} one after another{beside} ({per_epoch:.3g} s an epoch, {where[0]}; '
                     f'{per_ranking:.3g} s a ranking, {where[1]})')  # fmt: skip
    lines.append(f'disk: about {_disk_bytes(study) / 1e9:.2g} GB')
    return '\n'.join(lines)


def _describe_steps(steps: list[Step]) -> list[str]:
    seeds: dict[tuple[str, str], list[str]] = {}
    for step in steps:
        variant, seed, name = step.name.split('/')
        state = 'done' if step.is_done() else 'to do'
        seeds.setdefault((f'{variant}/{name}', state), []).append(seed.removeprefix('seed'))
    order = {name: None for name, _ in seeds}  # what is done and what is to do of a step stand together
    return [
        f'{state:<6} {name}, {"seeds" if len(found) > 1 else "seed"} {", ".join(found)}'
        for name in order
        for state in ('done', 'to do')
        if (found := seeds.get((name, state)))
    ]


def _disk_bytes(study: 'Study') -> int:
    """Checkpoints: of a trunk its milestones and the last two, of a split one the last two."""
    milestones, total = len({*study.split_epochs, *study.stop_epochs}), 0
    for variant in study.variants:
        unsplit, split = variant.checkpoint_bytes
        total += len(study.seeds) * ((milestones + 2) * unsplit + len(study.split_epochs) * 2 * split)
    return total


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None
