"""The notebook among the examples runs from its first cell to its last, and is kept without outputs."""

from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / 'examples'
nbformat = pytest.importorskip('nbformat')
nbclient = pytest.importorskip('nbclient')


@pytest.fixture
def notebook():
    return nbformat.read(EXAMPLES / 'quickstart.ipynb', as_version=4)


def test_it_is_kept_without_outputs(notebook):
    nbformat.validate(notebook)
    assert [cell for cell in notebook.cells if cell.get('outputs') or cell.get('execution_count')] == []


@pytest.mark.slow
def test_it_runs(notebook, tmp_path, monkeypatch):
    monkeypatch.setenv('PYTHONPATH', str(EXAMPLES.parent))
    done = nbclient.NotebookClient(notebook, timeout=300, resources={'metadata': {'path': tmp_path}}).execute()
    assert list(tmp_path.iterdir()) == []  # nothing is written unless it is asked for
    assert '(1, 26)' in str(done.cells[-1].outputs) or '[1, 26]' in str(done.cells[-1].outputs)
