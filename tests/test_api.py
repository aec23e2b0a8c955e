"""Ranking and searching from Python: the numbers of the commands, and nothing printed or written unasked."""

import builtins
import json

import numpy as np
import pytest
import timm
import torch

import condnet
from condnet.cli.search import main as search_main
from condnet.cli.validate import main as validate_main
from condnet.data.glyphs import render_glyphs

NAME = 'nb201_cond_supernet.cond_glyphs'
TINY = {'calib_batches': 1, 'eval_images': 52}
FLAGS = ['--calib-batches', '1', '--eval-images', '52']


@pytest.fixture(autouse=True)
def nothing_unasked(tmp_path, monkeypatch, capsys):
    """What a test does not ask for must not be there at its end."""
    (tmp_path / 'cwd').mkdir()
    monkeypatch.chdir(tmp_path / 'cwd')
    yield
    printed = capsys.readouterr()
    assert printed.out == printed.err == ''
    assert list((tmp_path / 'cwd').iterdir()) == []


@pytest.fixture(scope='module')
def ranking():
    return condnet.rank(NAME, archs=6, **TINY)


def test_ranking_is_that_of_the_command(ranking, tmp_path, capsys):
    file = tmp_path / 'command' / 'ranking.csv'
    assert validate_main(['--checkpoint', NAME, '--num-archs', '6', *FLAGS, '--results-file', str(file)]) == 0
    names = ('ranking.csv', 'ranking.json', 'ranking_best.csv', 'ranking.png')
    files = ', '.join(str(file.with_name(name)) for name in names)
    assert capsys.readouterr().out == f'{ranking}\nwrote {files}\n'
    assert sorted(path.name for path in file.parent.iterdir()) == sorted(names)
    ranking.to_csv(tmp_path / 'ranking.csv')
    assert (tmp_path / 'ranking.csv').read_bytes() == file.read_bytes()
    assert ranking.summary == json.loads(file.with_suffix('.json').read_text())
    ranking.plot(tmp_path / 'ranking.png')
    assert (tmp_path / 'ranking.png').read_bytes() == file.with_suffix('.png').read_bytes()
    assert ranking.metrics() == {key: ranking.summary[key] for key in ranking.metrics()}
    assert len(ranking) == 6 and [p.index for p in ranking] == sorted(p.index for p in ranking)
    assert ranking.best(2) == sorted(ranking, key=lambda p: (-p.accuracy, p.loss))[:2]
    assert ranking.best(6, 'loss') == sorted(ranking, key=lambda p: p.loss)
    with pytest.raises(condnet.CondnetError, match='num is -1, expected at least 0'):
        ranking.best(-1)
    with pytest.raises(IsADirectoryError, match='cannot write: Is a directory'):
        ranking.plot(tmp_path / 'command')
    assert sorted(path.name for path in tmp_path.iterdir()) == ['command', 'cwd', 'ranking.csv', 'ranking.png']


def test_ranking_of_one_tuple_is_of_one_architecture():
    arch = (3, 3, 1, 3, 3, 3)
    (prediction,) = condnet.rank(NAME, arch, **TINY)
    assert prediction.index == condnet.get_space('nb201').index(arch)
    assert [p.index for p in condnet.rank(NAME, list(arch), benchmark=False, **TINY)] == [1, 3]


def test_ranking_made_by_hand_is_shown(ranking):
    predictions = list(ranking)
    alone = condnet.Ranking(predictions, ranking.space, None)
    assert str(alone).splitlines()[0] == 'super-network (nb201/full), 6 architectures, no ground truth'
    compared = condnet.Ranking(predictions, ranking.space, ranking.table)
    shown, expected = str(compared).splitlines(), str(ranking).splitlines()
    assert shown[0].startswith('super-network (nb201/full), 6 architectures, true accuracy: mean ')
    assert shown[1:5] == expected[1:5] and expected[0].startswith('nb201_cond_supernet (nb201/full, split), 6 arch')
    assert compared.plot().get_suptitle() == '6 architectures'


def test_what_is_imported_late_is_listed():
    assert {'search', 'SearchResult', 'rank', '__version__'} <= set(dir(condnet))


@pytest.mark.slow
def test_model_and_data_may_be_given_themselves(ranking):
    """And the model is left as it is, on whatever it was active."""
    model = timm.create_model(NAME, pretrained=True)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    archs = [p.index for p in ranking]
    for data in (None, 'glyphs', render_glyphs()):
        assert condnet.rank(model, archs, data, **TINY).predictions == ranking.predictions
    prepared = condnet.EvaluationData(torch.zeros(4, 1, 16, 16), torch.zeros(4, 1, 16, 16), torch.arange(4))
    ranked = condnet.rank(model, [0, (3,) * 6], prepared, benchmark=False)
    assert len(ranked) == 2 and ranked.summary['eval_images'] == 4 and 'accuracy' not in ranked.summary
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    config = condnet.EvalConfig(calib_batches=1, eval_images=26)
    assert condnet.rank(model, 3, config=config, eval_images=52, seed=1).settings['eval_images'] == 52


@pytest.mark.parametrize(
    ('archs', 'indices'),
    [
        (np.int64(2), None),  # so many, as any integer
        (np.array([5, 3]), [3, 5]),
        (torch.tensor([5]), [5]),
        (torch.tensor([[3] * 6, [2] * 6]), [1462, 4317]),
        ('|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|nor_conv_3x3~0|nor_conv_3x3~1|nor_conv_3x3~2|', [1462]),
    ],
)
def test_architectures_as_numpy_and_torch_have_them(archs, indices, monkeypatch):
    monkeypatch.setattr('condnet.ranking.run.predict', lambda _, archs, __: [
        condnet.Prediction(condnet.get_space('nb201').index(arch), 50.0, 1.0) for arch in archs])  # fmt: skip
    data = condnet.EvaluationData(torch.zeros(2, 1, 16, 16), torch.zeros(2, 1, 16, 16), torch.arange(2))
    found = [p.index for p in condnet.rank(timm.create_model(NAME), archs, data, benchmark=False)]
    assert len(found) == 2 if indices is None else found == indices


def test_results_only_where_they_are_asked_for(ranking, tmp_path, monkeypatch):
    monkeypatch.setattr('condnet.ranking.ranking.Ranking.plot', lambda ranking: None)  # drawn above
    monkeypatch.setattr('condnet.ranking.ranking.to_png', lambda figure: b'plot')
    file = tmp_path / 'asked' / 'ranking.csv'
    condnet.rank(NAME, [p.index for p in ranking], results_file=file, **TINY)
    assert sorted(path.name for path in file.parent.iterdir()) == [
        'ranking.csv', 'ranking.json', 'ranking.png', 'ranking_best.csv'
    ]  # fmt: skip


def test_data_frame(ranking, monkeypatch):
    pandas = pytest.importorskip('pandas')
    frame = ranking.to_frame()
    assert isinstance(frame, pandas.DataFrame) and len(frame) == 6
    assert list(frame.columns) == ['index', 'arch', 'accuracy', 'loss', 'truth', 'params', 'flops']
    assert frame['arch'][0] == condnet.get_space('nb201').format(int(frame['index'][0]))


def test_without_pandas(ranking, monkeypatch):
    original = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name == 'pandas':
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, '__import__', refuse)
    with pytest.raises(condnet.CondnetError, match=r'^a data frame needs pandas: pip install pandas$'):
        ranking.to_frame()


def test_search_is_that_of_the_command(tmp_path, capsys):
    result = condnet.search(NAME, num_evals=4, objectives=('loss', 'flops'), max_flops=2e6, **TINY)
    call = [NAME, *FLAGS, '--num-evals', '4', '--objectives', 'loss,flops', '--max-flops', '2e6', '--output']
    assert search_main([*call, str(tmp_path / 'command')]) == 0
    printed = capsys.readouterr().out.splitlines()
    *printed, wrote = printed
    assert [line for line in printed if not line.startswith('  exported network')] == str(result).splitlines()
    assert any(line.endswith('(import condnet before timm loads it as local-dir:.../network)') for line in printed)
    names = ('architectures.csv', 'front.png', 'network', 'search.json', 'study.journal')
    assert wrote == 'wrote ' + ', '.join(str(tmp_path / 'command' / name) for name in names)
    result.to_csv(tmp_path / 'architectures.csv')
    assert (tmp_path / 'architectures.csv').read_bytes() == (tmp_path / 'command/architectures.csv').read_bytes()
    exported = result.export(tmp_path / 'net')
    assert result.summary == json.loads((tmp_path / 'command/search.json').read_text()) | {
        'network': exported,
    }
    assert exported['folder'] == 'net' and exported['loss'] == pytest.approx(result.best.prediction.loss, rel=1e-4)
    assert result.best == result.candidates[0] and {c.arch for c in result.front} == result.front_archs
    net = timm.create_model(f'local-dir:{tmp_path / "net"}', pretrained=True)
    assert net(torch.zeros(1, 1, 16, 16)).shape == (1, 26)
    result.plot(tmp_path / 'front.png')
    plot = (tmp_path / 'front.png').read_bytes()
    assert plot.startswith(b'\x89PNG') and plot == (tmp_path / 'command/front.png').read_bytes()


@pytest.mark.parametrize(
    ('call', 'error'),
    [
        (lambda: condnet.rank(NAME, epochs=3), "unknown setting 'epochs'; expected some of use_ema, "),
        (lambda: condnet.search(NAME, num_eval=3), "unknown setting 'num_eval'; did you mean 'num_evals'?"),
        (lambda: condnet.TrainConfig.from_recipe('nb201_glyphs', epoch=3), "unknown setting 'epoch'; did you mean 'ep"),
        (lambda: condnet.rank(NAME, calib_batches=0), 'calib_batches is 0, expected at least 1'),
        (lambda: condnet.rank(NAME, config=3), 'config is 3, expected RankConfig'),
        (lambda: condnet.rank(NAME, results_file='x.txt'), "results_file is 'x.txt', expected the name of a file"),
        (lambda: condnet.rank(torch.nn.Linear(1, 1)), 'got a Linear, expected a super-network'),
        (lambda: condnet.rank(timm.create_model(NAME), [1], '/nowhere'), '/nowhere is not a directory'),
        (lambda: condnet.rank(timm.create_model(NAME), []), "`archs` is [], expected a number, 'all', or at least one"),
        (lambda: condnet.rank(timm.create_model(NAME), True), '`archs` is True, expected a number'),
        (lambda: condnet.rank(NAME, [1, 2], benchmark=False, **TINY).metrics(), 'there is no ground truth'),
        (lambda: condnet.search(NAME, objectives='beauty'), "unknown objective 'beauty'; expected some of accuracy"),
        (lambda: condnet.search(NAME, latency_device='phone'), 'latency_table is of no use without'),
    ],
)
def test_errors_are_one_line(call, error):
    with pytest.raises(condnet.CondnetError) as caught:
        call()
    assert str(caught.value).startswith(error) and '\n' not in str(caught.value)
