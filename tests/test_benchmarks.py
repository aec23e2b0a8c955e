"""Ground-truth tables: what is read, what is refused, and that no file can run code."""

import bz2
import csv
import hashlib
import io
import json
import os
import pickle
import shutil
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from condnet import CondnetError
from condnet.benchmarks import nats, readers, registry
from condnet.benchmarks.nats import convert_nats
from condnet.benchmarks.tables import load_benchmark
from condnet.cli.benchmarks import main
from condnet.ranking.metrics import ranking_metrics
from condnet.spaces.registry import get_space

DATA = os.environ.get('CONDNET_DATA')
needs_data = pytest.mark.skipif(not DATA, reason='set CONDNET_DATA to a directory with the published benchmark tables')
NB201, MACRO = get_space('nb201'), get_space('macro')
NATS = 'NATS-tss-v1_0-3ffb9-simple'


@pytest.fixture(autouse=True)
def nothing_to_find(monkeypatch, tmp_path):
    """No table of the machine that runs the tests is found by accident."""
    monkeypatch.delenv('CONDNET_DATA', raising=False)
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'torch'))


def nb201_row(index, /, **changes):
    cost = NB201.cost(index)
    row = {'index': index, 'arch_str': NB201.format(NB201.parse(index)), 'cifar10_test_acc': 90 + index / 1e5}
    return row | {'params_MB': cost.params / 1e6, 'flops_M': cost.flops / 1e6} | changes


def write_nb201(path, rows):
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0] if rows else nb201_row(0))
    writer.writeheader()
    writer.writerows(rows)
    path.write_text(text.getvalue())
    return path


def macro_entry(arch, **changes):
    cost = MACRO.cost(arch)
    return {'test_acc': [90.0], 'mean_acc': 90.0, 'std': 0.0, 'params': cost.params, 'flops': cost.flops} | changes


def write_macro(path, archs=('00000000', '00000012'), **changes):
    path.write_text(json.dumps({arch: macro_entry(arch, **changes) for arch in archs}))
    return path


# What is read


def test_partial_nb201_table(tmp_path):
    rows = [nb201_row(9930), nb201_row(7), nb201_row(15624, cifar10_test_acc=10)]
    table = load_benchmark('nb201', write_nb201(tmp_path / 'any.csv', rows))
    assert table.indices.tolist() == [7, 9930, 15624]
    assert table.accuracy.tolist() == [90.00007, 90.0993, 10]
    assert table.params.tolist() == [NB201.cost(i).params for i in (7, 9930, 15624)]
    assert table.flops.tolist() == [NB201.cost(i).flops for i in (7, 9930, 15624)]
    assert table.sha256 == hashlib.sha256((tmp_path / 'any.csv').read_bytes()).hexdigest()


def test_partial_macro_table(tmp_path):
    table = load_benchmark('macro', write_macro(tmp_path / 'any.json', ('22222222', '00000012')))
    assert table.indices.tolist() == [5, 6560]
    assert table.params.tolist() == [MACRO.cost('00000012').params, MACRO.cost('22222222').params]


def test_select_keeps_the_order_asked_for(tmp_path):
    table = load_benchmark('nb201', write_nb201(tmp_path / 'any.csv', [nb201_row(i) for i in range(10)]))
    part = table.select(np.array([8, 2, 5]))
    assert part.indices.tolist() == [8, 2, 5] and part.accuracy.tolist() == [90.00008, 90.00002, 90.00005]
    assert part.params.tolist() == [NB201.cost(i).params for i in (8, 2, 5)]
    assert (part.space, part.dataset, part.path, part.sha256) == ('nb201', 'cifar10', table.path, table.sha256)


def test_select_names_what_is_missing(tmp_path):
    table = load_benchmark('nb201', write_nb201(tmp_path / 'any.csv', [nb201_row(i) for i in range(10)]))
    with pytest.raises(ValueError, match=r'lacks 5 of 6 architectures: index 10, 11, 12, \.\.\.$'):
        table.select([10, 3, 11, 12, 13, 14])
    with pytest.raises(ValueError, match=r'lacks 1 of 1 architectures: index -1$'):
        table.select([-1])


@pytest.mark.parametrize('folder', ['', 'benchmarks'])
def test_tables_are_found(tmp_path, monkeypatch, folder):
    (tmp_path / folder).mkdir(exist_ok=True)
    write_nb201(tmp_path / folder / 'nas-bench-201.csv', [nb201_row(0), nb201_row(1)])
    write_macro(tmp_path / folder / 'nas-bench-macro_cifar10.json')
    assert len(load_benchmark('macro', tmp_path)) == 2
    monkeypatch.setenv('CONDNET_DATA', str(tmp_path))
    assert load_benchmark('nb201').indices.tolist() == [0, 1]
    assert load_benchmark('macro').indices.tolist() == [0, 5]
    other = write_nb201(tmp_path / 'other.csv', [nb201_row(3)])
    assert load_benchmark('nb201', other).indices.tolist() == [3]  # the path given wins


def test_download_is_verified_and_kept(tmp_path, monkeypatch):
    published = write_macro(tmp_path / 'published.json')
    macro = replace(registry.find_benchmark('macro', 'cifar10'), url=published.as_uri(), sha256='0' * 64)
    monkeypatch.setitem(registry.BENCHMARKS, ('macro', 'cifar10'), macro)
    with pytest.raises(ValueError, match='cannot download .*hash'):
        load_benchmark('macro', download=True)
    with pytest.raises(ValueError, match='CONDNET_DATA is not set'):
        load_benchmark('macro')  # what was refused was not kept
    macro = replace(macro, sha256=hashlib.sha256(published.read_bytes()).hexdigest())
    monkeypatch.setitem(registry.BENCHMARKS, ('macro', 'cifar10'), macro)
    assert len(load_benchmark('macro', download=True)) == 2
    (tmp_path / 'named').mkdir()
    with pytest.raises(ValueError, match='no nas-bench-macro_cifar10.json in .*named.*; allow the download'):
        load_benchmark('macro', tmp_path / 'named')
    assert load_benchmark('macro', tmp_path / 'named', download=True).path == str(
        tmp_path / 'named' / 'nas-bench-macro_cifar10.json'
    )
    published.unlink()
    assert len(load_benchmark('macro')) == len(load_benchmark('macro', tmp_path / 'named')) == 2


# What is refused


def test_nothing_found(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match='no nb201 table: .*CONDNET_DATA is not set; convert the NATS-Bench'):
        load_benchmark('nb201', download=True)
    monkeypatch.setenv('CONDNET_DATA', str(tmp_path))
    with pytest.raises(ValueError, match='holds no nas-bench-macro_cifar10.json; allow the download'):
        load_benchmark('macro')
    with pytest.raises(ValueError, match='no such benchmark table: .*absent.csv'):
        load_benchmark('nb201', tmp_path / 'absent.csv')
    with pytest.raises(ValueError, match='no nas-bench-201.csv in'):
        load_benchmark('nb201', tmp_path)


def test_other_space_or_data_set(tmp_path):
    nb201, macro = write_nb201(tmp_path / 'a.csv', [nb201_row(0)]), write_macro(tmp_path / 'a.json')
    with pytest.raises(ValueError, match='lacks index, arch_str, cifar10_test_acc'):
        load_benchmark('nb201', macro)
    with pytest.raises(ValueError, match='not a JSON file'):
        load_benchmark('macro', nb201)
    with pytest.raises(ValueError, match="data set 'cifar100'; expected cifar10"):
        load_benchmark('macro', macro, dataset='cifar100')
    with pytest.raises(ValueError, match='another data set, by its name'):
        load_benchmark('macro', write_macro(tmp_path / 'nas-bench-macro_cifar100.json'))
    with pytest.raises(ValueError, match='unknown search space darts'):
        load_benchmark('darts', macro)


def test_networks_of_another_data_set(tmp_path):
    rows = [nb201_row(i, params_MB=(NB201.cost(i).params + 90 * 65) / 1e6) for i in range(3)]  # 100 classes
    with pytest.raises(ValueError, match='135,156 parameters .* expected 129,306'):
        load_benchmark('nb201', write_nb201(tmp_path / 'any.csv', rows))


NAMED = 'line 2: .*'
BAD_NB201_ROWS = {
    'index of another architecture': ({'index': 5}, 'index 5 of .*expected its official index 0'),
    'index is not a number': ({'index': 'x'}, NAMED + "'x'"),
    'unknown operation': ({'arch_str': '|conv~0|+|none~0|none~1|+|none~0|none~1|none~2|'}, NAMED + "'conv'"),
    'architecture of another space': ({'arch_str': '01201201'}, NAMED + 'not an architecture string'),
    'no accuracy': ({'cifar10_test_acc': ''}, NAMED + 'could not convert'),
    'accuracy NaN': ({'cifar10_test_acc': 'nan'}, 'accuracy nan of index 0'),
    'accuracy above 100': ({'cifar10_test_acc': 100.1}, 'accuracy 100.1 of index 0'),
    'accuracy below 0': ({'cifar10_test_acc': -1}, 'accuracy -1.0 of index 0'),
    'infinite parameters': ({'params_MB': 'inf'}, NAMED + 'infinity'),
    'no parameters': ({'params_MB': 0}, '0 parameters'),
    'absurd FLOPs': ({'flops_M': 1e300}, r'1e\+306 FLOPs'),
}


@pytest.mark.parametrize('changes, message', BAD_NB201_ROWS.values(), ids=BAD_NB201_ROWS)
def test_bad_nb201_row(tmp_path, changes, message):
    path = write_nb201(tmp_path / 'any.csv', [nb201_row(0, **changes), nb201_row(1)])
    with pytest.raises(ValueError, match=message) as info:
        load_benchmark('nb201', path)
    assert '\n' not in str(info.value) and 'any.csv' in str(info.value)


BAD_NB201_FILES = {
    'empty': ('', 'lacks index'),
    'only a header': ('index,arch_str,cifar10_test_acc,params_MB,flops_M\n', 'holds no architecture'),
    'latencies': ('index,arch_str,edgegpu_latency_ms\n', 'lacks cifar10_test_acc, params_MB, flops_M'),
    'cut off': ('index,arch_str,cifar10_test_acc,params_MB,flops_M\n0,|avg_pool_3x3~0|+|nor_c', 'line 2'),
    'a giant field': ('index,arch_str,cifar10_test_acc,params_MB,flops_M\n' + '1' * 200_000, 'not a CSV file'),
    'no text': ('\udcff\udcfe', 'not a text file'),
}


@pytest.mark.parametrize('text, message', BAD_NB201_FILES.values(), ids=BAD_NB201_FILES)
def test_bad_nb201_file(tmp_path, text, message):
    path = tmp_path / 'any.csv'
    path.write_bytes(text.encode(errors='surrogateescape'))
    with pytest.raises(ValueError, match=message):
        load_benchmark('nb201', path)


def test_duplicate_nb201_row(tmp_path):
    path = write_nb201(tmp_path / 'any.csv', [nb201_row(0), nb201_row(4), nb201_row(4, cifar10_test_acc=95)])
    with pytest.raises(ValueError, match=r'\(index 4\) 2 times'):
        load_benchmark('nb201', path)


ENTRY = json.dumps(macro_entry('00000000'))
BAD_MACRO_FILES = {
    'empty': ('', 'not a JSON file'),
    'cut off': ('{"00000000": {"mean_acc": 9', 'not a JSON file'),
    'nested without end': ('[' * 100_000, 'not a JSON file'),
    'a list': ('[]', 'holds a list'),
    'no architectures': ('{}', 'holds no architecture'),
    'unknown operation': (f'{{"00000003": {ENTRY}}}', "'00000003': not an architecture"),
    'too short': (f'{{"0000000": {ENTRY}}}', "'0000000': not an architecture"),
    'architecture twice': (f'{{"00000000": {ENTRY}, "00000000": {ENTRY}}}', '00000000 .* 2 times'),
    'accuracy twice': ('{"00000000": {"mean_acc": 90, "mean_acc": 91, "params": 1, "flops": 1}}', 'a key is repeated'),
    'a number': ('{"00000000": 90.0}', "'90.0'; expected an object"),
    'other columns': ('{"00000000": {"accuracy": 90}}', 'lacks mean_acc, params, flops'),
    'accuracy NaN': ('{"00000000": {"mean_acc": NaN, "params": 1, "flops": 1}}', 'accuracy nan of index 0'),
    'accuracy true': ('{"00000000": {"mean_acc": true, "params": 1, "flops": 1}}', 'True is not a number'),
    'accuracy in other digits': ('{"00000000": {"mean_acc": "٣", "params": 1, "flops": 1}}', "convert '٣' to a number"),
    'accuracy missing': ('{"00000000": {"mean_acc": null, "params": 1, "flops": 1}}', "'00000000': float"),
}


@pytest.mark.parametrize('text, message', BAD_MACRO_FILES.values(), ids=BAD_MACRO_FILES)
def test_bad_macro_file(tmp_path, text, message):
    path = tmp_path / 'any.json'
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as info:
        load_benchmark('macro', path)
    assert '\n' not in str(info.value)


# NATS-Bench records

RUNS = {  # what seeds reached in the last epoch, on each data
    'cifar10-valid': {'x-valid': (80.0, 81.0), 'ori-test': (1.0, 1.0)},
    'cifar10': {'ori-test': (90.0, 92.5)},
    'cifar100': {'ori-test': (1.0,), 'x-valid': (60.0,), 'x-test': (61.0,)},
    'ImageNet16-120': {'x-valid': (30.0,), 'x-test': (31.0,)},
}


def nats_record(index, runs=RUNS, epochs=3):
    """A record as NATS-Bench keeps it: `ori-test@2` is the test accuracy after the third epoch."""
    results, cost = {}, NB201.cost(index)
    for dataset, accuracies in runs.items():
        for seed in range(len(next(iter(accuracies.values())))):
            evals = {f'{name}@{epochs - 1}': seeds[seed] for name, seeds in accuracies.items()}
            evals |= {f'{name}@0': 5.0 for name in accuracies}
            run = {'eval_acc1es': evals, 'epochs': epochs, 'params': cost.params / 1e6, 'flop': cost.flops / 1e6}
            results[dataset, seed] = run
    full = {'arch_index': index, 'arch_str': NB201.format(NB201.parse(index)), 'all_results': results}
    return {'12': {'all_results': {}}, '200': full}


def write_record(folder, index, data):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f'{index:06d}.pickle.pbz2'
    path.write_bytes(bz2.compress(data if isinstance(data, bytes) else pickle.dumps(data)))
    return path


def test_records_become_a_table(tmp_path, capsys):
    folder, output = tmp_path / NATS, tmp_path / 'out.csv'
    for index in (3, 700):
        write_record(folder, index, nats_record(index))
    write_record(folder, 0, b'').rename(folder / 'meta.pickle.pbz2')  # not needed: the order of the space is known
    assert main([str(folder), str(output)]) == 0
    assert 'wrote 2 of 15625' in capsys.readouterr().out
    row = next(csv.DictReader(output.open()))
    assert (row['index'], row['cifar10_valid_acc'], row['cifar10_test_acc']) == ('3', '80.500000', '91.250000')
    assert (row['cifar100_valid_acc'], row['cifar100_test_acc'], row['n_seeds']) == ('60.000000', '61.000000', '2')
    table, direct = load_benchmark('nb201', output), load_benchmark('nb201', folder)
    assert table.indices.tolist() == direct.indices.tolist() == [3, 700]
    assert table.accuracy.tolist() == direct.accuracy.tolist() == [91.25, 91.25]
    assert sorted(p.name for p in tmp_path.iterdir()) == [NATS, 'out.csv']  # no temporary file is left


def test_numpy_numbers_of_the_official_records(tmp_path):
    record, params = nats_record(3), NB201.cost(3).params
    for run in record['200']['all_results'].values():
        run['params'] = 'PARAM'
    dtype = b"cnumpy\ndtype\n(S'f8'\nI0\nI1\ntR(I3\nS'<'\nNNNI-1\nI-1\nI0\ntb"
    number = b'cnumpy.core.multiarray\nscalar\n(' + dtype + b'C\x08' + struct.pack('<d', params / 1e6) + b'tR'
    data = pickle.dumps(record, protocol=2).replace(b'X\x05\x00\x00\x00PARAM', number)
    write_record(tmp_path / NATS, 3, data)
    assert load_benchmark('nb201', tmp_path / NATS).params.tolist() == [params]


@pytest.mark.parametrize('kind', [np.float32, np.float64, np.int64, np.longlong])
def test_numpy_numbers_of_records_saved_again(tmp_path, kind):
    """Since numpy 2 its modules have other names."""
    record = nats_record(3)
    for run in record['200']['all_results'].values():
        run['eval_acc1es'] = {name: kind(91) for name in run['eval_acc1es']}
    write_record(tmp_path / NATS, 3, record)
    assert load_benchmark('nb201', tmp_path / NATS).accuracy.tolist() == [91]


def both_ways(source, output):
    """What a file is called by the converter, and where a table is read."""
    for read in (lambda: convert_nats(source, output), lambda: load_benchmark('nb201', source)):
        with pytest.raises(CondnetError) as info:
            read()
        assert '\n' not in str(info.value) and str(source) in str(info.value) and not output.exists()
        yield str(info.value)


def with_weights(index):
    record = nats_record(index)
    next(iter(record['200']['all_results'].values()))['net_state_dict'] = {'w': torch.zeros(2)}
    return record


def test_other_published_forms_are_named_with_the_way_to_go(tmp_path):
    big, output = {'meta_archs': [], 'arch2infos': {3: nats_record(3)}, 'evaluated_indexes': {3}}, tmp_path / 'out.csv'
    write_record(tmp_path / 'records', 3, with_weights(3))
    write_record(tmp_path / 'NATS-tss-v1_0-3ffb9-full', 3, nats_record(3))
    (tmp_path / 'NATS-tss-v1_0-3ffb9.pickle.pbz2').write_bytes(bz2.compress(pickle.dumps(big)))
    torch.save(big, tmp_path / 'NAS-Bench-201-v1_1-096897.pth')
    torch.save(big, tmp_path / 'NAS-Bench-201-v1_0-e61699.pth', _use_new_zipfile_serialization=False)
    (tmp_path / 'NATS-tss-v1_0-3ffb9.pickle').write_bytes(pickle.dumps(big))
    for name, message in {
        'records': 'holds weights, as those of NATS-tss-v1_0-3ffb9-full do',
        'NATS-tss-v1_0-3ffb9-full': 'NATS-Bench with all weights',
        'NATS-tss-v1_0-3ffb9.pickle.pbz2': 'NATS-Bench as one file',
        'NATS-tss-v1_0-3ffb9.pickle': 'is a pickle',
        'NAS-Bench-201-v1_1-096897.pth': 'is a file of torch.save, as NAS-Bench-201',
        'NAS-Bench-201-v1_0-e61699.pth': 'torch.save in the form before torch 1.6',
    }.items():
        for error in both_ways(tmp_path / name, output):
            assert message in error and 'convert the folder NATS-tss-v1_0-3ffb9-simple by condnet-benchmarks' in error
        assert main([str(tmp_path / name), str(output)]) == 2


def test_what_is_not_unpacked_or_not_the_folder(tmp_path):
    record, output = write_record(tmp_path / NATS / NATS, 3, nats_record(3)), tmp_path / 'out.csv'
    for form in ('tar', 'gztar', 'zip'):
        path = Path(shutil.make_archive(str(tmp_path / 'archive'), form, tmp_path / NATS))
        assert all('unpack it' in error for error in both_ways(path, output))
    assert all('one record of NATS-Bench; expected the folder' in error for error in both_ways(record, output))
    with pytest.raises(CondnetError, match=f'they are in .*{NATS}/{NATS}'):
        convert_nats(tmp_path / NATS, output)
    with pytest.raises(CondnetError, match='does not exist'):
        convert_nats(tmp_path / 'absent', output)


def test_a_huge_file_is_not_read_to_name_it(tmp_path):
    path = tmp_path / 'NATS-tss-v1_0-3ffb9.pickle.pbz2'
    with path.open('wb') as file:
        file.write(b'BZh9')
        file.truncate(64 << 30)  # more than fits into memory; the disk holds one block of it
    assert all('as one file' in error for error in both_ways(path, tmp_path / 'out.csv'))


class Runs:
    """Pickled, it calls a function when it is loaded."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize('function', [open, os.open, np.memmap], ids=['io', 'posix', 'numpy'])
def test_malicious_record_is_not_run(tmp_path, function, capsys):
    victim = tmp_path / 'victim'
    args = {open: (str(victim), 'w'), os.open: (str(victim), os.O_CREAT), np.memmap: (str(victim), 'u1', 'w+', 0, 1)}
    data = pickle.dumps(nats_record(3) | {'extra': Runs(function, *args[function])})
    pickle.loads(data)
    assert victim.exists()  # so it is dangerous indeed
    victim.unlink()
    write_record(tmp_path / NATS, 3, data)
    with pytest.raises(ValueError, match='000003.pickle.pbz2: it asks for .* it was not run'):
        convert_nats(tmp_path / NATS, tmp_path / 'out.csv')
    assert main([str(tmp_path / NATS), str(tmp_path / 'out.csv')]) == 2
    error = capsys.readouterr().err
    assert error.startswith('condnet-benchmarks: error: ') and error.count('\n') == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == [NATS]  # neither the victim nor an output


@pytest.mark.parametrize('name', [b'cnumpy\ndtype.__class__\n.', b'\x80\x04\x8c\x05numpy\x8c\x0edtype.__base__\x93.'])
def test_no_way_around_through_attributes(tmp_path, name):
    write_record(tmp_path / NATS, 3, name)
    with pytest.raises(ValueError, match='it asks for|cannot unpickle'):
        convert_nats(tmp_path / NATS, tmp_path / 'out.csv')


def without(dataset):
    return nats_record(3, {name: accuracies for name, accuracies in RUNS.items() if name != dataset})


BAD_RECORDS = {
    'no pickle': (b'hello', 'cannot unpickle'),
    'bomb': (bytes(nats.MAX_RECORD + 1), 'decompresses to more than'),
    'another thing': ([1, 2], 'not a NATS-Bench topology record'),
    'only 12 epochs': ({'12': nats_record(3)['200']}, "not a NATS-Bench topology record: KeyError\\('200'\\)"),
    'no test accuracy': (without('cifar10'), 'not a NATS-Bench topology record'),
    'another architecture': (nats_record(4), "holds architecture '4'"),
    'another order': ({'200': nats_record(4)['200'] | {'arch_index': 3}}, 'official index 4'),
    'size space': ({'200': nats_record(3)['200'] | {'arch_str': '64:64:64:64:64'}}, 'not an architecture string'),
    'accuracy true': (nats_record(3, RUNS | {'cifar10': {'ori-test': (True,)}}), 'accuracy True of cifar10'),
    'accuracy on other data': (
        nats_record(3, RUNS | {'cifar100': {'x-valid': (-60.0,), 'x-test': (61.0,)}}),
        'accuracy -60.0 of cifar100',
    ),
    'accuracy NaN': (nats_record(3, RUNS | {'cifar10': {'ori-test': (float('nan'),)}}), 'accuracy nan'),
}


@pytest.mark.parametrize('data, message', BAD_RECORDS.values(), ids=BAD_RECORDS)
def test_bad_record(tmp_path, data, message):
    write_record(tmp_path / NATS, 3, data)
    with pytest.raises(ValueError, match=message) as info:
        convert_nats(tmp_path / NATS, tmp_path / 'out.csv')
    assert '\n' not in str(info.value) and not (tmp_path / 'out.csv').exists()


def test_an_interrupted_conversion_ends_in_one_line(tmp_path, monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr('condnet.cli.benchmarks.convert_nats', interrupted)
    assert main([str(tmp_path), str(tmp_path / 'out.csv')]) == 130
    assert capsys.readouterr().err.startswith('condnet-benchmarks: stopped by SIGINT: nothing is left half-written')


def test_bad_conversion(tmp_path, capsys):
    cut = write_record(tmp_path / NATS, 3, nats_record(3))
    cut.write_bytes(cut.read_bytes()[:-20])
    assert main([str(tmp_path / NATS), str(tmp_path / 'out.csv')]) == 2
    assert main([str(tmp_path), str(tmp_path / 'out.csv')]) == 2
    write_record(tmp_path / NATS, 3, nats_record(3))
    assert main([str(tmp_path / NATS), str(tmp_path / 'absent' / 'out.csv')]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 3 and all(line.startswith('condnet-benchmarks: error: ') for line in errors)
    assert 'cannot decompress' in errors[0] and 'no NATS-Bench records' in errors[1] and 'absent' in errors[2]


# The published tables


@needs_data
def test_published_nb201(monkeypatch):
    monkeypatch.setenv('CONDNET_DATA', DATA)
    table = load_benchmark('nb201')
    assert table.indices.tolist() == list(range(15_625))
    assert table.accuracy.mean() == pytest.approx(87.0629, abs=1e-4) and table.accuracy.argmax() == 6111
    assert all(NB201.cost(i).params == n for i, n in zip(table.indices.tolist(), table.params.tolist(), strict=True))
    assert all(NB201.cost(i).flops == n for i, n in zip(table.indices.tolist(), table.flops.tolist(), strict=True))
    assert ranking_metrics(table.params, table.accuracy)['kendall_tau'] == pytest.approx(0.578, abs=5e-4)


@needs_data
def test_published_macro(monkeypatch):
    monkeypatch.setenv('CONDNET_DATA', DATA)
    table = load_benchmark('macro')
    assert table.indices.tolist() == list(range(6_561)) and table.sha256 == readers.MACRO_SHA256
    assert table.accuracy[MACRO.index('02012100')] == pytest.approx(89.19667, abs=1e-5)
    assert {MACRO.index(arch) for arch in ('22212202', '22212220')} == set(
        np.flatnonzero(table.accuracy == table.accuracy.max())
    )
    assert all(MACRO.cost(i).params == n for i, n in zip(table.indices.tolist(), table.params.tolist(), strict=True))
    assert all(MACRO.cost(i).flops == n for i, n in zip(table.indices.tolist(), table.flops.tolist(), strict=True))


@needs_data
def test_published_records_give_the_published_table(tmp_path):
    folder = next((path for path in Path(DATA).rglob(NATS) if path.is_dir()), None)
    if folder is None:
        pytest.skip('CONDNET_DATA holds no NATS-Bench records')
    convert_nats(folder, tmp_path / 'out.csv')
    lines = (tmp_path / 'out.csv').read_text().splitlines()
    published = set(next(Path(DATA).rglob('nas-bench-201.csv')).read_text().splitlines())
    assert len(lines) > 1 and published.issuperset(lines)
