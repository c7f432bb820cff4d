"""`rexnet check`: what it prints and writes, and that the command at its end trains."""
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import trees
import yaml
from PIL import Image
from running import distributed, summary, write_class_folder
from test_images_of_any_kind import folder, write_array, write_grey, write_rgb_and_infrared, write_six
from test_layouts import binary_pngs, colored_masks

import rexnet_timm
from rexnet_timm.__main__ import main
from rexnet_timm.cli.arguments import parse_train_args, train_args_of
from rexnet_timm.cli.kinds import Segmentation
from rexnet_timm.cli.planned import words_of
from rexnet_timm.data.labels import label_map_of
from rexnet_timm.deployment.load import load_model

SMALL = '--model rexnetv1_unet_test --device cpu'.split()
# what is typed behind the printed command, so that a test ends soon
SOON = '--epochs 1 --warmup-epochs 0 --workers 0 --device cpu --output runs --experiment run --overwrite'.split()


def numbered(root: Path, labels: tuple[int, ...] = (0, 1, 2), **options) -> Path:
    return trees.beside(root, '{split}/images/{name}.jpg', '{split}/masks/{name}.png',
                        lambda classes: np.array(labels, np.uint8)[classes], number=len(labels), **options)


def report(name: str) -> dict:
    return json.loads((Path('output') / 'check' / name / 'check.json').read_text())


def check(data: Path, *words: str) -> int:
    return main(['check', str(data), *SMALL, *words])


TREES = {
    name: getattr(trees, name) for name in (
        'voc', 'cityscapes', 'ade20k', 'camvid_of_kaggle', 'camvid_of_the_release', 'pet', 'nnunet', 'coco',
        'coco_panoptic', 'yolo_of_outlines', 'yolo_of_masks', 'mmseg', 'image_folder')}
TREES |= {
    'binary': binary_pngs, 'colours': colored_masks, 'numbers': numbered,
    'void': lambda root: numbered(root, (0, 1, 255)), 'gaps': lambda root: numbered(root, (0, 40, 90, 200)),
    'no-validation': lambda root: numbered(root, splits=('train',), images=6)}
STATUS = {'camvid_of_kaggle': 0, 'camvid_of_the_release': 0, 'nnunet': 0, 'coco': 0, 'yolo_of_masks': 0, 'mmseg': 0,
          'binary': 0, 'numbers': 0}  # of the others 1, since they have warnings


@pytest.mark.parametrize('name', [
    pytest.param(name, marks=[] if name in ('binary', 'colours') else pytest.mark.slow) for name in TREES])
def test_the_printed_command_trains(name, tmp_path, monkeypatch, capsys):
    data = TREES[name](tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert check(data) == STATUS.get(name, 1)
    printed, found = capsys.readouterr().out, report(name)
    command = shlex.split(re.search(r'To train:\n\n(.*?)\n\n', printed, re.DOTALL)[1].replace('\\\n', ' '))
    assert command == shlex.split(found['command']) and command[:2] == ['rexnet', 'train']
    assert main([*command[1:], *SOON]) == 0
    # the run read of the labels what the check counted
    description = load_model(Path('runs') / 'run').description
    assert list(description.class_names) == found['class_names']
    row = summary(Path('runs') / 'run')[0]
    part = next(split for name, split in found['splits'].items() if name.startswith('val')) \
        if len(found['splits']) > 1 else None
    for class_name in found['class_names'] if part else ():
        is_there = row[f'eval_iou_{class_name}'] not in ('', 'nan')
        assert is_there >= (class_name in part['classes']), class_name
    with Image.open(Path('output') / 'check' / name / 'check.png') as sheet:
        assert sheet.width > 700 and sheet.height > 100


@pytest.mark.parametrize('name', [
    pytest.param(name, marks=[] if name == 'void' else pytest.mark.slow) for name in (
        'void', 'gaps', 'colours', 'binary', 'voc', 'coco', 'yolo_of_outlines', 'nnunet', 'camvid_of_kaggle')])
def test_what_is_written_trains(name, tmp_path, monkeypatch, capsys):
    data = TREES[name](tmp_path / name)
    monkeypatch.chdir(tmp_path)
    check(data, '--write')
    assert (data / 'dataset.yaml').is_file() and 'description in' in capsys.readouterr().out
    found = report(name)
    command = shlex.split(found['command'])
    assert not {'--ignore-index', '--label-map', '--color-map'} & set(command)
    assert main([*command[1:], *SOON]) == 0
    assert list(load_model(Path('runs') / 'run').description.class_names) == found['class_names']
    # and says the same of the data when these are checked again
    assert check(data, '--results-dir', 'again') <= 1
    again = json.loads((Path('again') / 'check.json').read_text())
    for split, counted in found['splits'].items():
        assert again['splits'][split]['classes'] == counted['classes']


def test_a_description_elsewhere_and_files_that_are_there(tmp_path, monkeypatch, capsys):
    data = numbered(tmp_path / 'set', (0, 1, 255))
    monkeypatch.chdir(tmp_path)
    assert check(data, '--write', 'mine.yaml') == 1
    written = yaml.safe_load(Path('mine.yaml').read_text())
    assert written == {'root': 'set', 'data_format': 'folders', 'class_names': ['background', 'foreground'],
                       'ignore_index': 255}
    command = shlex.split(report('set')['command'])
    assert command[2] == 'mine.yaml' and main([*command[1:], *SOON]) == 0
    capsys.readouterr()
    Path('check.json').write_text('mine')
    Path('yolo.yaml').write_text('names: [a]\ntrain: x\n')
    for words, text in (
            (['--write', 'mine.yaml'], "'mine.yaml' exists: pass --overwrite to replace it, or name another file."),
            (['--write', 'yolo.yaml', '--overwrite'], "'yolo.yaml' is a file of another program"),
            (['--write', 'x.txt'], "--write must be a file ending in .yaml, got 'x.txt'"),
            (['--write', 'no/x.yaml'], 'for --write: create it first'),
            (['--results-dir', 'mine.yaml'], "--results-dir must be a folder, and 'mine.yaml' is a file"),
            (['--results-dir', '.'], "'./check.json' exists: pass --overwrite to replace it, or name another place."),
            (['--results-file', 'mine.yaml'], "'mine.yaml' exists: pass --overwrite"),
            (['--results-file', 'no/x.json'], 'for --results-file: create it first'),
            (['--image-dir', 'x'], '--image-dir and --mask-dir belong together'),
            (['--model', 'rexnetv1_1_0'], '--model must be one that learns masks, such as rexnetv1_unet_1_0; '
             'rexnetv1_1_0 is for classification.'),
            (['--model', 'unet'], 'needs an --encoder-name'),
            (['--classes', '3'], 'There is no option --classes. Did you mean --num-classes?')):
        assert check(data, *words) == 2
        assert text in capsys.readouterr().err
    assert check(data, '--write', 'mine.yaml', '--overwrite') == 1
    assert main(['check']) == 2 and 'A folder of data is needed' in capsys.readouterr().err
    assert main(['check', 'gone']) == 2 and 'gone does not exist' in capsys.readouterr().err


def test_errors_are_told_and_nothing_is_proposed(tmp_path, monkeypatch, capsys):
    data = numbered(tmp_path / 'set')
    (data / 'train' / 'images' / 'train01.jpg').write_bytes(b'no picture')
    monkeypatch.chdir(tmp_path)
    assert check(data, '--write', '--results-file', 'report.json') == 2
    printed = capsys.readouterr().out
    assert 'ERROR: 1 of 4 samples of train cannot be used: Every image must be readable' in printed
    assert 'rexnet train' not in printed and not (data / 'dataset.yaml').exists() and 'is not written' in printed
    found = json.loads(Path('report.json').read_text())
    assert found == report('set') and found['command'] is None and found['level'] == 'error'
    assert found['splits']['train']['bad'][0]['image'].endswith('train01.jpg')


def test_a_folder_of_something_else(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert check(write_class_folder(tmp_path / 'classes')) == 2
    printed = capsys.readouterr().out
    assert 'ERROR: No folders of images and masks for split "train"' in printed
    assert 'or name its folders by --image-dir and --mask-dir' in printed and 'Warning' not in printed


def test_options_of_the_layout_are_repeated(tmp_path, monkeypatch):
    data = trees.cityscapes(tmp_path / 'set')
    (data / 'leftImg8bit').rename(data / 'left')
    monkeypatch.chdir(tmp_path)
    words = ('--image-dir left/{split} --mask-dir gtFine/{split} --image-suffix _leftImg8bit.png '
             '--mask-suffix _gtFine_labelIds.png --label-map 7:0 26:1 24:2 --val-split val').split()
    assert check(data, *words) == 0
    command = shlex.split(report('set')['command'])
    assert set(words) <= set(command) and main([*command[1:], *SOON]) == 0
    saved = yaml.safe_load((Path('runs') / 'run' / 'args.yaml').read_text())
    assert saved['label_map'] == ['7:0', '26:1', '24:2'] and saved['num_classes'] == 3


def test_a_table_of_colours_that_was_worked_on_stays(tmp_path, monkeypatch):
    data = colored_masks(tmp_path / 'set')
    monkeypatch.chdir(tmp_path)
    folder = Path('output') / 'check' / 'set'
    assert check(data) == 1 and check(data) == 1
    assert [path.name for path in folder.glob('*.txt')] == ['color_map.txt']
    (folder / 'color_map.txt').write_text('ground,0,0,0\nanimal,64,128,64\n')
    assert check(data) == 1
    assert (folder / 'color_map.txt').read_text().startswith('ground') and (folder / 'color_map-2.txt').is_file()
    assert check(data, '--color-map', str(folder / 'color_map.txt')) <= 1
    assert report('set')['class_names'] == ['ground', 'animal']


def test_auto_takes_what_is_proposed_and_given_options_win(tmp_path, monkeypatch, caplog):
    data = numbered(tmp_path / 'set', (0, 40, 90, 255))
    monkeypatch.chdir(tmp_path)
    check(data)
    plan = report('set')['plan']
    with caplog.at_level('INFO'):
        assert main(['train', str(data), *SMALL, '--auto', '--scale', '0.9', '1.1', *SOON]) == 0
    (line,) = (message for message in caplog.messages if message.startswith('--auto takes'))
    assert line == (f'--auto takes --label-map 0:0 40:1 90:2 --img-size 64 --batch-size 2; "rexnet check {data}" says '
                    'why')
    assert any('are apart from the others, and are ignored: 255' in message for message in caplog.messages)
    saved = yaml.safe_load((Path('runs') / 'run' / 'args.yaml').read_text())
    assert saved['scale'] == [0.9, 1.1] and saved['auto'] is False
    for name in ('img_size', 'batch_size'):
        assert saved[name] == plan[name]['value']
    assert saved['label_map'] == ['0:0', '40:1', '90:2'] and saved['num_classes'] == 3
    # what was taken repeats the run
    assert main(['train', '--config', str(Path('runs') / 'run' / 'args.yaml'), '--experiment', 'again']) == 0
    first, again = (summary(Path('runs') / name)[0] for name in ('run', 'again'))
    assert first['train_loss'] == again['train_loss'] and first['eval_miou'] == again['eval_miou']


@pytest.mark.parametrize('words, taken, not_taken', [
    (['--num-classes', '5', '--input-size', '3', '32', '64'], ['--scale', '--batch-size'],
     ['--num-classes', '--img-size']),
    pytest.param(['--no-aug', '--seg-loss', 'dice', '-b', '3'], ['--num-classes 3'],
                 ['--scale', '--batch-size'], marks=pytest.mark.slow),
])
def test_auto_beside_other_options(words, taken, not_taken, tmp_path, monkeypatch, caplog):
    data = numbered(tmp_path / 'set')
    monkeypatch.chdir(tmp_path)
    with caplog.at_level('INFO'):
        assert main(['train', str(data), *SMALL, '--auto', *words, *SOON]) == 0
    (line,) = (message for message in caplog.messages if message.startswith('--auto takes'))
    assert all(word in line for word in taken) and not any(word in line for word in not_taken)


def test_classes_of_few_pixels_are_told_and_not_weighed(tmp_path, monkeypatch, capsys, caplog):
    def labels(classes: np.ndarray) -> np.ndarray:
        rare = classes % 2
        rare[0, :2] = 2
        return rare

    data = trees.beside(tmp_path / 'set', '{split}/images/{name}.jpg', '{split}/masks/{name}.png', labels)
    monkeypatch.chdir(tmp_path)
    assert check(data) == 0
    printed = capsys.readouterr().out
    assert re.search(r'Note: class \d has \d+ times the pixels of class 2\. No --class-weights are proposed', printed)
    assert '--class-weights' not in report('set')['command'] and 'class_weights' not in report('set')['plan']
    with caplog.at_level('INFO'):
        assert main(['train', str(data), *SMALL, '--auto', *SOON]) == 0
    (line,) = (message for message in caplog.messages if message.startswith('--auto takes'))
    assert '--scale' in line and '--class-weights' not in line


def test_auto_has_no_effect_without_masks(tmp_path, caplog):
    words = ['--dataset', 'synthetic', '--synthetic-images', '4', '--img-size', '32', '--batch-size', '2', '--auto']
    assert main(['train', *SMALL, *words, *SOON[:-5], '--output', str(tmp_path)]) == 0
    assert '--auto has no effect with a built-in --dataset.' in caplog.messages


def test_auto_names_what_is_wrong(tmp_path, monkeypatch, capsys):
    data = numbered(tmp_path / 'set')
    (data / 'train' / 'images' / 'train01.jpg').write_bytes(b'no picture')
    monkeypatch.chdir(tmp_path)
    assert main(['train', str(data), *SMALL, '--auto', *SOON]) == 2
    assert '1 of 4 samples of train cannot be used' in capsys.readouterr().err
    assert main(['train', str(data), *SMALL, '--auto', '--skip-bad-samples', '1', *SOON]) == 0


@pytest.mark.parametrize('write, bits, channels', [
    (write_grey, 16, 1), pytest.param(write_six, 16, 6, marks=pytest.mark.slow),
    pytest.param(write_array, 32, 2, marks=pytest.mark.slow),
    pytest.param(write_rgb_and_infrared, 8, 4, marks=pytest.mark.slow)])
def test_images_of_other_bits_and_bands(write, bits, channels, tmp_path, monkeypatch):
    if write not in (write_grey, write_array):
        pytest.importorskip('rasterio', reason='the extra [geo] reads bands beyond those of Pillow')
    data = folder(tmp_path / 'set', write)
    monkeypatch.chdir(tmp_path)
    assert check(data) <= 1
    found = report('set')
    part = found['splits']['train']
    assert {(kind['bits'], kind['channels']) for kind in part['images']} == {(bits, channels)}
    assert len(part['mean']) == channels and all(0 < value < 1 for value in (*part['mean'], *part['std']))
    command = shlex.split(found['command'])
    assert main([*command[1:], *SOON]) == 0
    description = load_model(Path('runs') / 'run').description
    assert description.in_chans == channels and len(description.class_names) == 3


def test_images_that_are_read_by_windows(tmp_path, monkeypatch, capsys):
    """They are counted, a tile of each is shown, and the printed command trains on them."""
    pytest.importorskip('rasterio', reason='needs the extra geo')
    rng = np.random.default_rng(0)
    for split in ('train', 'val'):
        for index in range(2):
            labels = np.kron(rng.integers(0, 3, (9, 10), np.uint8), np.ones((12, 10), np.uint8))
            trees.save(tmp_path / 'set' / split / 'images' / f'{index}.tif', np.stack([labels * 80] * 3, axis=-1))
            trees.save(tmp_path / 'set' / split / 'masks' / f'{index}.tif', labels)
    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as limited:
        limited.setattr(Image, 'MAX_IMAGE_PIXELS', 10_000)
        assert check(Path('set')) == 0
        printed, found = capsys.readouterr().out, report('set')
        assert 'images  TIFF, 3 of 8 bits (2)' in printed and 'masks   8 bits (2)' in printed
        part = found['splits']['train']
        assert part['large'] == 2 and list(part['classes']) == found['class_names'] and len(part['classes']) == 3
        assert sum(counted['pixels'] for counted in part['classes'].values()) == 2 * 108 * 100
        assert main([*shlex.split(found['command'])[1:], *SOON]) == 0
    with Image.open(Path('output') / 'check' / 'set' / 'check.png') as sheet:
        assert sheet.width > 200 and sheet.height > 4 * 90


@pytest.mark.slow
def test_auto_on_two_processes(tmp_path):
    data = numbered(tmp_path / 'set', (0, 40, 90, 200))
    words = [*SMALL, '--auto', *SOON[:-5], '--output', str(tmp_path), '--experiment', 'run']
    finished = distributed(2, str(data), *words, cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr[-2000:]
    assert (finished.stdout + finished.stderr).count('--auto takes --label-map 0:0 40:1 90:2 200:3') == 1
    assert yaml.safe_load((tmp_path / 'run' / 'args.yaml').read_text())['num_classes'] == 4


def test_proposed_values_are_words_that_the_command_takes():
    values = {'num_classes': 3, 'ignore_index': -1, 'label_map': ((-5, 0), (7, 1)), 'scale': (0.75, 1.5),
              'img_size': 64, 'batch_size': 4, 'val_share': 0.2}
    args = parse_train_args(['DATA', *words_of(values)])
    for name in values.keys() - {'label_map'}:
        taken = getattr(args, name)
        assert (tuple(taken) if isinstance(taken, list) else taken) == values[name]
    assert label_map_of(args.label_map) == values['label_map']


def test_the_call_is_the_command(tmp_path, monkeypatch, capsys):
    data = numbered(tmp_path / 'set')
    monkeypatch.chdir(tmp_path)
    found = rexnet_timm.check(data, model='rexnetv1_unet_test', device='cpu', results_dir='called')
    printed = capsys.readouterr().out
    assert found == json.loads((tmp_path / 'called' / 'check.json').read_text()) and found['level'] == 'note'
    assert check(data, '--results-dir', 'typed') == 0
    typed = json.loads((tmp_path / 'typed' / 'check.json').read_text())
    assert typed == found and '--' not in printed.replace(str(tmp_path), '')
    call = re.search(r'^rexnet_timm\.train\((.*)\)$', printed, re.MULTILINE)[1]
    options = eval(f'dict(data={call})')
    assert options['data'] == str(data)
    words = shlex.split(found['command'])[2:]
    assert vars(train_args_of(options)) == vars(parse_train_args(words))
    assert not options.keys() & Segmentation.defaults.keys() - {'batch_size'}  # the rest is left to them


@pytest.mark.parametrize('options, message', [
    (dict(num_class=3), r'^There is no option num_class\. Did you mean num_classes\?'),
    (dict(results_file='nowhere/a.json'), "^There is no folder '.*nowhere' for results_file: create it first"),
    (dict(num_classes=0), '^num_classes must be at least 1, got 0'),
    (dict(model='rexdepth'), 'rexdepth'),
])
def test_a_mistake_in_the_call_is_told_in_the_words_of_python(options, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = numbered(tmp_path / 'set', images=2)
    with pytest.raises(ValueError, match=message) as error:
        rexnet_timm.check(data, **options)
    assert '--' not in str(error.value).replace(str(tmp_path), '')
    assert not (tmp_path / 'output').exists()
