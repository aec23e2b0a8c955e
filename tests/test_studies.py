import csv
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from kill_study import STUDY, processes_of, report

import condnet.data.glyphs
import condnet.studies.report
import condnet.studies.runner
from condnet import CondnetError, recipes
from condnet.cli.study import main
from condnet.cli.train import main as train_main
from condnet.cli.validate import main as validate_main
from condnet.studies.plan import Flags, plan_steps, read_study
from condnet.studies.report import spread

FAKES = (sys.executable, str(Path(__file__).with_name('fake_steps.py')))
PACKAGED = sorted(path.stem for path in (Path(recipes.__file__).parent / 'studies').glob('*.yaml'))
PAPER = {
    'paper_macro': (25, 30, 35, 38, 40, 42, 45, 47),
    'paper_nb201_full': (125, 140, 145, 150, 155, 160, 175, 200),
    'paper_nb201_no_zero': (125, 140, 145, 150, 155, 160, 175, 200),
    'paper_nb201_only_conv': (125, 140, 145, 150, 155, 160, 175, 200),
}


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A study of four trainings a seed, of stand-ins; in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(condnet.studies.runner, 'LAUNCH', FAKES)
    Path('tiny.yaml').write_text(yaml.safe_dump(STUDY))
    return 'tiny.yaml'


@pytest.fixture
def no_figures(monkeypatch):
    """Draws nothing: that takes longer than a study of stand-ins."""
    for name in ('plot_selection', 'plot_validation'):
        monkeypatch.setattr(condnet.studies.report, name, lambda panels, _: repr(panels).encode())


def rows_of(path):
    with Path(path).open(newline='') as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize('name', PACKAGED)
def test_packaged_study_is_planned_and_writes_nothing_in_a_dry_run(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([name, '--dry-run', '--jobs', '2']) == 0
    lines = capsys.readouterr().out.splitlines()
    read = read_study(name)
    each = (2 + len(read.stop_epochs) + 2 * len(read.split_epochs)) * len(read.variants)
    num, seeds = each * len(read.seeds), ', '.join(map(str, read.seeds))
    assert len(lines) == each + 3 and lines[each].startswith(f'{name}: {num} steps, {num} to do')
    assert (
        'hours: about' in lines[each + 1] and 'with --jobs 2 (' in lines[each + 1] and 'disk: about' in lines[each + 2]
    )
    assert lines[0] == f'to do  {read.variants[0].name}/trunk, seeds {seeds}'
    assert not list(tmp_path.iterdir())


def test_report_of_nothing_is_refused(tmp_path, capsys):
    assert main(['glyphs', '--output', str(tmp_path / 'out'), '--report']) == 2
    assert 'nothing of the study glyphs is finished in' in capsys.readouterr().err and not list(tmp_path.iterdir())


@pytest.mark.parametrize('name', PAPER)
def test_studies_of_the_paper_are_the_papers(name):
    read = read_study(name)
    assert read.seeds == tuple(range(10)) and read.split_epochs == PAPER[name]
    assert [v.epochs for v in read.variants] == [50 if name == 'paper_macro' else 250]
    if name == 'paper_nb201_full':
        assert read.variants[0].checkpoint_bytes == (8 * 782_938, 8 * 4_567_642)  # weights and momentum
    assert {v.space for v in read.variants} == {name[6:].replace('_', '/', 1) if 'nb201' in name else 'macro/full'}


def test_all_splits_of_a_seed_come_from_one_trunk(study, tmp_path):
    steps = {step.name: step for step in plan_steps(read_study(study), tmp_path / 'out', Flags(train=('--amp',)))}
    names = ['trunk', 'rank-baseline', 'rank-stop2', 'split1', 'rank-split1', 'split2', 'rank-split2']
    assert list(steps) == [f'nb201_glyphs/seed{seed}/{name}' for seed in (0, 1) for name in names]
    trunk, split = steps['nb201_glyphs/seed1/trunk'], steps['nb201_glyphs/seed1/split2']
    command = ' '.join(trunk.arguments())
    assert '--amp --seed 1 --split-epoch 0 ' in command and command.endswith(
        f'--keep-epochs 1 2 --resume {trunk.output}'
    )
    assert split.arguments()[-2:] == ['--resume', str(trunk.output / 'milestone-2.pth.tar')] and split.epochs == 1
    split.output.mkdir(parents=True)
    (split.output / 'last.pth.tar').touch()
    assert split.arguments()[-2:] == ['--resume', str(split.output)]


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'recipe': None}, 'lacks a recipe'),
        ({'seeds': []}, 'lacks seeds'),
        ({'seed': [1]}, "unknown setting 'seed'"),
        ({'seeds': [0, 0]}, 'expected each once'),
        ({'seeds': '0'}, 'expected a list of integers'),
        ({'split_epochs': [3]}, r'split_epochs is \[3\], expected a list of integers in 1..2'),
        ({'stop_epochs': [True]}, 'expected a list of integers in 1..2'),
        ({'train': {'lr': 'high'}}, "lr is 'high', which the setting does not take"),
        ({'train': {'learning_rate': 1}}, "unknown setting 'learning_rate'"),
        ({'train': {'split_epoch': 2}}, 'train holds split_epoch, which the study itself sets'),
        ({'train': {'model': 'nb201_net'}, 'recipe': 'nb201_full'}, 'nb201_net is not an unsplit super-network'),
        ({'train': [1]}, r'train is \[1\], expected settings by name'),
        ({'rank': {'calib_batches': 'many'}}, "calib_batches is 'many'"),
        ({'variants': 5}, 'variants holds 5, expected settings by name'),
        ({'recipe': 5}, "no recipe '5'"),
        ({'variants': {'a': {'recipe': [5]}}}, r"no recipe '\[5\]'"),
        ({'train': {'model_kwargs': 3}}, 'model_kwargs holds 3, expected settings by name'),
        ({'variants': {'a/b': {}}}, 'expected a name of letters'),
        ({'variants': {'a': {'lr': 1}}}, "variant a: unknown setting 'lr'"),
        ({'seconds_per_epoch': 0}, 'expected seconds'),
    ],
)
def test_study_that_makes_no_sense_is_refused(change, message, tmp_path):
    path = tmp_path / 'bad.yaml'
    path.write_text(yaml.safe_dump({**STUDY, **change}))
    with pytest.raises(CondnetError, match=message):
        read_study(str(path))


@pytest.mark.parametrize('text', ['- a\n- b\n', 'a: [', '12', 'a text ' * 999])
def test_file_that_is_no_study_is_refused(text, tmp_path, capsys):
    (tmp_path / 'bad.yaml').write_text(text)
    assert main([str(tmp_path / 'bad.yaml'), '--dry-run']) == 2
    error = capsys.readouterr().err
    assert error.count('\n') == 1 and len(error) < 500


def test_variants_are_layers_on_the_study(tmp_path):
    path = tmp_path / 'two.yaml'
    variants = {
        'conv': {'train': {'model_kwargs': {'space': 'only_conv'}, 'lr': 0.1}, 'rank': {'calib_augment': False}},
        'plain': None,
    }
    path.write_text(yaml.safe_dump({**STUDY, 'variants': variants}))
    conv, plain = read_study(str(path)).variants
    assert conv.settings['model_kwargs'] == {'cells_per_stage': 1, 'channels': [2, 2, 2], 'space': 'only_conv'}
    assert (conv.settings['lr'], plain.settings['lr'], conv.settings['epochs']) == (0.1, 0.05, 3)
    assert (conv.space, plain.space) == ('nb201/only_conv', 'nb201/full')
    assert conv.rank_flags == (*plain.rank_flags, '--no-calib-augment')
    assert plain.rank_flags == ('--calib-batches', '1', '--eval-images', '26', '--num-archs', '6')


@pytest.mark.slow
def test_study_reports_what_its_rankings_say_and_does_nothing_twice(study, monkeypatch, capsys):
    assert main([study, '--output', 'out', '--jobs', '2']) == 0
    runs = {(r['arm'], r['seed'], r['ranked_by']): r for r in rows_of('out/report/runs.csv')}
    assert len(runs) == 4 * 2 * 4  # arms, seeds, ways to predict
    of_file = json.loads(Path('out/nb201_glyphs/seed1/rankings/split1.json').read_text())
    assert float(runs['split1', '1', 'loss']['top5']) == of_file['loss']['top5']
    taus = {arm: [float(runs[arm, s, 'loss']['kendall_tau']) for s in '01'] for arm in ('baseline', 'split1')}
    row = next(r for r in rows_of('out/report/rankings.csv') if (r['arm'], r['ranked_by']) == ('split1', 'loss'))
    assert (row['n'], row['kendall_tau_gain_n']) == ('2', '2')
    assert float(row['kendall_tau_mean']) == pytest.approx(sum(taus['split1']) / 2)
    assert float(row['kendall_tau_std']) == pytest.approx(statistics.stdev(taus['split1']))
    gains = [a - b for a, b in zip(taus['split1'], taus['baseline'], strict=True)]
    assert float(row['kendall_tau_gain_std']) == pytest.approx(statistics.stdev(gains))
    text = Path('out/report/report.md').read_text()
    assert f'| split at 1 | 2 | {sum(taus["split1"]) / 2:.3f} ± {statistics.stdev(taus["split1"]):.3f} |' in text
    figures = {path.name for path in Path('out/report').glob('*.png')}
    assert figures == {'figure4.png', 'figure6.png', 'figure7.png'}
    used = {row['arm']: row for row in rows_of('out/report/resources.csv')}
    assert list(used) == ['baseline', 'split1', 'split2'] and used['split1']['peak_memory_mb_mean'] == '101.0'

    monkeypatch.setattr(condnet.studies.runner, 'start_step', lambda *args: pytest.fail('a finished step runs again'))
    before = report(Path('out'))
    capsys.readouterr()
    assert main([study, '--output', 'out']) == 0 and report(Path('out')) == before
    wrote = capsys.readouterr().out.splitlines()[-1].removeprefix('wrote ').split(', ')
    assert sorted(map(Path, wrote)) == sorted(Path('out/report').iterdir())
    Path(study).write_text(yaml.safe_dump({**STUDY, 'seeds': [0, 1, 2]}))
    assert main([study, '--output', 'out', '--dry-run']) == 0
    out = capsys.readouterr().out
    assert '21 steps, 7 to do: 3 trainings of 6 epochs, 4 rankings' in out
    assert out.startswith('done   nb201_glyphs/trunk, seeds 0, 1\nto do  nb201_glyphs/trunk, seed 2\n')


def test_step_that_fails_does_not_stop_the_others(study, no_figures, capsys):
    arguments = [study, '--output', 'out', '--jobs', '2']
    assert main([*arguments, '--train-flags=--fail-seed 0']) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert '7 of 14 steps failed or could not start: nb201_glyphs/seed0/trunk (the loss is nan)' in error
    assert {row['n'] for row in rows_of('out/report/rankings.csv')} == {'1'}
    assert '± ' not in Path('out/report/report.md').read_text().partition('##')[2]  # a single seed has no deviation
    assert main([*arguments, '--train-flags=--fail-seed 0', '--dry-run']) == 0
    assert '14 steps, 7 to do: 3 trainings of 6 epochs' in capsys.readouterr().out
    assert main(arguments) == 2
    assert "made with {'settings'" in (error := capsys.readouterr().err) and error.count('\n') == 1


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != 'linux', reason='elsewhere steps may outlive a killed study')
def test_killed_study_leaves_no_process_and_ends_with_the_same_files(study, no_figures):
    assert main([study, '--output', 'whole', '--jobs', '4']) == 0
    arguments = [study, '--output', 'killed', '--jobs']
    for number, jobs, awaited in (
        (signal.SIGKILL, '2', 'trunk/milestone-1.pth.tar'),  # the two trunks are all that runs
        (signal.SIGTERM, '4', 'split1/last.pth.tar'),
    ):
        process = os.fork()
        if not process:
            try:
                os.environ['HOLD_AFTER'] = awaited
                main([*arguments, jobs])
            finally:
                os._exit(1)
        wait_for(Path(f'killed/nb201_glyphs/seed0/{awaited}').exists)
        os.kill(process, number)
        os.waitpid(process, 0)
        wait_for(lambda: not processes_of(Path('killed/nb201_glyphs')))
        assert not Path('killed/nb201_glyphs/seed0/done/rank-split1.json').exists()
    assert main([*arguments, '4']) == 0
    assert report(Path('killed')) == report(Path('whole'))


def wait_for(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.slow
def test_real_trainings_and_rankings_make_a_study(tmp_path, monkeypatch):
    """Its steps are called in this process, which has torch loaded."""

    class Ended:
        def __init__(self, status):
            self.returncode = status

        def poll(self):
            return self.returncode

    def start(step, jobs):
        step.log.parent.mkdir(parents=True, exist_ok=True)
        step.log.touch()
        module, *arguments = step.arguments()
        return Ended({'condnet.cli.train': train_main, 'condnet.cli.validate': validate_main}[module](arguments))

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(condnet.studies.runner, 'start_step', start)
    monkeypatch.setattr(condnet.studies.runner, 'POLL_SECONDS', 0)
    monkeypatch.setattr(condnet.data.glyphs, 'IMAGES_PER_CLASS', {True: 30})
    train = {**STUDY['train'], 'epochs': 2, 'batch_size': 256}
    few = {'seeds': [3], 'split_epochs': [1], 'stop_epochs': [1], 'train': train}
    Path('tiny.yaml').write_text(yaml.safe_dump({**STUDY, **few}))
    assert main(['tiny.yaml']) == 0
    runs = {(r['arm'], r['ranked_by']): r for r in rows_of('output/tiny/report/runs.csv')}
    assert len(runs) == 3 * 4
    at = Path('output/tiny/nb201_glyphs/seed3')
    for arm, split, epochs in (('baseline', 0, 2), ('split1', 1, 2), ('stop1', 0, 1)):
        summary = json.loads((at / 'rankings' / f'{arm}.json').read_text())
        training = summary['training']
        assert (training['split_epoch'] or 0, training['trained_epochs'], training['seed']) == (split, epochs, 3)
        assert float(runs[arm, 'loss']['kendall_tau']) == summary['loss']['kendall_tau']
        assert summary['split'] is bool(split)
    trunk, split = rows_of(at / 'trunk/summary.csv'), rows_of(at / 'split1/summary.csv')
    assert trunk[0] == split[0] and len(split) == 2


def test_gpu_is_shared_under_mps_where_it_is_there(tmp_path, monkeypatch):
    program = tmp_path / 'nvidia-cuda-mps-control'
    program.write_text(f'#!/bin/sh\necho "$1 $CUDA_MPS_PIPE_DIRECTORY $(cat)" >> {tmp_path}/calls\n')
    program.chmod(0o755)
    monkeypatch.setenv('PATH', str(tmp_path), prepend=os.pathsep)
    monkeypatch.delenv('CUDA_MPS_PIPE_DIRECTORY', raising=False)
    with condnet.studies.runner.shared_gpu(True):
        folder = os.environ['CUDA_MPS_PIPE_DIRECTORY']
        assert Path(folder).is_dir()
        seen = subprocess.run(['sh', '-c', 'echo $CUDA_MPS_PIPE_DIRECTORY'], capture_output=True, text=True).stdout
        assert seen.strip() == folder
    assert (tmp_path / 'calls').read_text() == f'-d {folder} \n {folder} quit\n'
    assert 'CUDA_MPS_PIPE_DIRECTORY' not in os.environ and not Path(folder).exists()
    with condnet.studies.runner.shared_gpu(False):
        assert 'CUDA_MPS_PIPE_DIRECTORY' not in os.environ


def test_spread_is_of_a_sample_and_of_what_is_known():
    assert str(spread([1.0, 3.0, None])) == '2.000 ± 1.414' and spread([1.0, 3.0, None]).n == 2
    assert str(spread([-1e-9])) == '0.000'
    assert str(spread([93.0])) == '93.00' and str(spread([])) == '-'
