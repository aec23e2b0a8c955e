"""HW-NAS-Bench's published file becomes a table, and runs nothing."""

import json
import os
import pickle

import numpy as np
import pytest

from condnet import CondnetError, get_space
from condnet.benchmarks.hwnas import convert_hw_nas
from condnet.cli.benchmarks import main
from condnet.searching.latency import read_latency_table

SPACE = get_space('nb201', 'only_conv')
ARCHS = [get_space('nb201').format(arch) for arch in SPACE]


def content(configs=None, **changes):
    """As the authors' file is built: a list for each measure, and the arguments of each network."""
    configs = configs or [{'name': 'infer.tiny', 'C': 16, 'N': 5, 'arch_str': a, 'num_classes': 10} for a in ARCHS]
    latencies, energies = [1 + i / 7 for i in range(64)], [2 + i for i in range(64)]
    measures = {'raspi4_latency': latencies, 'edgegpu_energy': energies, 'eyeriss_arithmetic_intensity': energies}
    cifar10 = measures | {'config': configs} | changes
    cifar10 = {name: values for name, values in cifar10.items() if values is not None}
    return {'nasbench201': {'cifar10': cifar10, 'cifar100': {}}, 'fbnet': {'raspi4_latency': {'FC_Cin1': 0.5}}}


def numbers(values, kind):
    return [kind(value) for value in values]


LATENCIES = content()['nasbench201']['cifar10']['raspi4_latency']
FORMS = {
    'Python': content(),
    'architectures as text': content(ARCHS),
    "numpy's numbers": content(raspi4_latency=numbers(LATENCIES, np.float64)),
    'an array': content(raspi4_latency=np.array(LATENCIES)),
    'a slice of an array': content(raspi4_latency=np.array(LATENCIES * 2)[:64]),
    'an array of objects': content(config=np.array([{'arch_str': arch} for arch in ARCHS], dtype=object)),
}


@pytest.mark.parametrize('core', ['numpy._core', 'numpy.core'])
@pytest.mark.parametrize('protocol', range(2, 6))
@pytest.mark.parametrize('form', FORMS.values(), ids=FORMS)
def test_the_pickle_becomes_the_table(form, protocol, core, tmp_path):
    data = pickle.dumps(form, protocol=protocol)
    if core == 'numpy.core' and protocol < 4:  # names are lines there, as in the published file
        data = data.replace(b'numpy._core.', b'numpy.core.')
    (tmp_path / 'hw.pickle').write_bytes(data)
    assert convert_hw_nas(tmp_path / 'hw.pickle', tmp_path / 'hw.csv') == 64
    latencies = read_latency_table(tmp_path / 'hw.csv', SPACE, 'raspi4')
    assert latencies == dict(zip(SPACE, LATENCIES, strict=True))
    header = (tmp_path / 'hw.csv').read_text().partition('\n')[0]
    assert header == 'index,arch_str,raspi4_latency_ms,edgegpu_energy_mJ,eyeriss_arithmetic_intensity'


@pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig'])
def test_command_reads_pickle_and_json_and_the_search_names_it(encoding, tmp_path, capsys):
    (tmp_path / 'hw.pickle').write_bytes(pickle.dumps(content()))
    (tmp_path / 'hw.json').write_text(json.dumps(content()), encoding=encoding)
    for name in ('hw.pickle', 'hw.json'):
        with pytest.raises(CondnetError, match=f'condnet-benchmarks {name} hw-nas-bench.csv'):
            read_latency_table(tmp_path / name, SPACE, 'raspi4')
        assert main([str(tmp_path / name), str(tmp_path / f'{name}.csv')]) == 0
        assert 'wrote 64 of 15625 architectures' in capsys.readouterr().out
    assert (tmp_path / 'hw.json.csv').read_bytes() == (tmp_path / 'hw.pickle.csv').read_bytes()


class Runs:
    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


BAD = {
    'code': (Runs(os.mkdir, 'victim'), 'asks for .*mkdir.*it was not run'),
    'another thing': ([1, 2], "expected the key 'nasbench201', got list"),
    'another data set': ({'nasbench201': {'cifar100': {}}}, "expected the key 'cifar10', got 'cifar100'"),
    'no architectures': (content(config=None), 'lacks config'),
    'too few values': (content(raspi4_latency=[1.0]), "1 values of 'raspi4_latency' for 64 architectures"),
    'no latency': (content(raspi4_latency=None), 'holds no latencies'),
    'not a number': (content(raspi4_latency=[float('nan')] * 64), "nan in 'raspi4_latency'"),
    'a value missing': (content(raspi4_latency=[1.0, None] * 32), "None in 'raspi4_latency'"),
    'thousands of digits': (content(raspi4_latency=[10**5000] * 64), 'an integer of 16610 bits in'),
    'a column of ours': (content(index=[1.0] * 64), "two lists for the column 'index'"),
    'a column twice': (content(raspi4_latency_ms=[1.0] * 64), "two lists for the column 'raspi4_latency_ms'"),
    'lines': (content([{'arch_str': arch, 'num_classes': 'x\ny'} for arch in ARCHS]), r"of 'x\\ny' classes"),
    'negative': (content(raspi4_latency=[-1.0] * 64), 'expected positive numbers'),
    'no architecture': (content(['x'] * 64), 'config 0: not an architecture'),
    'architecture twice': (content([ARCHS[0]] * 64), 'twice'),
    'other networks': (content([{'arch_str': arch, 'num_classes': 100} for arch in ARCHS]), 'of 100 classes'),
    'numbers as architectures': (content([*range(64)]), ' 0 in config'),
    'data of numpy that is not a number': (content(raspi4_latency=np.array(['x'] * 64)), "numpy data of type 'U1'"),
    'two dimensions': (content(raspi4_latency=np.ones((64, 1))), 'cannot unpickle'),
}


@pytest.mark.parametrize('bad, message', BAD.values(), ids=BAD)
def test_what_is_something_else_is_refused_in_one_line(bad, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'hw.pickle').write_bytes(pickle.dumps(bad))
    with pytest.raises(CondnetError, match=message) as info:
        convert_hw_nas(tmp_path / 'hw.pickle', tmp_path / 'hw.csv')
    assert '\n' not in str(info.value) and [path.name for path in tmp_path.iterdir()] == ['hw.pickle']


def test_a_damaged_number_of_an_object_costs_no_memory(tmp_path):
    """Python would make room for as many objects as the number says: here two gigabytes."""
    (tmp_path / 'hw.pickle').write_bytes(b'\x80\x04]r\xff\xff\xff\x07.')
    with pytest.raises(CondnetError, match='it numbers an object 134217727, but has 9 bytes'):
        convert_hw_nas(tmp_path / 'hw.pickle', tmp_path / 'hw.csv')


@pytest.mark.parametrize('text', ['{', '[' * 100_000, '{"nasbench201": 1, "nasbench201": 2}'])
def test_bad_json(text, tmp_path):
    (tmp_path / 'hw.json').write_text(text)
    with pytest.raises(CondnetError, match='not a JSON file'):
        convert_hw_nas(tmp_path / 'hw.json', tmp_path / 'hw.csv')
