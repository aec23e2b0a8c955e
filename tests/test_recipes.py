"""Recipes: what a value means, and what is refused."""

import pytest
import yaml

from condnet.cli.train import parse_args
from condnet.training.config import Settled, recorded_args


def write(tmp_path, content):
    path = tmp_path / 'recipe.yaml'
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return ['-c', str(path), '--data-dir', 'x']


@pytest.mark.parametrize(
    ('content', 'key', 'value'),
    [
        ('lr: 1e-3', 'lr', 0.001),  # text, to YAML 1.1
        ('lr: "1e-3"', 'lr', 0.001),
        ('lr: 1', 'lr', 1.0),
        ('epochs: 0300', 'epochs', 300),  # octal, to YAML 1.1
        ('seed: 1_0', 'seed', 10),
        ('output: 2024-01-01', 'output', '2024-01-01'),  # a date
        ('output: 12', 'output', '12'),
        ('amp: on', 'amp', True),
        ('channels_last: no', 'channels_last', False),
        ('keep_epochs: [1, 2]', 'keep_epochs', (1, 2)),
        ('input_size: [1, 16, 16]', 'input_size', (1, 16, 16)),
        ('eval_images:', 'eval_images', None),
        ('dataset: null', 'dataset', None),
        ('model_kwargs: {channels: [8, 8, 1e1], linear_skip: false, drop: 1e-1}', 'model_kwargs',
         {'channels': [8, 8, 10.0], 'linear_skip': False, 'drop': 0.1}),
        ('model_kwargs: {arch: 0012}', 'model_kwargs', {'arch': '0012'}),
        ('model_kwargs: {arch: [3, 3, 3]}', 'model_kwargs', {'arch': '(3,3,3)'}),
        (b'\xef\xbb\xbflr: 0.01\r\nepochs: 2\r\n', 'epochs', 2),
        ('\ufefflr: 0.5'.encode('utf-16-le'), 'lr', 0.5),
        ('hardware: a CPU, 2 threads\nconfig: nb201_full\nnum_processes: 1\nlr: 0.5', 'lr', 0.5),
    ],
)  # fmt: skip
def test_a_value_means_what_the_text_means_to_the_flag(tmp_path, content, key, value):
    found = getattr(parse_args(write(tmp_path, content)), key)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        ('', 'holds nothing, expected settings'),
        ('# nothing', 'holds nothing, expected settings'),
        ('[lr, 1]', 'holds a list, expected settings'),
        ('a text ' * 999, 'a text a text a...xt a text a'),  # shortened
        ('batch-size: 64', "unknown setting 'batch-size'; did you mean 'batch_size'?"),
        ('epoch: 3', "unknown setting 'epoch'; did you mean 'epochs'?"),
        ('help: true', "unknown setting 'help'"),
        ('config: nb201_full', "unknown setting 'config'"),
        ('lr: 0.1\nlr: 0.2', "'lr' is there twice"),
        ('model_kwargs: {space: full, space: no_zero}', "'space' is there twice"),
        ('epochs: 2.0', 'epochs is 2.0, which'),
        ('epochs: 0x10', 'epochs is 0x10, which'),
        ('lr: 1:30', 'lr is 1:30, which'),
        ('lr: true', 'lr is true, which'),
        ('lr:', 'lr is empty, expected a value'),
        ('lr: [0.1]', 'lr is a list, which'),
        ('amp: "false"', "amp is 'false', which"),
        ('amp: 1', 'amp is 1, which'),
        ('keep_epochs: 2', 'keep_epochs is 2, which'),
        ('keep_epochs: [2, null]', 'keep_epochs is a list, which'),
        ('input_size: [3, 32]', 'input_size is a list, which'),
        ('decay_milestones: []', 'decay_milestones is a list, which'),
        ('model_kwargs: space=full', "model_kwargs is 'space=full', which"),
        ('model_kwargs: {linear_skip: off}', 'linear_skip is off, expected true or false'),
        ('model_kwargs: {arch: {a: 1}}', 'arch is a mapping'),
        ('model_kwargs: &a {space: *a}', 'nested too deeply'),
        ('lr: !!python/object/apply:os.getcwd []', 'lr is a list, which'),
        ('sampling: unfair', "sampling is 'unfair', expected one of uniform, fair"),
        ('lr: [', 'is not YAML'),
        ('lr: 1\n---\nlr: 2', 'is not YAML'),
        (b'lr: \xff', 'is not YAML'),
        ('{a: ' * 2000, 'is not YAML'),
        ('1: 2', "unknown setting '1'"),
        ('? [1, 2]\n: 3', 'a list is no name'),
    ],
)
def test_refused(tmp_path, content, message):
    with pytest.raises(ValueError, match='^recipe ') as caught:
        parse_args(write(tmp_path, content))
    assert message in str(caught.value) and '\n' not in str(caught.value)


def test_a_false_argument_of_a_model_is_false():
    texts = ['linear_skip=false', 'a=True', 'b=nor_conv', 'c={[]}', 'd=e=1e-1', 'arch=0012']
    found = parse_args(['--data-dir', 'x', '--model-kwargs', *texts]).model_kwargs
    assert found == {'linear_skip': False, 'a': True, 'b': 'nor_conv', 'c': '{[]}', 'd': 'e=1e-1', 'arch': '0012'}


def test_what_a_recipe_says_is_what_yaml_wrote(tmp_path):
    """All flags there are, as a training writes them."""
    more = [
        '--model-kwargs',
        'channels=(8,8,8)',
        'arch=1e3',
        '--lr',
        '1e-05',
        '--min-lr',
        '0',
        '--amp',
        '--resume',
        'no',
    ]
    args = parse_args(['--data-dir', 'x', *more])
    recorded = vars(recorded_args(args, Settled(26, (1, 16, 16), 'glyphs')))
    again = parse_args(write(tmp_path, yaml.safe_dump(recorded)))
    expected = {'recipe': str(tmp_path / 'recipe.yaml'), 'num_classes': 26, 'input_size': (1, 16, 16),
                'model_kwargs': {'channels': [8, 8, 8], 'arch': '1e3'}}  # fmt: skip
    assert vars(again) == vars(args) | expected
