"""The notebook of docs/: it is kept without outputs, and it runs from the folder to the exported model."""
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from running import ROOT

NOTEBOOK = ROOT / 'docs' / 'notebooks' / 'own_data.ipynb'


def cells(kind: str) -> list[dict]:
    return [cell for cell in json.loads(NOTEBOOK.read_text())['cells'] if cell['cell_type'] == kind]


def text_of(cell: dict) -> str:
    return ''.join(cell['source'])


def test_no_output_is_kept():
    assert len(cells('code')) > 10
    assert all(cell['outputs'] == [] and cell['execution_count'] is None for cell in cells('code'))
    assert json.loads(NOTEBOOK.read_text())['metadata'].keys() == {'kernelspec', 'language_info'}


def test_it_begins_with_what_has_to_be_installed():
    install, *others = cells('code')
    assert install['metadata'] == {'tags': ['install']}
    assert text_of(install).startswith('%pip install --quiet rexnet-timm ')
    assert not any('%' in line[:1] for cell in others for line in cell['source'])


def test_its_links_lead_somewhere():
    links = re.findall(r'\]\((?!https://)([^)#]+)\)', '\n'.join(map(text_of, cells('markdown'))))
    assert links and all((NOTEBOOK.parent / link).is_file() for link in links)


@pytest.mark.parametrize('page', ['index.md', 'getting_started.md', 'tutorials/notebook.md'])
def test_the_site_leads_to_it(page):
    path = ROOT / 'docs' / page
    links = re.findall(r'\]\(([^)#]+\.ipynb)\)', path.read_text())  # which Sphinx copies, and offers as a file
    assert [(path.parent / link).resolve() for link in links] == [NOTEBOOK]


def outputs(notebook) -> Iterator[tuple[str, str]]:
    """Kind and text of every output: 'stdout', 'stderr', or a type such as 'image/png'."""
    for cell in notebook.cells:
        for output in cell.get('outputs', ()):
            if output.output_type == 'stream':
                yield output.name, output.text
            else:
                yield from output.get('data', {}).items()


@pytest.mark.slow
def test_it_runs_from_a_folder_to_an_exported_model(tmp_path: Path, monkeypatch):
    nbformat = pytest.importorskip('nbformat', reason='the extra [dev] has the notebook')
    nbclient = pytest.importorskip('nbclient', reason='the extra [dev] runs the notebook')
    for module in ('ipykernel', 'matplotlib', 'onnxruntime', 'onnxscript'):
        pytest.importorskip(module, reason='the notebook needs it')
    monkeypatch.setenv('PYTHONPATH', str(ROOT))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    notebook.cells = [cell for cell in notebook.cells if 'install' not in cell.metadata.get('tags', ())]
    (training,) = (cell for cell in notebook.cells if 'rexnet_timm.train(' in cell.source)
    assert 'epochs=9,' in training.source
    training.source = training.source.replace('epochs=9,', 'epochs=3,')
    nbclient.NotebookClient(
        notebook, timeout=3600, kernel_name='python3', resources={'metadata': {'path': str(tmp_path)}}).execute()

    found = list(outputs(notebook))
    printed = '\n'.join(text for kind, text in found if kind == 'stdout')
    logged = '\n'.join(text for kind, text in found if kind == 'stderr')
    assert sum(kind == 'image/png' for kind, _ in found) == 5  # check, curves, predictions, the worst, an own image
    assert 'train: 256 pairs' in printed and "rexnet_timm.train('shapes', " in printed
    assert float(re.search(r'mIoU ([\d.]+) %', printed)[1]) > 10  # above 35 after 9 epochs
    assert float(re.search(r'([\d.]+)% of the pixels have the class', printed)[1]) > 99.9
    # that of tqdm is on widgets of Jupyter, which is another package's affair
    assert 'Best miou' in logged and 'Warning' not in logged.replace('TqdmWarning', '')
    assert '--' not in re.sub(r'-{3,}', '', printed + logged)  # the words of Python, and no flag
    assert (tmp_path / 'model.onnx').is_file() and (tmp_path / 'mask.png').is_file()
