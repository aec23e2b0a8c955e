"""Settings as dataclasses, and the flags that are made from them."""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from condnet import CondnetError
from condnet.cli.flags import add_flags, config_from
from condnet.utils.settings import Kind, SettingError, check_settings, kinds_of, setting


@dataclass(frozen=True)
class Config:
    """A setting of each kind."""

    name: str = setting('a', 'its name', choices=('a', 'b'))
    epochs: int = setting(3, 'how long', least=1)
    rate: float = setting(0.5, least=0, below=1)
    most: int | None = setting(None, least=1)
    amp: bool = setting(False, group='model')
    channels_last: bool = setting(True, group='model')
    size: tuple[int, int, int] | None = setting(None, least=1)
    keep: tuple[int, ...] = setting((), least=1)
    weights: tuple[float, ...] | None = setting(None)
    kwargs: dict[str, object] = setting({})
    folder: str | None = setting(None)

    def __post_init__(self) -> None:
        check_settings(self)


def parse(*arguments: str) -> Config:
    parser = argparse.ArgumentParser()
    add_flags(parser, Config, omit=('folder',))
    return config_from(parser.parse_args(arguments), Config, folder=Path('x'))


def test_flags_make_the_settings():
    assert parse() == Config(folder='x')
    assert parse('--name', 'b', '--epochs', '7', '--rate', '0', '--most', '2', '--amp', '--no-channels-last', '--size',
                 '1', '2', '3', '--keep', '4', '5', '--weights', '1', '0.5', '--kwargs', 'a=1', 'arch=12') == Config(
        'b', 7, 0.0, 2, True, False, (1, 2, 3), (4, 5), (1.0, 0.5), {'a': 1, 'arch': '12'}, 'x')  # fmt: skip


def test_numbers_of_numpy_become_pythons():
    """Neither YAML nor a checkpoint takes NumPy's, as a sweep makes them."""
    config = Config(epochs=np.int64(2), rate=np.float64(0.25), amp=np.True_, size=[1, 2, 3])
    assert config == Config(epochs=2, rate=0.25, amp=True, size=(1, 2, 3))
    assert [type(value) for value in (config.epochs, config.rate, config.amp)] == [int, float, bool]
    assert type(Config(weights=list(np.ones(2))).weights[0]) is float


def test_kinds():
    kinds = kinds_of(Config)
    assert kinds['size'] == Kind(int, True, 3) and kinds['keep'] == Kind(int, False, -1)
    assert kinds['kwargs'] == Kind(dict) and kinds['most'] == Kind(int, True)


def test_mappings_are_not_shared():
    Config().kwargs['a'] = 1
    assert Config().kwargs == {}


@pytest.mark.parametrize(
    ('settings', 'error'),
    [
        ({'name': 'c'}, "name is 'c', expected one of a, b"),
        ({'name': 3}, 'name is 3, expected text'),
        ({'epochs': 0}, 'epochs is 0, expected at least 1'),
        ({'epochs': 2**63}, 'epochs is 9223372036854775808, expected at least 1 and less than 9.22337e+18'),
        ({'epochs': True}, 'epochs is True, expected a whole number'),
        ({'epochs': 1.5}, 'epochs is 1.5, expected a whole number'),
        ({'rate': 1}, 'rate is 1.0, expected at least 0 and less than 1'),
        ({'rate': float('nan')}, 'rate is nan, expected at least 0'),
        ({'amp': 1}, 'amp is 1, expected true or false'),
        ({'size': (1, 2)}, 'size is (1, 2), expected 3 values'),
        ({'keep': 5}, 'keep is 5, expected a list'),
        ({'keep': [1, 0]}, 'keep is 0, expected at least 1'),
        ({'weights': '12'}, "weights is '12', expected a list"),
        ({'kwargs': [1]}, 'kwargs is [1], expected a mapping from names'),
        ({'epochs': None}, 'epochs is None, expected a whole number'),
    ],
)
def test_bad_settings(settings, error):
    with pytest.raises(SettingError) as caught:
        Config(**settings)
    assert str(caught.value).startswith(error)


def test_errors_name_the_flag():
    with pytest.raises(CondnetError, match=r'^--epochs is 0, expected at least 1$'):
        parse('--epochs', '0')


def test_help_is_grouped(capsys):
    with pytest.raises(SystemExit):
        parse('--help')
    printed = capsys.readouterr().out
    assert 'its name' in printed and printed.index('model:') < printed.rindex('--amp') and '--folder' not in printed
