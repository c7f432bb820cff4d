"""The drawings of the documentation say what the code is, and pictures for it are drawn."""
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
import torch
from PIL import Image
from running import ROOT, load_script

import rexnet_timm
from rexnet_timm.data import DataDescription
from rexnet_timm.deployment.load import describe


@pytest.fixture(scope='module')
def script():
    return load_script('draw_docs')


def test_the_package_is_drawn_as_it_is(script):
    text = (ROOT / 'CONTRIBUTING.md').read_text()
    drawn = script.draw_package(script.package_files(text), script.imported_rooms())
    assert drawn == (ROOT / 'docs' / script.PACKAGE).read_text(), 'run scripts/draw_docs.py'
    texts = [element.text for element in ElementTree.fromstring(drawn).iter() if element.tag.endswith('}text')]
    assert {'training/', 'data/', 'formats/public.py', 'unet.py', 'kinds/base.py', 'files.py'} <= set(texts)
    assert texts.count('imports ground') == 3 and 'imports none of the others' in texts


def test_the_network_is_drawn_as_it_is(script):
    drawn = script.draw_network(script.network_facts())
    assert drawn == (ROOT / 'docs' / script.NETWORK).read_text(), 'run scripts/draw_docs.py'
    texts = [element.text for element in ElementTree.fromstring(drawn).iter() if element.tag.endswith('}text')]
    assert {'3 × 256 × 256', '188 × 8 × 8', '11 × 16 × 16', 'labels 16 × 16', 'loss × 0.52'} <= set(texts)


def test_a_file_in_another_room_is_drawn_there(script):
    text = """```
rexnet_timm/
  errors.py      errors
  data/
    formats/
      __init__.py  the table
  configs/
    a.yaml       a recipe
scripts/
  demo.py        a demo
```"""
    assert script.package_files(text) == {
        'ground': {'errors.py': 'errors'}, 'data': {'formats/__init__.py': 'the table'},
        'scripts': {'demo.py': 'a demo'}}


def test_columns_are_as_low_as_they_can_be(script):
    assert script.fitting_height([5, 5, 5, 5], 2) == 10
    assert 12 <= script.fitting_height([7, 5, 7], 2) < 13


@pytest.fixture
def camvid(tmp_path):
    """Images with masks in the layout of the SegNet tutorial, the second with more classes."""
    rng = np.random.default_rng(0)
    for folder in ('val', 'valannot', 'train', 'trainannot'):
        (tmp_path / folder).mkdir()
    for index in range(4):
        Image.fromarray(rng.integers(0, 255, (48, 64, 3), dtype=np.uint8)).save(tmp_path / 'val' / f'{index}.png')
        mask = np.full((48, 64), 3, np.uint8)
        mask[:, :8 * (index % 2)], mask[:4] = 8, 11
        Image.fromarray(mask).save(tmp_path / 'valannot' / f'{index}.png')
    return tmp_path


def test_a_street_scene(camvid, tmp_path, monkeypatch, capsys):
    script = load_script('street_scene')
    model = rexnet_timm.MultiScaleUnet('rexnetv1_test', classes=11)
    monkeypatch.setattr(script.rexnet_timm, 'load_model', lambda path: describe(model, DataDescription()))
    output = tmp_path / 'street.png'
    words = [str(camvid), '--checkpoint', 'run', '--output', str(output), '--width', '600']
    assert script.main(words) == 0
    assert '2 images' in capsys.readouterr().out and output.stat().st_size <= script.MOST_BYTES
    picture = Image.open(output)
    assert picture.width == 600
    colors = {color for _, color in picture.convert('RGB').getcolors(1 << 24)}
    assert {script.COLORS['road'], script.COLORS['car'], (255, 255, 255)} <= colors
    dataset = script.dataset_of(camvid, 'camvid', 'val')
    assert script.chosen(dataset, 2, ()) == [1, 3] and script.chosen(dataset, 9, ()) == [0, 1, 2, 3]
    assert script.chosen(dataset, 2, ['2']) == [2]
    assert script.main([*words, '--images', 'x']) == 2
    assert "The split has no image 'x': its images are '0' to '3'." in capsys.readouterr().err
    few = rexnet_timm.MultiScaleUnet('rexnetv1_test', classes=3)
    monkeypatch.setattr(script.rexnet_timm, 'load_model', lambda path: describe(few, DataDescription()))
    assert script.main(words) == 2
    assert 'The data have 11 classes, and the model 3' in capsys.readouterr().err


def test_a_large_scene_is_written_in_fewer_colours(monkeypatch):
    script = load_script('street_scene')
    pixels = torch.randint(256, (90, 90, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    noise = Image.fromarray(pixels.numpy())
    monkeypatch.setattr(script, 'MOST_BYTES', 12_000)
    content = script.encoded(noise, [(1, 2, 3)])
    assert len(content) <= 12_000
    monkeypatch.setattr(script, 'MOST_BYTES', 100)
    with pytest.raises(ValueError, match='pass a smaller --width, or fewer images'):
        script.encoded(noise, [])
