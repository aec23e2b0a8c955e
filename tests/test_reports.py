"""Drawings of architectures, and pages of rankings and searches, in a real browser where one is installed."""

import re
import shutil
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest

from condnet import CondnetError, get_space
from condnet.reports.drawing import draw
from condnet.reports.page import Page, Row, make_page, pareto_front, write_page

NB201 = get_space('nb201')
CELL = '|nor_conv_3x3~0|+|nor_conv_1x1~0|none~1|+|skip_connect~0|avg_pool_3x3~1|nor_conv_3x3~2|'
SVG = '{http://www.w3.org/2000/svg}'
CHROMIUM = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)


def texts(drawing) -> list[str]:
    return [element.text for element in ET.fromstring(str(drawing)).iter(f'{SVG}text')]


def test_cell_is_drawn_with_its_nodes_and_edges():
    drawing = draw(CELL)
    operations = ['nor_conv_3x3', 'nor_conv_1x1', 'none', 'skip_connect', 'avg_pool_3x3', 'nor_conv_3x3']
    assert texts(drawing) == [*operations, '0', '1', '2', '3'] and drawing._repr_svg_() == str(drawing)
    paths = [path.get('d') for path in ET.fromstring(str(drawing)).iter(f'{SVG}path')]
    # 0-1, 1-2 and 2-3 are lines, the others arcs between their nodes, which lie 120 pixels apart.
    assert [path.split('H')[0].split(' ')[0] for path in paths] == ['M37', 'M26', 'M157', 'M26', 'M146', 'M277']
    assert ['Q' in path for path in paths] == [False, True, False, True, True, False]
    assert [path.split()[-2] for path in paths if 'Q' in path] == ['266', '386', '386']


def test_chain_is_drawn_in_order():
    names = ['identity', 'mbconv3x3_e3', 'mbconv5x5_e6'] * 2 + ['identity', 'mbconv5x5_e6']
    for drawing in (draw('01201202'), draw('01201202', 'macro'), draw((0, 1, 2, 0, 1, 2, 0, 2), get_space('macro'))):
        assert texts(drawing) == [*names, *map(str, range(9))]


def test_labels_of_a_chain_stand_clear_of_each_other_and_of_the_nodes():
    root = ET.fromstring(str(draw('22222222')))
    labels = [(int(text.get('x')), int(text.get('y'))) for text in root.iter(f'{SVG}text')][:8]
    nodes = [int(circle.get('cy')) for circle in root.iter(f'{SVG}circle')]
    assert float(root.get('width')) < 560 and len(set(nodes)) == 1
    above, below = labels[::2], labels[1::2]
    assert {y for _, y in above} == {nodes[0] - 16} and {y for _, y in below} == {nodes[0] + 22}
    assert all(later - earlier >= 120 for row in (above, below)
               for (earlier, _), (later, _) in zip(row, row[1:], strict=False))  # fmt: skip
    assert nodes[0] + 22 + 4 <= float(root.get('height'))


def test_space_that_cannot_be_guessed_is_asked_for():
    for arch in (5, (0,) * 6, 'no such architecture'):
        with pytest.raises(CondnetError, match='give space=, one of .*nb201'):
            draw(arch)


def test_pareto_front():
    assert pareto_front([3, 1, 2, 2, 4], [90, 70, 80, 85, 90]) == [1, 3, 0]
    assert pareto_front([], []) == []


def example(num: int = 30, truth: bool = True) -> Page:
    archs = NB201.sample_distinct(num, seed=1)
    rows = [
        Row(arch, 90.0 - i, 0.1 * i, 80.0 - i if truth else None, {'flops': NB201.cost(arch, 'cifar10').flops})
        for i, arch in enumerate(archs)
    ]
    measures = {'accuracy': {'kendall_tau': 0.75, 'top1': 80, 'intervals': {'kendall_tau': (0.7, 0.8)}}}
    settings = {'calibration': {'batches': 8}, 'device': '<cpu>'}
    return Page('A & B', NB201, rows, measures if truth else {}, 0.9, settings, ['a note'])


def test_page_holds_what_it_shows():
    page = make_page(example())
    assert (
        page.count('<svg xmlns') >= 10
        and 'A &amp; B' in page
        and '&lt;cpu&gt;' in page
        and '0.750 [0.700,\xa00.800]' in page
    )
    assert 'calibration.batches' in page and 'Kendall tau 0.900' in page
    frame = re.sub(r'<script.*?</script>', '', page, flags=re.DOTALL)
    assert not re.findall(r'(?:src|href)="(?!data:)', frame), 'the page asks for something'


def test_points_that_are_far_off_do_not_squeeze_the_others():
    rows = [replace(row, accuracy=90 - i / 10) for i, row in enumerate(example().rows)]
    assert 'far off' not in make_page(replace(example(), rows=rows))
    page = make_page(replace(example(), rows=[*rows[:-1], replace(rows[-1], accuracy=1.0)]))
    ranges = [tuple(map(float, found)) for found in re.findall(r'"range":\[([\d.]+),([\d.]+)\]', page)]
    assert page.count('<p>1 far off not shown') == 2 and len(ranges) == 4  # both axes of both plots
    assert [low > 80 for low, _ in ranges[1::2]] == [True, True]


def test_brackets_are_explained_where_there_are_some():
    page = example()
    assert 'Brackets' in make_page(page)
    bare = {'accuracy': {key: value for key, value in page.measures['accuracy'].items() if key != 'intervals'}}
    assert 'Brackets' not in make_page(replace(page, measures=bare))


def test_page_without_truth_or_costs():
    page = make_page(example(truth=False))
    assert 'true accuracy' not in page and 'How well it ranks' not in page and 'FLOPs' in page
    bare = replace(example(), rows=[replace(row, truth=None, costs={}) for row in example().rows])
    assert 'plotly' not in make_page(bare) and 'The best' in make_page(bare)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason='needs chromium')
def test_page_in_a_browser(tmp_path):
    """Without a network it draws its plots, says nothing on the console, and names an architecture on hover."""
    sync_api = pytest.importorskip('playwright.sync_api')
    write_page(tmp_path / 'page.html', example())
    said, asked = [], []
    with sync_api.sync_playwright() as playwright:
        flags = ['--no-sandbox', '--disable-gpu', '--disable-background-networking']
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        shown = browser.new_page(offline=True, viewport={'width': 1200, 'height': 900})
        shown.on('console', lambda message: said.append(message.text))
        shown.on('pageerror', lambda error: said.append(str(error)))
        shown.on('request', lambda request: asked.append(request.url))
        shown.goto((tmp_path / 'page.html').as_uri())
        points = shown.locator('.plot').first.locator('.scatterlayer .point')
        points.first.wait_for()
        assert points.count() == 30 and shown.locator('.js-plotly-plot').count() == 2
        points.nth(7).hover(force=True)
        hover = shown.locator('.hoverlayer .hovertext')
        hover.wait_for()
        assert NB201.format(example().rows[7].arch) in (hover.text_content() or '')
        browser.close()
    assert said == [] and [url for url in asked if not url.startswith(('file:', 'data:', 'blob:'))] == []
