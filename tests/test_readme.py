"""What the README shows runs, and what it counts is right."""
import importlib
import re
import shlex
import warnings
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import trees
from running import summary
from torch.utils.flop_counter import FlopCounterMode

import rexnet_timm
from rexnet_timm.__main__ import COMMANDS, main
from rexnet_timm.cli.arguments import parse_train_args

ROOT = Path(__file__).parents[1]
README = (ROOT / 'README.md').read_text()
PYTHON = re.findall(r'```python\n(.*?)```', README, re.DOTALL)
TRAIN = [
    command for block in re.findall(r'```bash\n(.*?)```', README, re.DOTALL)
    for command in block.replace('\\\n', ' ').splitlines() if ' train ' in command or '_train.sh ' in command
    or '/train.py ' in command
]
AFTER = [
    shlex.split(command)[1:] for block in re.findall(r'```bash\n(.*?)```', README, re.DOTALL)
    for command in block.replace('\\\n', ' ').splitlines()
    if re.match('rexnet (validate|predict|export|share|convert|app) ', command)]
AFTER = [words for words in AFTER if words[0] in COMMANDS]
TIMM_TRAIN = [command for command in TRAIN if '--device-modules' in command]  # by timm's own script
TRAIN = [command for command in TRAIN if command not in TIMM_TRAIN]
ROWS = re.findall(r'^\| `(\w+)` \| ([\d.]+) \| ([\d.]+) \| `(\w+)` \| ([\d.]+) \| ([\d.]+) \|$', README, re.MULTILINE)


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


@pytest.mark.parametrize('code', PYTHON, ids=range(len(PYTHON)))
def test_examples_run(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(code, 'README.md', 'exec'), {})


def test_the_examples_are_there():
    assert len(LAYOUTS) == len(OF_LAYOUTS) == 6
    assert len(PYTHON) == 6 and len(TRAIN) == 9 and len(TIMM_TRAIN) == 1 and len(AFTER) >= 7


@pytest.mark.parametrize('command', TRAIN, ids=range(len(TRAIN)))
def test_training_commands_parse(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = tmp_path / 'output' / 'train' / 'RUN'
    run.mkdir(parents=True)
    (run / 'args.yaml').write_text('dataset: synthetic\n')
    words = shlex.split(command)
    # after the command, or the script and its number of processes
    start = words.index('train') + 1 if 'train' in words else 2
    args = parse_train_args(words[start:])
    assert args.data_dir in ('DATA', '/imagenet/') or args.dataset in ('synthetic', 'synthetic-depth')


@pytest.mark.parametrize('words', AFTER, ids=[' '.join(words[:1]) for words in AFTER])
def test_commands_after_training_parse(words):
    parser = importlib.import_module(f'rexnet_timm.cli.{words[0]}').create_parser()
    assert vars(parser.parse_args(words[1:]))


def test_the_whole_way_is_on_the_first_screen():
    first, *_ = README.split('## Install')
    (block,) = re.findall(r'```bash\n(.*?)```', first, re.DOTALL)
    names = [command.split()[1] for command in block.replace('\\\n', ' ').splitlines()]
    assert names == ['train', 'validate', 'predict', 'export', 'predict', 'app']


@pytest.mark.parametrize('command', TIMM_TRAIN)
def test_timms_script_is_given_a_model_of_ours(command):
    words = shlex.split(command)
    model, module = (words[words.index(option) + 1] for option in ('--model', '--device-modules'))
    kwargs = [word for word in words[words.index('--model-kwargs') + 1:] if '=' in word]
    kwargs = {key: float(value) for key, value in (pair.split('=') for pair in kwargs)}
    assert module == 'rexnet_timm' and kwargs == {'width_mult': 1.0}
    with torch.device('meta'):
        assert isinstance(timm.create_model(model, **kwargs), rexnet_timm.ReXNetV1)


def cost(name: str, size: int, **kwargs) -> tuple[str, str]:
    """Millions of parameters and GMACs, as the table writes them; nothing is computed on the meta device."""
    with warnings.catch_warnings(), torch.device('meta'), torch.no_grad(), FlopCounterMode(display=False) as counter:
        warnings.simplefilter('ignore')  # initialisation has no effect there
        model = timm.create_model(name, **kwargs).eval()
        model(torch.randn(1, 3, size, size))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return f'{parameters / 1e6:.2f}', f'{counter.get_total_flops() / 2e9:.2f}'


@pytest.mark.parametrize('row', ROWS, ids=[row[0] for row in ROWS])
def test_the_table_of_models(row):
    backbone, params, gmacs, unet, unet_params, unet_gmacs = row
    assert cost(backbone, 224) == (params, gmacs)
    assert cost(unet, 256, num_classes=11) == (unet_params, unet_gmacs)


def test_the_table_names_every_model():
    names = {name for row in ROWS for name in (row[0], row[3])}
    assert names == set(timm.list_models('rexnetv1*', exclude_filters='*_test'))


def test_the_peers_cost():
    import segmentation_models_pytorch as smp
    model = smp.Unet('tu-rexnet_100', encoder_weights=None, classes=11).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.randn(1, 3, 256, 256))
    assert f'{counter.get_total_flops() / 2e9:.2f}' == '2.99' and 'takes\n  2.99' in README
