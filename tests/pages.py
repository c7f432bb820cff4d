"""The code on the pages of docs/: which blocks there are, what is said of each, and how they are run.

A block is run unless a comment right above it says why not. CONTRIBUTING.md lists these comments.
"""
import contextlib
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trees
from geotiffs import write_geotiff
from PIL import Image
from running import ROOT, write_class_folder

import rexnet_timm
from rexnet_timm.__main__ import COMMANDS, main
from rexnet_timm.cli.arguments import create_train_parser, train_args_of

DOCS = ROOT / 'docs'
PAGES = sorted(path for path in DOCS.rglob('*.md') if 'build' not in path.relative_to(DOCS).parts)
# why a block may be left out
REASONS = (
    'needs a GPU', 'needs several GPUs', 'needs several hosts', 'needs the Hub', 'needs the network', 'needs CamVid',
    'needs ImageNet', 'needs KITTI', 'takes hours', 'measures time', 'serves a page', 'installs packages',
    'sets up an environment', 'is a test itself', 'code of ')
# the first words of commands that reach out of the folder in which a page is run
OUTWARD = (
    'pip', 'git', 'make', 'apt', 'apt-get', 'wget', 'curl', 'docker', 'sbatch', 'srun', 'ssh', 'sudo', 'hf', 'torchrun',
    'scripts/distributed_train.sh')
WRITERS = ('check', 'convert', 'export', 'predict', 'shards', 'share', 'validate')  # besides those that train
_SHELL = re.compile(r'[|<>;&$`()]|^(for|if|while|do|cd|export)\s')


@dataclass
class Block:
    """A fenced block of a page."""
    page: Path
    line: int
    language: str
    code: str
    said: dict[str, str] = field(default_factory=dict)  # the comments above it
    title: str = ''  # the heading that it stands below

    @property
    def place(self) -> str:
        return f'{self.page.relative_to(ROOT)}:{self.line}'

    @property
    def is_run(self) -> bool:
        return self.language in ('bash', 'python') and 'not run' not in self.said

    def commands(self) -> list[str]:
        """The commands of a bash block, each in one line."""
        lines = self.code.replace('\\\n', ' ').splitlines()
        return [line.strip() for line in lines if line.strip() and not line.strip().startswith('#')]


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text()
    blocks, lines, said, number, title = [], text.splitlines(), {}, 0, ''
    whole = re.search(r'^<!-- page not run: (.*) -->$', text, re.MULTILINE)
    of_page = {'not run': whole[1]} if whole else {}
    while number < len(lines):
        line = lines[number]
        number += 1
        fence = re.match(r'(\s*)(`{3,}|~{3,})(.*)$', line)
        if fence:
            indent, ticks, language = fence.groups()
            start = number
            while number < len(lines) and not re.match(rf'\s*{ticks}\s*$', lines[number]):
                number += 1
            code = ''.join(f'{text.removeprefix(indent)}\n' for text in lines[start:number])
            blocks.append(Block(page, start, language.strip(), code, {**of_page, **said}, title))
            said, number = {}, number + 1
        elif comment := re.fullmatch(r'\s*<!-- ([\w ]+?)(?:: (.*?))? -->', line):
            said = {**said, comment[1]: comment[2] or ''}
        elif line.strip():
            said = {}
            title = line.lstrip('#').strip() if re.match('#+ ', line) else title
    return blocks


def outside_of_blocks(page: Path) -> str:
    return re.sub(r'^(\s*)(`{3,}|~{3,}).*?^\s*\2\s*$', '', page.read_text(), flags=re.DOTALL | re.MULTILINE)


def words_of_rexnet(command: str) -> list[str] | None:
    """What follows `rexnet` in a command, however it is called; None for another program."""
    if not re.match(r'rexnet |srun |scripts/|torchrun |python (-m rexnet_timm|scripts/)', command):
        return None
    words = shlex.split(command, comments=True)
    words = words[1:] if words[:1] == ['srun'] else words
    if words[:1] == ['rexnet']:
        return words[1:]
    if 'rexnet_timm' in words and words[words.index('rexnet_timm') - 1] == '-m':
        return words[words.index('rexnet_timm') + 1:]
    if words[:1] == ['scripts/distributed_train.sh']:
        return ['train', *words[words.index('--') + 1 if '--' in words else 2:]]
    script = re.fullmatch(r'(?:python )?scripts/(\w+)\.py', ' '.join(words[:2]))
    return [script[1], *words[2:]] if script and script[1] in COMMANDS else None


def needless_options(words: list[str]) -> list[str]:
    """Options in the words after `rexnet train` that say their defaults: left out, they change nothing."""
    given = create_train_parser().given(words)
    found = []
    for name in given.keys() - {'workers'}:  # whose default is that of the machine
        with contextlib.suppress(ValueError):  # of another option that asks for this one
            if _settings({other: value for other, value in given.items() if other != name}) == _settings(given):
                found.append(name)
    return sorted(found)


def _settings(given: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in vars(train_args_of(given)).items() if name != 'given'}


def in_small(words: list[str]) -> list[str]:
    """The words of a command, with those that make a training short, and leave to write where a page did before."""
    if not words or words[0] not in COMMANDS or '--help' in words:
        return words
    small = [*words]
    if words[0] == 'train':
        values = {word[2:].replace('-', '_'): following for word, following in zip(words, [*words[1:], ''], strict=True)
                  if word.startswith('--')}
        for name, value in small_options(values).items():
            given = [str(item) for item in value] if isinstance(value, tuple) else [] if value is True else [str(value)]
            small += [f'--{name.replace("_", "-")}', *given]
    elif words[0] in WRITERS:
        small.append('--overwrite')
    return small


def small_options(options: dict[str, Any]) -> dict[str, Any]:
    """Options of a training by which it takes seconds, beside those that are given by the same names."""
    if options.get('resume') not in (None, 'auto'):  # as it was begun, and one epoch more
        return {'epochs': 2, 'workers': 0, 'device': 'cpu'}
    small = {'epochs': 1, 'warmup_epochs': 0, 'workers': 0, 'device': 'cpu', 'batch_size': 2}
    model = str(options.get('model', ''))
    if re.fullmatch(r'rexnetv1\w*_unet_\d_\d', model):
        small['model'] = 'rexnetv1_unet_test'
    elif model.startswith('rexdepth'):
        small |= {'model': 'rexdepth', 'rex_width_mult': 0.25, 'rex_depth_mult': 0.2}
    elif re.fullmatch(r'rexnetv1\w*_\d_\d', model):
        small['model'] = 'rexnetv1_test'
    small |= {'input_size': (3, 64, 64)} if 'input_size' in options else {'img_size': 64}
    small |= {'synthetic_images': 16} if str(options.get('dataset', '')).startswith('synthetic') else {}
    small |= {'crops_per_image': 2} if 'crops_per_image' in options else {}
    small |= {} if 'resume' in options else {'overwrite': True}
    return small


def _of_labels(root: Path) -> Path:
    """The labels of classes 0 to 10, and 11 for what is ignored."""
    return trees.beside(root, '{split}/images/{name}.jpg', '{split}/masks/{name}.png', splits=('train', 'val', 'test'),
                        number=12, images=6)


def _binary(root: Path) -> Path:
    return trees.beside(root, 'images/{name}.jpg', 'masks/{name}.png', lambda classes: classes * np.uint8(255),
                        ('all',), 2, images=8)


def _millimetres(root: Path) -> Path:
    return trees.depth(root, '{split}/rgb/{name}.png', '{split}/depth/{name}.png', lambda path, metres: trees.save(
        path, np.rint(metres * 1000).astype(np.uint16)))


def _colored(root: Path) -> Path:
    trees.write(root / 'colors.txt', 'animal,64,128,64\narchway,192,0,128\nground,0,0,0\n')
    return trees.beside(root, '{split}/images/{name}.png', '{split}/masks/{name}.png', trees.COLORS.__getitem__)


def _deep(root: Path) -> Path:
    """Grey images of 16 bits, and masks of 0 and 255."""
    for index in range(8):
        image, classes = trees.picture(index, 2)
        trees.save(root / 'images' / f'{index}.png', image[..., 0].astype(np.uint16) * 100)
        trees.save(root / 'masks' / f'{index}.png', classes * np.uint8(255))
    return root


def _elsewhere(root: Path) -> Path:
    """The tree of Cityscapes, and beside it images and masks in folders of any names, with lists of their splits."""
    trees.cityscapes(root)
    trees.beside(root, 'photos/{name}.jpg', 'truth/{name}.png', splits=('train', 'val'))
    for split in ('train', 'val'):
        trees.write(root / 'lists' / f'{split}.txt', ''.join(f'{split}{index:02}\n' for index in range(4)))
    return root


def _kitti(root: Path) -> Path:
    """Lists with an image and its depth in each line."""
    trees.depth(root, 'raw/{name}.png', 'annotated/{name}.png', lambda path, metres: trees.save(
        path, np.rint(metres * 256).astype(np.uint16)))
    for split in ('train', 'val'):
        trees.write(root / 'lists' / f'{split}.txt', ''.join(
            f'{split}{index:02}.png {split}{index:02}.png 721.5\n' for index in range(3)))
    return root


def _rooms(root: Path) -> Path:
    return trees.depth(root, 'color/{name}.png', 'aligned/{name}.png', lambda path, metres: trees.save(
        path, np.rint(metres * 1000).astype(np.uint16)), images=5)


def _named(root: Path) -> Path:
    trees.write(root / 'classes.txt', 'a\nb\nc\n')
    return trees.beside(root, '{split}/images/{name}.jpg', '{split}/masks/{name}.png')


def _flat(root: Path) -> Path:
    return trees.beside(root, 'images/{name}.jpg', 'masks/{name}.png', splits=('all',), images=8)


def _bands(root: Path) -> Path:
    """GeoTIFFs of red, green, blue and near infrared."""
    for part, split in enumerate(('train', 'val')):
        for index in range(4):
            image, classes = trees.picture(100 * part + index)
            (root / 'images' / split).mkdir(parents=True, exist_ok=True)
            bands = np.concatenate([image, image[..., :1]], -1).transpose(2, 0, 1)
            write_geotiff(root / 'images' / split / f'{index}.tif', bands)
            trees.save(root / 'masks' / split / f'{index}.png', classes)
    return root


def _described(root: Path) -> Path:
    """The dataset.yaml that stands on the page of data, and what it describes beside it."""
    (example,) = [block.code for block in blocks_of(DOCS / 'data.md') if block.language == 'yaml']
    trees.write(root / 'dataset.yaml', example.replace('root: ../city', 'root: .'))
    return trees.beside(root, 'pictures/{split}/{name}.jpg', 'truth/{split}/{name}.png',
                        lambda classes: np.array([23, 7, 26], np.uint8)[classes])


def _table(root: Path) -> Path:
    """Images and masks of all splits in one folder each, and a table of them."""
    trees.write(root / 'classes.txt', 'a\nb\nc\n')
    trees.beside(root, 'all/{name}.jpg', 'truth/{name}.png')
    names = [f'{split}{index:02}' for split in ('train', 'val') for index in range(4)]
    rows = [f'{name[:-2]},all/{name}.jpg,truth/{name}.png' for name in names]
    trees.write(root / 'pairs.csv', '\n'.join(['split,image,mask', *rows]))
    return root


def _tags(root: Path) -> Path:
    """Images whose halves are dark or bright, with the tags of what is bright."""
    rng = np.random.default_rng(0)
    for split, number in (('train', 32), ('validation', 8)):
        rows = []
        for index in range(number):
            bright = {'west': index % 2, 'east': index // 2 % 2}
            image = rng.integers(0, 60, (40, 48, 3)) + 180 * np.repeat([*bright.values()], 24)[None, :, None]
            trees.save(root / split / f'{index}.png', image.astype(np.uint8))
            rows.append(f'{index}.png,{" ".join(tag for tag, is_on in bright.items() if is_on)}')
        trees.write(root / f'{split}.csv', '\n'.join(rows))
    return root


def _own_voc(root: Path) -> Path:
    """The tree of Pascal VOC with six classes of its own and a rim of 255, without names."""
    (trees.voc(root) / 'VOCdevkit' / 'VOC2012').rename(root / 'kit')
    for path in (root / 'kit').iterdir():
        path.rename(root / path.name)
    shutil.rmtree(root / 'VOCdevkit')
    (root / 'kit').rmdir()
    (root / 'ImageSets' / 'Segmentation' / 'trainval.txt').unlink()
    for path in (root / 'SegmentationClass').iterdir():
        labels = np.array(Image.open(path))
        trees.indexed(path, np.where(labels == 15, 5, np.where(labels == 8, 1, labels)).astype(np.uint8))
    return root


def _scene(root: Path) -> Path:
    """A GeoTIFF of four bands of 16 bits, and its mask of four classes with a part that is not drawn."""
    rasterio = pytest.importorskip('rasterio', reason='needs the extra geo')
    geo = {'crs': 'EPSG:32632', 'transform': rasterio.Affine(30, 0, 500000, 0, -30, 5400000)}
    _, classes = trees.picture(0, 4, (104, 104))
    bands = np.stack([(classes + 1) * np.uint16(100 * band) for band in range(1, 5)])
    bands[:, :, :4], classes[:6] = 0, 255
    root.mkdir()
    write_geotiff(root / 'scene.tif', bands, nodata=0, **geo)
    write_geotiff(root / 'mask.tif', classes[None], **geo)
    return root


def _tars(root: Path) -> Path:
    """Tar files of images and masks, as WebDataset writes them."""
    root.mkdir(parents=True, exist_ok=True)
    for split in ('train', 'val'):
        with tarfile.open(root / f'{split}-000000.tar', 'w') as tar:
            for index in range(4):
                for ending, pixels in zip(('jpg', 'seg.png'), trees.picture(index), strict=True):
                    content = io.BytesIO()
                    Image.fromarray(pixels).save(content, 'jpeg' if ending == 'jpg' else 'png')
                    member = tarfile.TarInfo(f'{index:04}.{ending}')
                    member.size = content.tell()
                    content.seek(0)
                    tar.addfile(member, content)
    return root


# what `<!-- data: NAME -->` puts into the folder DATA, and `<!-- data: NAME in FOLDER -->` into another
DATA: dict[str, Callable[[Path], Path]] = {
    'masks': _of_labels, 'binary': _binary, 'colors': _colored, '16-bit': _deep, 'elsewhere': _elsewhere,
    'depth': _millimetres, 'kitti': _kitti, 'rooms': _rooms, 'classes': write_class_folder, 'voc': trees.voc,
    'cityscapes': trees.cityscapes, 'ade20k': trees.ade20k, 'camvid': trees.camvid_of_kaggle, 'pet': trees.pet,
    'nnunet': trees.nnunet, 'coco': trees.coco, 'coco-panoptic': trees.coco_panoptic, 'yolo': trees.yolo_of_outlines,
    'yolo-masks': trees.yolo_of_masks, 'mmseg': trees.mmseg, 'huggingface': trees.image_folder,
    'named': _named, 'flat': _flat, 'bands': _bands, 'dataset-yaml': _described, 'table': _table, 'tags': _tags,
    'tars': _tars, 'own-voc': _own_voc, 'scene': _scene,
}


def lay_out(folder: Path) -> Path:
    """What a page may use: DATA, photos/, photo.jpg, a trained run in output/train/RUN that is also RUN, scripts/."""
    DATA['masks'](folder / 'DATA')
    for index in range(3):
        trees.save(folder / 'photos' / f'{index}.jpg', trees.picture(index, 12, (72, 96))[0])
    shutil.copyfile(folder / 'photos' / '0.jpg', folder / 'photo.jpg')
    (folder / 'scripts').symlink_to(ROOT / 'scripts')
    with in_folder(folder):
        assert main(in_small('train DATA --model rexnetv1_unet_1_0 --num-classes 11 --ignore-index 11 '
                             '--experiment RUN'.split())) == 0
    (folder / 'RUN').symlink_to(Path('output', 'train', 'RUN'))
    return folder


@contextlib.contextmanager
def in_folder(folder: Path) -> Iterator[None]:
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def run(block: Block, names: dict[str, Any]) -> None:
    """Run a block in the current folder; `names` are those of the Python block before, which it may go on with."""
    if 'data' in block.said:
        for place in block.said['data'].split(', '):
            kind, _, folder = place.partition(' in ')
            shutil.rmtree(folder or 'DATA', ignore_errors=True)
            DATA[kind](Path(folder or 'DATA'))
    if 'file' in block.said:
        path = Path(block.said['file'])
        assert not path.is_absolute() and '..' not in path.parts, block.place
        trees.write(path, block.code)
    elif block.language == 'python':
        if 'goes on' not in block.said:
            names.clear()
            names['__name__'] = '__main__'
        exec(compile(block.code, block.place, 'exec'), names)
    else:
        run_commands(block)


def run_commands(block: Block) -> None:
    """Commands of this package in this process, which has torch in memory; a block with any other by bash."""
    shorten = (lambda words: words) if 'run whole' in block.said else in_small
    commands = block.commands()
    if not any(_SHELL.search(command) for command in commands) and all(map(words_of_rexnet, commands)):
        for command in commands:
            with contextlib.suppress(SystemExit):  # of --help
                status = main(shorten(words_of_rexnet(command)))
                assert status == 0, f'{block.place}: {command}\nended with {status}'
        return
    doors = Path('.doors').absolute()
    doors.mkdir(exist_ok=True)
    door = doors / 'rexnet'
    door.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {shlex.quote(__file__)} "$@"\n')
    door.chmod(0o755)
    result = subprocess.run(
        ['bash', '-euo', 'pipefail', '-c', block.code], capture_output=True, text=True, timeout=600, env={
            **os.environ, 'PATH': os.pathsep.join([str(doors), str(Path(sys.executable).parent), os.environ['PATH']]),
            'PYTHONPATH': os.pathsep.join([str(ROOT), str(ROOT / 'tests')])})
    assert result.returncode == 0, f'{block.place}:\n{block.code}\n{result.stdout}{result.stderr}'


def train_in_small(data: Any = None, **options: Any) -> str:
    """`rexnet_timm.train` as the Python blocks of the pages find it."""
    return _train(data, **{**options, **small_options(options)})


_train = rexnet_timm.train

if __name__ == '__main__':  # `rexnet` in a block that bash runs
    sys.exit(main(in_small(sys.argv[1:])))
