"""Tables as spreadsheets save them: the right values, or one line that says what to do."""

import json
import math

import pytest

from condnet import CondnetError, get_space
from condnet.benchmarks.tables import load_benchmark
from condnet.ranking.evaluate import Prediction
from condnet.ranking.results import read_predictions, read_summary, write_predictions
from condnet.searching.latency import read_latency_table

NB201, CONVS = get_space('nb201'), get_space('nb201', 'only_conv')
ROWS = [(NB201.index(arch), NB201.format(arch), 1 + i / 7) for i, arch in enumerate(CONVS)]
HEADER = ['index', 'arch_str', 'phone_latency_ms']


def text(rows=ROWS, header=HEADER, separator=',', end='\n', number=repr):
    lines = [header, *([str(index), arch, number(latency)] for index, arch, latency in rows)]
    return end.join(separator.join(line) for line in lines) + end


def german(value):
    return repr(value).replace('.', ',')


def quoted(line):
    return ','.join(f'"{field}"' for field in line.split(','))


PLAIN = text()
READ = {
    'plain': PLAIN.encode(),
    'byte order mark': PLAIN.encode('utf-8-sig'),
    'mark and CRLF': text(end='\r\n').encode('utf-8-sig'),
    'CR': text(end='\r').encode(),
    'UTF-16': PLAIN.encode('utf-16'),
    'UTF-16, big-endian': '\ufeff'.encode('utf-16-be') + PLAIN.encode('utf-16-be'),
    'UTF-32': PLAIN.encode('utf-32'),
    'semicolons': text(separator=';').encode(),
    'tabs': text(separator='\t').encode(),
    'semicolons and decimal commas': text(separator=';', number=german).encode(),
    'tabs and decimal commas': text(separator='\t', number=german).encode('utf-16'),
    'decimal commas in quotes': text(number=lambda value: f'"{german(value)}"').encode(),
    'separator named': ('sep=;\r\n' + text(separator=';', end='\r\n')).encode(),
    'everything in quotes': '\n'.join(map(quoted, PLAIN.splitlines())).encode(),
    'semicolons and quotes': '\n'.join(map(quoted, PLAIN.splitlines())).replace(',', ';').encode(),
    'empty lines': ('\n\n' + PLAIN + '\n,,\n \n').encode(),
    'header in another case': text(header=['Index', 'ARCH_STR', 'Phone_Latency_MS']).encode(),
    'spaces': text(separator=', ').encode(),
    'further columns': '\n'.join(f'{i},{line},"a, b"' for i, line in enumerate(PLAIN.splitlines())).encode(),
    'empty fields at the end': PLAIN.replace('\n', ',,\n').encode(),
    'order of columns': '\n'.join(','.join(reversed(line.split(','))) for line in PLAIN.splitlines()).encode(),
    'order of rows': '\n'.join([PLAIN.splitlines()[0], *PLAIN.splitlines()[:0:-1]]).encode(),
    'indices as pandas writes them': '\n'.join(
        [','.join(HEADER), *(f'{index}.0,{arch},{latency!r}' for index, arch, latency in ROWS)]
    ).encode(),
}


@pytest.mark.parametrize('content', READ.values(), ids=READ)
def test_every_way_to_save_a_table_gives_its_values(content, tmp_path):
    (tmp_path / 't.csv').write_bytes(content)
    latencies = read_latency_table(tmp_path / 't.csv', CONVS, 'phone')
    assert latencies == {NB201.parse(index): latency for index, _, latency in ROWS}


def change(row, field):
    lines = [line.split(',') for line in PLAIN.splitlines()]
    lines[row + 1][2] = field
    return '\n'.join(map(','.join, lines)).encode()


REFUSED = {
    'decimal commas without quotes': (text(number=german).encode(), 'line 2: 4 fields for 3 columns'),
    'points and commas': (change(3, '"1,5"'), 'where the comma may be of decimals or of thousands'),
    'thousands or decimals': (text(separator=';', number=lambda _: '1,234').encode(), 'such as 1,234, where the comma'),
    'underscore': (change(0, '1_0'), "latency '1_0'"),
    'digits of another script': (change(0, '١'), "latency '١'"),
    'hexadecimal': (change(0, '0x10'), "latency '0x10'"),
    'infinite': (change(0, 'inf'), "latency 'inf'"),
    'column twice': (text(header=['index', 'arch_str', 'phone_latency_ms,index']).encode(), "column 'index' 2 times"),
    'architecture twice': ((PLAIN + PLAIN.splitlines()[1]).encode(), 'twice; expected it once'),
    'a line within a field': (PLAIN.replace('|nor', '"|\nnor', 1).replace('|,', '|",', 1).encode(), r"'\|\\nnor_conv"),
    'quote without end': ((PLAIN + '"').encode(), 'not a CSV file'),
    'Latin-1': (PLAIN.replace('index', 'indéx').encode('latin-1'), 'not a text file in UTF-8'),
    'UTF-16 without its mark': (PLAIN.encode('utf-16-le'), 'not a text file in UTF-8'),
    'half a character': (PLAIN.encode('utf-16')[:-1], 'not a text file'),
    'web page': (b'\n<!DOCTYPE html><html>', 'a web page, saved instead of the file'),
    "git-LFS's pointer": (b'version https://git-lfs.github.com/spec/v1\noid sha256:1\n', 'git lfs pull'),
    'Excel workbook of old': (b'\xd0\xcf\x11\xe0' + bytes(600), 'an Excel workbook; expected a latency table'),
    'gzip': (b'\x1f\x8b' + bytes(100), 'compressed by gzip'),
    'empty': (b'', 'lacks index, arch_str'),
    'index of another architecture': (
        PLAIN.replace(f'\n{ROWS[0][0]},', f'\n{ROWS[1][0]},', 1).encode(),
        'its index in',
    ),
}


@pytest.mark.parametrize('content, message', REFUSED.values(), ids=REFUSED)
def test_what_can_be_read_otherwise_is_refused_in_one_line(content, message, tmp_path):
    (tmp_path / 't.csv').write_bytes(content)
    with pytest.raises(CondnetError, match=message) as info:
        read_latency_table(tmp_path / 't.csv', CONVS, 'phone')
    assert '\n' not in str(info.value) and len(str(info.value)) < 500


def test_benchmark_of_a_german_spreadsheet(tmp_path):
    lines = ['Index;arch_str;cifar10_test_acc;params_MB;flops_M;Notiz']
    for index in range(10):
        cost = NB201.cost(index)
        numbers = [90 + index / 16, cost.params / 1e6, cost.flops / 1e6]
        lines.append(';'.join([str(index), NB201.format(index), *map(german, numbers), '1.5, gut']))
    (tmp_path / 't.csv').write_bytes(('\r\n'.join(lines) + '\r\n;;;;;\r\n').encode('utf-8-sig'))
    table = load_benchmark('nb201', tmp_path / 't.csv')
    assert table.accuracy.tolist() == [90 + index / 16 for index in range(10)]
    assert table.params.tolist() == [NB201.cost(index).params for index in range(10)]


def test_macro_benchmark_saved_again(tmp_path):
    costs = {arch: get_space('macro').cost(arch) for arch in ('00000012', '22222222')}
    content = {
        arch: {'mean_acc': 90.5, 'params': float(cost.params), 'flops': cost.flops} for arch, cost in costs.items()
    }
    for encoding in ('utf-8-sig', 'utf-16'):
        (tmp_path / 't.json').write_text(json.dumps(content), encoding=encoding)
        table = load_benchmark('macro', tmp_path / 't.json')
        assert table.indices.tolist() == [5, 6560] and table.params.tolist() == [c.params for c in costs.values()]
    content['1210'] = content.pop('00000012')  # what is left of 00001210, or an index
    (tmp_path / 't.json').write_text(json.dumps(content))
    with pytest.raises(CondnetError, match='eight digits'):
        load_benchmark('macro', tmp_path / 't.json')


def test_predictions_that_a_spreadsheet_saved(tmp_path):
    predictions = [Prediction(3, 91.25, 0.5), Prediction(6111, 10.0, 2.302585092994046)]
    path = tmp_path / 'ranking.csv'
    write_predictions(path, predictions)
    plain = path.read_text()
    path.write_bytes(plain.replace(',', ';').replace('.', ',').replace('\n', '\r\n').encode('utf-8-sig'))
    assert read_predictions(path) == predictions
    path.write_text(plain.replace('accuracy,loss\n', 'accuracy,loss,note\n').replace('.5\n', '.5,x\n'))
    assert read_predictions(path) == predictions
    for damaged in ('3', '1_0', '²', '-', ''):
        path.write_text(plain.replace('6111', damaged))
        with pytest.raises(CondnetError, match='is damaged'):
            read_predictions(path)
    path.write_text(plain.replace('91.25', 'nan'))
    with pytest.raises(CondnetError, match='finite'):
        read_predictions(path)
    path.write_bytes(json.dumps({'model': 'x', 'loss': math.pi}).encode('utf-8-sig'))
    assert read_summary(path) == {'model': 'x', 'loss': math.pi}
    for damaged in ('[1]', '{', '[' * 100_000):
        path.write_text(damaged)
        with pytest.raises(CondnetError, match='not a summary of a ranking'):
            read_summary(path)
