"""What the README shows runs, and what it counts is right."""
import re
import shlex
import warnings
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import trees
from pages import blocks_of, needless_options
from running import summary
from torch.utils.flop_counter import FlopCounterMode

from rexnet_timm.__main__ import main

ROOT = Path(__file__).parents[1]
README = (ROOT / 'README.md').read_text()
MODELS = (ROOT / 'docs' / 'backbones.md').read_text()
(PYTHON,) = re.findall(r'```python\n(.*?)```', README, re.DOTALL)
ROWS = re.findall(r'^\| `(\w+)` \| ([\d.]+) \| ([\d.]+) \| `(\w+)` \| ([\d.]+) \| ([\d.]+) \|$', MODELS, re.MULTILINE)
LAYOUTS = re.findall(r'^\| (.*) \| `rexnet (train DATA .*)` \|$', README, re.MULTILINE)
SMALL = {
    'rexnetv1_unet_1_0': ['--model', 'rexnetv1_unet_test', '--img-size', '32'],
    'rexdepth_1_0': ['--model', 'rexdepth', '--rex-width-mult', '0.25', '--rex-depth-mult', '0.2', '--img-size', '64']}


def colored(root: Path) -> Path:
    trees.write(root / 'colors.txt', 'animal,64,128,64\narchway,192,0,128\nground,0,0,0\n')
    return trees.beside(root, '{split}/images/{name}.png', '{split}/masks/{name}.png', trees.COLORS.__getitem__)


def millimetres(root: Path) -> Path:
    return trees.depth(root, '{split}/rgb/{name}.png', '{split}/depth/{name}.png', lambda path, metres: trees.save(
        path, np.rint(metres * 1000).astype(np.uint16)))


# of each row of the table a tree, and what a report of it has
OF_LAYOUTS = (
    (lambda root: trees.beside(root, '{split}/images/{name}.jpg', '{split}/masks/{name}.png'), 'eval_iou_class 2'),
    (lambda root: trees.beside(root, 'images/{name}.jpg', 'masks/{name}.png', lambda classes: classes * np.uint8(255),
                               ('all',), 2, images=6), 'eval_iou_foreground'),
    (trees.voc, 'eval_iou_person'), (colored, 'eval_iou_archway'), (trees.coco, 'eval_iou_dog'),
    (millimetres, 'eval_abs_rel'))


@pytest.mark.parametrize('number', [
    pytest.param(number, marks=[] if number in (1, 5) else pytest.mark.slow) for number in range(len(OF_LAYOUTS))])
def test_each_layout_trains_by_its_command(number, tmp_path):
    _, command = LAYOUTS[number]
    make, column = OF_LAYOUTS[number]
    data = make(tmp_path / 'set')
    words = [word.replace('DATA', str(data)) for word in shlex.split(command)]
    small = SMALL[words[words.index('--model') + 1]]
    assert main([*words, *small, *'--batch-size 2 --workers 0 --epochs 1 --warmup-epochs 0 --device cpu'.split(),
                 '--output', str(tmp_path), '--experiment', 'run']) == 0
    assert 0 <= float(summary(tmp_path / 'run')[0][column]) <= 100


def test_the_example_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    exec(compile(PYTHON, 'README.md', 'exec'), {})
    assert 'torch.Size([2, 11, 180, 240])' in capsys.readouterr().out


def test_there_are_six_layouts():
    assert len(LAYOUTS) == len(OF_LAYOUTS) == 6


def test_no_command_says_a_default():
    commands = [command for block in blocks_of(ROOT / 'README.md') for command in block.commands()
                if block.language == 'bash' and command.startswith('rexnet train')]
    commands += [f'rexnet {command}' for _, command in LAYOUTS]
    assert len(commands) == 7
    assert not [command for command in commands if needless_options(shlex.split(command)[2:])]


def test_it_is_short_and_what_it_links_to_is_there():
    assert len(README.splitlines()) < 115
    for target in re.findall(r'\]\((?!https?:)([^)#]+)', README):
        assert (ROOT / target).is_file(), target
    headings = {
        path.name: {re.sub(r'[^\w -]', '', line.lstrip('# ').lower()).replace(' ', '-')
                    for line in path.read_text().splitlines() if line.startswith('#')}
        for path in (ROOT / 'docs').glob('*.md')}
    for page, anchor in re.findall(r'\]\(docs/([\w.]+)#([^)]+)\)', README):
        assert anchor in headings[page], (page, anchor)


def cost(name: str, size: int, **kwargs) -> tuple[str, str]:
    """Millions of parameters and GMACs, as the table writes them; nothing is computed on the meta device."""
    with warnings.catch_warnings(), torch.device('meta'), torch.no_grad(), FlopCounterMode(display=False) as counter:
        warnings.simplefilter('ignore')  # initialisation has no effect there
        model = timm.create_model(name, **kwargs).eval()
        model(torch.randn(1, 3, size, size))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return f'{parameters / 1e6:.2f}', f'{counter.get_total_flops() / 2e9:.2f}'


@pytest.mark.parametrize('row', [
    pytest.param(row, id=row[0], marks=pytest.mark.slow if index else ()) for index, row in enumerate(ROWS)])
def test_the_table_of_models(row):
    backbone, params, gmacs, unet, unet_params, unet_gmacs = row
    assert cost(backbone, 224) == (params, gmacs)
    assert cost(unet, 256, num_classes=11) == (unet_params, unet_gmacs)


def test_the_table_names_every_model():
    names = {name for row in ROWS for name in (row[0], row[3])}
    assert names == set(timm.list_models('rexnetv1*', exclude_filters='*_test'))
