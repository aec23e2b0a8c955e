"""Costs are those of the network that the user gets: counted on it, for his images, channels, cells and classes."""

import itertools
import json

import pytest
import timm
import torch
from conftest import SMALL
from timm.layers import SelectAdaptivePool2d
from torch import nn

import condnet
from condnet.ranking.costs import NetworkCosts, measure_cost
from condnet.searching.problem import Problem
from condnet.spaces.registry import get_space

MACRO, NB201 = get_space('macro'), get_space('nb201')


def random_data(size: int) -> condnet.EvaluationData:
    images = torch.randn(8, 3, size, size, generator=torch.Generator().manual_seed(0))
    return condnet.EvaluationData(images, images, torch.arange(8))


@pytest.mark.parametrize(
    ('name', 'size', 'kwargs'),
    [
        ('macro_cond_supernet', 48, {'num_classes': 7}),
        ('nb201_cond_supernet', 32, {'cells_per_stage': 1}),
        ('nb201_cond_supernet', 16, {'channels': (4, 8, 8), 'linear_skip': False}),
    ],
)
def test_costs_are_counted_on_the_networks(name, size, kwargs):
    model = timm.create_model(name, **kwargs)
    costs, state = NetworkCosts.of(model, (3, size, size)), torch.get_rng_state()
    assert costs.is_sum and torch.equal(torch.get_rng_state(), state)
    for arch in model.space.sample_distinct(5, seed=7):
        with model.subnet(arch):
            net = model.get_active_subnet()
        assert costs(arch) == measure_cost(net, torch.zeros(1, 3, size, size)) != model.space.cost(arch)


def test_costs_of_a_few_are_those_of_many():
    model = timm.create_model('nb201_cond_supernet', **SMALL['nb201_cond_supernet'])
    few, many = NetworkCosts.of(model, (3, 16, 16)), NetworkCosts.of(model, (3, 16, 16))
    archs = model.space.sample_distinct(25, seed=3)
    assert many.is_sum and [few(arch) for arch in archs] == [many(arch) for arch in archs]


def test_costs_of_the_benchmarks_own_networks_are_those_of_its_table():
    costs = NetworkCosts.of(timm.create_model('macro_cond_supernet'), (3, 32, 32))
    assert all(costs(arch) == MACRO.cost(arch) for arch in itertools.islice(MACRO, 0, None, 7))


class Interacting(condnet.Supernet):
    """A super-network in whose networks the first decision changes the cost of the second one."""

    space, num_classes, in_chans = MACRO, 10, 3

    def __init__(self):
        super().__init__()
        self.global_pool, self.num_built = SelectAdaptivePool2d(), 0

    def make_standalone(self, arch, common):
        self.num_built += 1
        return nn.Sequential(nn.Conv2d(3, 1 + arch[0], 1), nn.Conv2d(1 + arch[0], 1 + arch[1], 1, bias=False))


def test_costs_that_do_not_add_up_are_counted_one_by_one():
    model = Interacting()
    costs = NetworkCosts.of(model, (3, 8, 8))
    problem = Problem(MACRO, limits={'flops': 64 * 10}, network_cost=costs)
    assert problem.feasible() is None and model.num_built < 50  # not 6,561
    for arch, flops in (((0, 2, 0, 0, 0, 0, 0, 0), 64 * 6), ((2, 2, 0, 0, 0, 0, 0, 0), 64 * 18)):
        assert problem.cost(arch, 'flops') == flops and problem.respects_limits(arch) == (flops <= 640)
    num_built = model.num_built
    assert costs((2, 2, 0, 0, 0, 0, 0, 0)).flops == 64 * 18 and model.num_built == num_built


@pytest.mark.filterwarnings('ignore:the BatchNorm statistics')
@pytest.mark.parametrize(
    ('name', 'size', 'limit', 'kwargs'),
    [
        ('macro_cond_supernet', 48, {'max_flops': 40e6}, {}),
        ('nb201_cond_supernet', 32, {'max_params': 400e3}, {'cells_per_stage': 1}),
    ],
)
def test_limits_hold_for_the_exported_network(name, size, limit, kwargs, tmp_path):
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=8, **kwargs)
    result = condnet.search(model, random_data(size), False, num_evals=3, output=str(tmp_path), **limit)
    summary = json.loads((tmp_path / 'search.json').read_text())
    net = timm.create_model(f'local-dir:{tmp_path / "network"}', pretrained=True)
    cost = measure_cost(net, torch.zeros(1, 3, size, size))
    for found in (summary['winner'], summary['network'], result.best.costs):
        assert (found['params'], found['flops']) == (cost.params, cost.flops)
    ((what, most),) = limit.items()
    assert getattr(cost, what.removeprefix('max_')) <= most
    assert f'network: {cost.params:,} parameters, {cost.flops:,} FLOPs' in str(result)
    assert f'{size}x{size}' in summary['costs']
