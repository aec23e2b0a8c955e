"""A study from its file to its report."""

import argparse
from pathlib import Path

import yaml

from condnet.errors import CondnetError
from condnet.studies.estimate import describe_plan
from condnet.studies.plan import plan_steps, read_study
from condnet.studies.report import write_report
from condnet.studies.runner import run_steps
from condnet.utils.files import write_file
from condnet.utils.locks import Lock


def run_study(args: argparse.Namespace) -> None:
    """Run a study, or what is left of it, and write its report.

    Raises:
        CondnetError: If the study makes no sense, the folder holds another one, or steps fail; at the end then, when
            everything else is done.
    """
    if args.jobs < 1:
        raise CondnetError(f'--jobs is {args.jobs}, expected at least 1')
    study = read_study(args.study)
    output = args.output or Path('output') / study.name
    where = [*(['--data-dir', args.data_dir] if args.data_dir else []),
             *(['--device', args.device] if args.device else [])]  # fmt: skip
    steps = plan_steps(study, output, where, args.train_flags, args.rank_flags)
    if args.dry_run:
        print(describe_plan(study, steps, args.jobs))
        return
    if args.report:
        print(write_report(study, output))
        return
    output.mkdir(parents=True, exist_ok=True)
    with Lock(output / '.lock', f'another study is running in {output}; wait for it, or choose another --output'):
        for variant in study.variants:
            (output / variant.name).mkdir(exist_ok=True)
            write_file(output / variant.name / 'recipe.yaml', yaml.safe_dump(variant.settings).encode())
        try:
            failed = run_steps(steps, output, args.jobs)
        finally:
            print(write_report(study, output))
    if failed:
        shown = '; '.join(failed[:3]) + ('; ...' if len(failed) > 3 else '')
        raise CondnetError(f'{len(failed)} of {len(steps)} steps failed or could not start: {shown}')
