"""Kill a study again and again, continue it each time, and compare its report with that of one that was left alone.

`python tests/kill_study.py --kills 10` does it with stand-ins of the commands, see `fake_steps.py`, and with `--real`
with trainings and rankings of a tiny super-network on the letters. After every kill no process of it may be left.
"""

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

import yaml

import condnet.studies.runner
from condnet.cli.study import main as study_main

STUDY = {
    'recipe': 'nb201_glyphs',
    'seeds': [0, 1],
    'split_epochs': [1, 2],
    'stop_epochs': [2],
    'train': {'model_kwargs': {'channels': [2, 2, 2]}, 'batch_size': 512, 'epochs': 3, 'eval_interval': 1,
              'eval_archs': 1, 'eval_batches': 1, 'eval_images': 26},
    'rank': {'num_archs': 6, 'calib_batches': 1, 'eval_images': 26},
}  # fmt: skip
MEASURED = ('resources.csv', 'resources.md')
FAKES = (sys.executable, str(Path(__file__).with_name('fake_steps.py')))


def report(output: Path) -> dict[str, bytes]:
    """Files of a report, except those of what was measured, and the predictions that it is of."""
    files = [*(output / 'report').iterdir(), *output.glob('*/seed*/rankings/*.csv')]
    return {str(path.relative_to(output)): path.read_bytes() for path in files if path.name not in MEASURED}


def processes_of(output: Path) -> list[str]:
    """Commands of living processes that name a folder."""
    found = []
    for path in Path('/proc').glob('[0-9]*/cmdline'):
        try:
            text = path.read_bytes()
        except OSError:  # it has just ended
            continue
        if str(output).encode() in text and int(path.parent.name) != os.getpid():
            found.append(text.replace(b'\0', b' ').decode())
    return found


def run(arguments: list[str], log: Path, seconds: float | None = None, number: int = signal.SIGKILL) -> int | None:
    """Fork a study and let it come to its end, or to a signal after some seconds; its status, None if it was killed."""
    process = os.fork()
    if not process:
        status = 1
        try:  # nothing of the parent may run on in the child
            sys.stdout = sys.stderr = log.open('a', buffering=1)
            status = study_main(arguments)
        finally:
            os._exit(status)
    deadline = None if seconds is None else time.monotonic() + seconds
    while deadline is not None and time.monotonic() < deadline:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    if deadline is not None:
        os.kill(process, number)
    status = os.waitpid(process, 0)[1]
    return os.waitstatus_to_exitcode(status) if deadline is None else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--kills', type=int, default=10)
    parser.add_argument('--seed', type=int, default=0, help='seed of the moments')
    parser.add_argument('--real', action='store_true', help='train and rank')
    args = parser.parse_args()
    moments = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        study, log = work / 'tiny.yaml', work / 'log'
        study.write_text(yaml.safe_dump(STUDY))
        flags = [str(study), '--jobs', '2']
        if not args.real:
            condnet.studies.runner.LAUNCH = FAKES
            flags += ['--train-flags=--pause 0.1', '--rank-flags=--pause 0.1']
        started = time.monotonic()
        if status := run([*flags, '--output', str(work / 'whole')], log):
            sys.exit(f'status {status}\n{log.read_text()}')
        duration, expected, kills, rounds = time.monotonic() - started, report(work / 'whole'), 0, 0
        print(f'left alone: {duration:.1f} s, {len(expected)} files', flush=True)
        while kills < args.kills:
            output, before, rounds = work / f'killed{rounds}', kills, rounds + 1
            while True:
                seconds = moments.uniform(0.05, 0.8) * duration if kills < args.kills else None
                number = moments.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGTERM))
                status = run([*flags, '--output', str(output)], log, seconds, number)
                kills += status is None
                time.sleep(0.2)
                if left := processes_of(output):
                    sys.exit(f'still running: {left}')
                if status is not None:
                    break
            if status or report(output) != expected:
                sys.exit(f'status {status}, other files after {kills - before} kills\n{log.read_text()}')
            print(f'{kills - before} kills: the same {len(expected)} files', flush=True)
    print(f'{kills} kills, every end identical; {time.monotonic() - started:.0f} s')


if __name__ == '__main__':
    main()
