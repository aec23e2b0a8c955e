"""A study from its file to its report."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import yaml

from condnet.errors import CondnetError
from condnet.studies.estimate import describe_plan
from condnet.studies.plan import Flags, Study, plan_steps, read_study
from condnet.studies.report import write_report
from condnet.studies.runner import Step, run_steps
from condnet.utils.files import write_file
from condnet.utils.locks import Lock
from condnet.utils.settings import check_settings, setting


@dataclass(frozen=True)
class StudyConfig:
    """Which study is run, where, and with which flags beside its own.

    Raises:
        SettingError: If a value makes no sense.
    """

    study: str  # its name, or a YAML file
    output: str | None = setting(None, 'its folder; the same one to go on (default: output/STUDY)')
    data_dir: str | None = setting(None, 'directory with the data set; glyphs needs none')
    device: str | None = setting(None, 'device of all trainings and rankings')
    jobs: int = setting(1, 'steps side by side; on a GPU under MPS where it is there', least=1)
    train_flags: tuple[str, ...] = setting((), 'more flags of all trainings')
    rank_flags: tuple[str, ...] = setting((), 'more flags of all rankings')

    def __post_init__(self) -> None:
        check_settings(self)


def plan_study(config: StudyConfig) -> tuple[Study, Path, list[Step]]:
    """A study, its folder and its steps.

    Raises:
        CondnetError: If it makes no sense.
    """
    study = read_study(config.study)
    output = Path(config.output or Path('output') / study.name)
    where = {'--data-dir': config.data_dir, '--device': config.device}
    flags = Flags(
        tuple(word for flag, value in where.items() if value for word in (flag, value)),
        config.train_flags,
        config.rank_flags,
    )
    return study, output, plan_steps(study, output, flags)


def describe_study(config: StudyConfig) -> str:
    """Steps, hours and disk of a study.

    Raises:
        CondnetError: If it makes no sense.
    """
    study, _, steps = plan_study(config)
    return describe_plan(study, steps, config.jobs)


def report_study(config: StudyConfig) -> str:
    """Write the report of what is finished.

    Returns:
        Its tables, as text.

    Raises:
        CondnetError: If the study makes no sense, or nothing is finished.
    """
    study, output, steps = plan_study(config)
    if not any(step.is_done() for step in steps):
        raise CondnetError(f'nothing of the study {study.name} is finished in {output}')
    return write_report(study, output)


def run_study(config: StudyConfig, tell: Callable[[str], object] = lambda report: None) -> None:
    """Run a study, or what is left of it, and write its report.

    Args:
        config: What is run, and where.
        tell: Is called with the report, also when steps have failed.

    Raises:
        CondnetError: If the study makes no sense, the folder holds another one, or steps fail; at the end then, when
            everything else is done.
    """
    study, output, steps = plan_study(config)
    output.mkdir(parents=True, exist_ok=True)
    with Lock(output / '.lock', f'another study is running in {output}; wait for it, or choose another `output`'):
        for variant in study.variants:
            (output / variant.name).mkdir(exist_ok=True)
            write_file(output / variant.name / 'recipe.yaml', yaml.safe_dump(variant.settings).encode())
        try:
            failed = run_steps(steps, output, config.jobs)
        finally:
            tell(write_report(study, output))
    if failed:
        shown = '; '.join(failed[:3]) + ('; ...' if len(failed) > 3 else '')
        raise CondnetError(f'{len(failed)} of {len(steps)} steps failed or could not start: {shown}')
