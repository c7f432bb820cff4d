"""Files and words that are wrong, damaged or made to do harm: each is refused in one line, runs nothing, fills nothing.

What a test writes is small, whatever it says of itself.
"""
import io
import json
import os
import pickle
import resource
import struct
import sys
import tarfile
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from running import huge_png, write_class_folder
from trained import trained_run

import rexnet_timm
from rexnet_timm.__main__ import main
from rexnet_timm.archives import ArchiveError
from rexnet_timm.cli.arguments import parse_train_args
from rexnet_timm.cli.mistakes import UsageError
from rexnet_timm.data.formats.dataset_yaml import is_dataset_yaml, read_dataset_yaml
from rexnet_timm.data.images import read_image
from rexnet_timm.data.labels import color_table, label_map_of
from rexnet_timm.data.masks import stored_labels
from rexnet_timm.deployment.exported_check import check_torch_export, check_torchscript
from rexnet_timm.errors import DatasetError
from rexnet_timm.files import WeightsError, load_checkpoint_file, load_weights_file
from rexnet_timm.plain_text import load_json, load_yaml

MEMORY = 300  # megabytes that a refusal may take, beside what is there before


class Runs:
    """Makes a file where it is unpickled."""

    def __reduce__(self):
        return open, ('ran', 'w')


class Large:
    """Asks for 4 GB where it is unpickled."""

    def __reduce__(self):
        return bytearray, (4_000_000_000,)


def zipped(entries: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, 'w', method) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return content.getvalue()


def saved(value: object) -> bytes:
    content = io.BytesIO()
    torch.save(value, content)
    return content.getvalue()


def entries(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def with_pickle(value: object) -> bytes:
    """A checkpoint of torch's with another pickle in it."""
    return zipped({name: pickle.dumps(value, protocol=2) if name.endswith('.pkl') else data
                   for name, data in entries(saved({'a': 1})).items()})


def tarred(data: bytes) -> bytes:
    content, info = io.BytesIO(), tarfile.TarInfo('storages')
    info.size = len(data)
    with tarfile.open(fileobj=content, mode='w') as archive:
        archive.addfile(info, io.BytesIO(data))
    return content.getvalue()


def older(value: object) -> bytes:
    content = io.BytesIO()
    torch.save(value, content, _use_new_zipfile_serialization=False)
    return content.getvalue()


def flipped(content: bytes) -> bytes:
    """One bit of the pickle turned."""
    place = content.index(b'state_dict') + 3
    return content[:place] + bytes([content[place] ^ 0x80]) + content[place + 1:]


def safetensors(header: str) -> bytes:
    return struct.pack('<Q', len(header)) + header.encode()


def once_more(content: bytes) -> bytes:
    """An archive whose directory gives an entry the size of the whole file many times over."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        infos = archive.infolist()
    size = next(info.file_size for info in infos if info.filename.endswith('data/0'))
    old = struct.pack('<II', size, size)
    assert content.count(old)
    return content.replace(old, struct.pack('<II', 2 ** 31, 2 ** 31))


def network_file(**network: object) -> bytes:
    from argparse import Namespace
    model = rexnet_timm.ReXNetV1(width_mult=0.3, depth_mult=0.2)
    return saved({'state_dict': {'a': torch.zeros(3), **model.state_dict()}, 'args': Namespace(network=network)})


WEIGHTS = {'state_dict': {'weight': torch.zeros(64, 64)}}
GONE = 'is no file of weights, or is damaged'
MORE = 'must hold no more than its size tells'

CHECKPOINTS = {
    'empty': (lambda: b'', 'must not be empty'),
    'text': (lambda: b'no weights', 'is text and no file of weights'),
    'page': (lambda: b'<!DOCTYPE html><html></html>', 'is a web page'),
    'git lfs': (lambda: b'version https://git-lfs.github.com/spec/v1\n', 'pointer that Git LFS left'),
    'noise': (lambda: bytes(np.random.default_rng(0).integers(0, 256, 999, np.uint8)), 'or is damaged'),
    'zeros': (lambda: bytes(4096), GONE),
    'half': (lambda: saved(WEIGHTS)[:9000], 'its end is missing'),
    'a zip': (lambda: zipped({'a.txt': b'1'}), 'that torch.save did not write'),
    'turned bit': (lambda: flipped(saved(WEIGHTS)), 'ama'),
    'tar': (lambda: tarred(b'1'), 'is a tar archive'),
    'code': (lambda: saved({'a': Runs()}), 'holds code (io.open)'),
    'code in a pickle': (lambda: pickle.dumps({'a': Runs()}, protocol=2), 'holds code (io.open)'),
    'code, older format': (lambda: older({'a': Runs()}), 'holds code (io.open)'),
    'a list': (lambda: saved([torch.zeros(2)]), 'must be a dict'),
    'a tensor': (lambda: saved(torch.zeros(2)), 'must be a dict'),
    'a number': (lambda: saved(3), 'must be a dict'),
    'compressed': (lambda: zipped(entries(saved({'a': torch.zeros(2_000_000)})), zipfile.ZIP_DEFLATED),
                   'has compressed entries'),
    'compressed by lzma': (lambda: zipped(entries(saved({'a': torch.zeros(200_000)})), zipfile.ZIP_LZMA),
                           'has compressed entries'),
    'entries beyond the file': (lambda: once_more(saved(WEIGHTS)), MORE),
    'a large bytearray': (lambda: with_pickle({'a': Large()}), 'asks for a bytearray'),
    'a large bytearray, older format': (lambda: older({'a': Large()}), 'asks for a bytearray'),
    'one number as 4 GB': (lambda: saved({'a': torch.zeros(1).expand(1_000_000_000)}), 'more than 8 times its own'),
    'one tensor by many names': (lambda: saved(dict.fromkeys(map(str, range(99)), torch.zeros(99_999))), MORE),
    'safetensors, no header': (lambda: safetensors('{'), 'is no safetensors file'),
    'safetensors, of 4 TB': (lambda: safetensors(
        '{"a":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4000000000000]}}'), 'is no safetensors file'),
    'safetensors, long header': (lambda: struct.pack('<Q', 2 ** 40) + b'{}', 'is no safetensors file'),
}
STATE_DICTS = {
    'no tensors': (lambda: saved({'epoch': 3}), 'Weights must be tensors by name'),
    'empty dict': (lambda: saved({}), 'an empty dict'),
    'numbers as names': (lambda: saved({'state_dict': {1: torch.zeros(2)}}), 'Weights must be tensors by name'),
}
RUNS = {
    'no network': (lambda: saved(WEIGHTS), 'does not say of which network'),
    'unknown network': (lambda: network_file(library='timm', name='rexnetv9', arguments={}), 'is not known here'),
    'network of the Hub': (lambda: network_file(library='timm', name='hf-hub:a/b', arguments={}), 'is not known here'),
    'another library': (lambda: network_file(library='os', name='system', arguments={}), 'is not known here'),
    'network without arguments': (lambda: network_file(library='timm', name='rexnetv1'), 'does not tell a network'),
    'unknown argument': (lambda: network_file(library='timm', name='rexnetv1', arguments={'wings': 2}), 'wings'),
    'a huge network': (lambda: network_file(library='timm', name='rexnetv1', arguments={'width_mult': 40.}),
                       'more weights than the file'),
    'a huge layer': (lambda: network_file(library='timm', name='rexnetv1', arguments={'num_classes': 10 ** 7}),
                     'more weights than the file'),
    'a huge U-Net': (lambda: network_file(library='smp', name='unet', arguments={
        'encoder_name': 'rexnetv1', 'decoder_channels': [9999] * 5}), 'more weights than the file'),
}


def peak() -> float:
    """Megabytes that this process has held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2 ** 20 if sys.platform == 'darwin' else 2 ** 10)


@pytest.fixture
def bounded(tmp_path, monkeypatch):
    """In an empty folder; nothing that a test reads may run or take more memory than MEMORY."""
    monkeypatch.chdir(tmp_path)
    before = peak()
    yield
    assert peak() - before < MEMORY and not Path('ran').exists()


def refused(kinds: type[Exception] | tuple, call, *args) -> str:
    with pytest.raises(kinds) as caught:
        call(*args)
    text = str(caught.value)
    assert '\n' not in text and len(text) < 1000
    return text


@pytest.mark.parametrize('name', CHECKPOINTS)
def test_a_bad_checkpoint(name, bounded):
    write, message = CHECKPOINTS[name]
    Path('a.pth').write_bytes(write())
    assert message in refused(WeightsError, load_checkpoint_file, 'a.pth')


@pytest.mark.parametrize('name', STATE_DICTS)
def test_a_checkpoint_without_weights(name, bounded):
    write, message = STATE_DICTS[name]
    Path('a.pth').write_bytes(write())
    assert message in refused(WeightsError, load_weights_file, 'a.pth')


@pytest.mark.parametrize('name', RUNS)
def test_a_checkpoint_of_a_bad_network(name, bounded):
    write, message = RUNS[name]
    Path('a.pth').write_bytes(write())
    assert message in refused(ValueError, rexnet_timm.load_model, 'a.pth')


def bomb(start: str = '') -> str:
    """A tenth of a kilobyte for each factor of nine."""
    lines = [f'{start}a0: &a0 [1, 1]']
    return '\n'.join([*lines, *(f'{start}a{i}: &a{i} [{", ".join([f"*a{i - 1}"] * 9)}]' for i in range(1, 12))])


RECIPES = {
    'text': ('just words', 'has the text'),
    'a list': ('- lr: 1', 'has a list'),
    'nothing': ('', 'it has none'),
    'no UTF-8': (b'lr: \xff', 'must be text in UTF-8'),
    'a control sign': ('lr: \x00', 'not allowed'),
    'tabs': ('lr:\n\t- 1', 'line 2'),
    'open bracket': ('mean: [0.5', 'line'),
    'twice': ('lr: 1\nlr: 2', 'lr is set a second time'),
    'a list as key': ('? [a]\n: 1', 'a key must be a name'),
    'unknown': ('learning: 1', 'there is no option learning'),
    'a near name': ('batchsize: 1', 'Did you mean batch_size'),
    'within another': ('config: other.yaml', 'there is no option config'),
    'a code tag': ('model: !!python/object/apply:os.system ["touch ran"]', 'must be'),
    'a code tag within': ('model_kwargs: {a: !!python/object/apply:os.system ["touch ran"]}', 'could not determine'),
    'bomb': (bomb(), 'stands for more than 1000000 values'),
    'bomb in arguments': (f'model_kwargs:\n{bomb("  ")}', 'stands for more than 1000000 values'),
    'bomb of merges': ('model_kwargs:\n  a0: &a0 {b: 1}\n' + '\n'.join(
        f'  a{i}: &a{i} {{<<: [{", ".join([f"*a{i - 1}"] * 9)}]}}' for i in range(1, 12)), 'stands for more than'),
    'in itself': ('model_kwargs: &a {b: *a}', 'a value holds itself'),
    'deep': ('mean: ' + '[' * 2000 + ']' * 2000, 'nested too deep'),
    'a date that is none': ('model_kwargs: {a: 2026-02-30}', 'must have values in YAML'),
    'a word for a number': ('lr: fast', 'lr must be a number above 0'),
    'a number for a switch': ('amp: 1', 'amp must be true or false'),
    'a list for a value': ('lr: [1, 2]', 'lr must be one value, got a list'),
    'no values': ('mean: []', 'mean must be at least one value'),
    'two of three': ('input_size: [3, 64]', 'input_size must be 3 values, got 2'),
    'infinite': ('lr: .inf', 'lr must be a number above 0'),
    'a mapping': ('opt: {a: 1}', 'got a mapping'),
    'arguments as a list': ('opt_args: [1]', 'opt_args must be a mapping'),
    'replaces': ('overwrite: true', 'is said on the command line only, by --overwrite'),
    'an output elsewhere': ('output: /tmp', "sets output to '/tmp', which is outside of the current folder"),
    'an output above': ('output: ..\nexperiment: x', 'outside of the current folder: pass --output ..'),
    'an experiment above': ('output: runs\nexperiment: ../../x', 'must be the name of a folder in --output'),
    'both elsewhere': ('output: /\nexperiment: etc', 'outside of the current folder'),
}


@pytest.mark.parametrize('name', RECIPES)
def test_a_bad_recipe(name, bounded):
    text, message = RECIPES[name]
    Path('a.yaml').write_bytes(text if isinstance(text, bytes) else text.encode())
    assert message in refused(UsageError, parse_train_args, ['DATA', '--config', 'a.yaml'])


def test_a_recipe_may_name_a_place_below_and_a_run_its_own(tmp_path, monkeypatch):
    (tmp_path / 'here').mkdir()
    monkeypatch.chdir(tmp_path / 'here')
    Path('a.yaml').write_text('output: runs\nexperiment: a/b')
    args = parse_train_args(['DATA', '--config', 'a.yaml'])
    assert (args.output, args.experiment) == ('runs', 'a/b')
    run = tmp_path / 'runs' / 'first'
    run.mkdir(parents=True)
    (run / 'args.yaml').write_text(yaml.safe_dump({'output': str(tmp_path / 'runs'), 'experiment': 'first'}))
    assert parse_train_args(['DATA', '--config', str(run / 'args.yaml')]).experiment == 'first'
    Path('a.yaml').write_text('output: /elsewhere')
    assert parse_train_args(['DATA', '--config', 'a.yaml', '--output', '/there']).output == '/there'


WORDS = {
    '--experiment ../x': 'must be the name of a folder in --output',
    '--experiment /tmp/x': 'must be the name of a folder in --output',
    '--experiment a/../../x': 'must be the name of a folder in --output',
    '--experiment ..': 'must be the name of a folder in --output',
    '--experimen x': 'Did you mean --experiment',
    '--config .': 'must be a file or the name of a recipe',
    '--config gone.yaml': 'There is no configuration file',
    '--epochs ten': "must be a whole number of at least 1, got 'ten'",
    '--epochs 1e9999': 'must be a whole number',
    '--lr 1e999': 'must be a number above 0',
    '--seed 99999999999999999999': 'must be at least 0 and at most 2147483647',
    '--batch-size -3': 'must be at least 1, got -3',
    '--opt ../sgd': "must be one of timm's optimizers",
    '--model-kwargs a': 'must be KEY=VALUE pairs',
    '--model-kwargs a=[': 'must have values in YAML',
    '--model-kwargs a=!!python/name:os.system': 'must have values in YAML',
    '--model-kwargs __import__(os)=1': 'must be KEY=VALUE pairs',
    '--opt-args lr=2026-02-30': 'must have values in YAML',
    '--aa os-system': 'must be a policy of timm',
    '--dataset file:///etc/passwd': 'must be one of synthetic',
    '--sched ': 'must be one of',
    '--torchcompile a b': 'is one word too many',
}


@pytest.mark.parametrize('words', WORDS)
def test_bad_words(words, bounded):
    assert WORDS[words] in refused(UsageError, parse_train_args, ['DATA', *words.split(' ')])


def test_a_class_map_is_text(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_class_folder(tmp_path / 'data')
    Path('a.pkl').write_bytes(pickle.dumps(Runs()))
    assert main(['train', 'data', '--model', 'rexnetv1_test', '--class-map', 'a.pkl', '--device', 'cpu']) == 2
    assert "must be a text file that ends in .txt, one name a line, got 'a.pkl'" in capsys.readouterr().err
    assert not Path('ran').exists()


# --- files of data ---

def npy(header: str, data: bytes = bytes(64)) -> bytes:
    padded = header.encode().ljust(117) + b'\n'
    return b'\x93NUMPY\x01\x00' + struct.pack('<H', len(padded)) + padded + data


def blank_png(side: int) -> bytes:
    """A PNG file of one bit a pixel, all of them 0."""
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))

    rows = zlib.compress(bytes(((side + 7) // 8 + 1) * side), 9)
    header = struct.pack('>IIBBBBB', side, side, 1, 0, 0, 0, 0)
    return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header) + chunk(b'IDAT', rows) + chunk(b'IEND', b'')


def of_pillow(kind: str) -> bytes:
    content = io.BytesIO()
    Image.new('L', (16, 16)).save(content, kind)
    return content.getvalue()


PICTURES = {
    'PNG, 3.6 gigapixels': ('a.png', huge_png, 'at most 89478485 pixels'),
    'PNG of 20 kB, 169 megapixels': ('a.png', lambda: blank_png(13000), 'at most 89478485 pixels'),
    'TIFF, 2.5 gigapixels': ('a.tif', lambda: of_pillow('TIFF').replace(
        struct.pack('<HHII', 256, 4, 1, 16), struct.pack('<HHII', 256, 4, 1, 50000)).replace(
        struct.pack('<HHII', 257, 4, 1, 16), struct.pack('<HHII', 257, 4, 1, 50000)), 'at most 89478485 pixels'),
    'PostScript': ('a.png', lambda: b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(ran) (w) file\n',
                   'must be readable'),
    'a format of no use': ('a.png', lambda: of_pillow('PCX'), 'must be readable'),
    'empty': ('a.png', lambda: b'', 'must be readable'),
    'half': ('a.png', lambda: of_pillow('PNG')[:40], 'must be readable'),
    'array of 3 TB': ('a.npy', lambda: npy("{'descr': '<i8', 'fortran_order': False, 'shape': (1000000, 400000), }"),
                      'must be readable'),
    'array of no end': ('a.npy', lambda: npy(
        "{'descr': '<i8', 'fortran_order': False, 'shape': (4611686018427387904, 4), }"), 'must be readable'),
    'array of objects': ('a.npy', lambda: npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }",
                                              pickle.dumps(Runs())), 'must be readable'),
    'array with code as header': ('a.npy', lambda: npy("open('ran', 'w')"), 'must be readable'),
    'archive as array': ('a.npy', lambda: zipped({'a.npy': b'1'}, zipfile.ZIP_DEFLATED), 'must be readable'),
}


@pytest.mark.parametrize('name', PICTURES)
def test_a_bad_picture(name, bounded):
    file, write, message = PICTURES[name]
    Path(file).write_bytes(write())
    assert message in refused(DatasetError, stored_labels, Path(file))
    if file != 'a.npy':
        assert message in refused(DatasetError, read_image, Path(file), 3)


def test_an_image_of_a_class_is_not_replaced_by_another(tmp_path, monkeypatch, capsys):
    """timm takes the next image for one that it cannot read, and opens PostScript by its interpreter."""
    monkeypatch.chdir(tmp_path)
    files = sorted(write_class_folder(tmp_path / 'data').glob('train/dark/*.jpg'))
    words = '--model rexnetv1_test --device cpu --img-size 32 --batch-size 24 --epochs 1 --warmup-epochs 0'
    good = files[0].read_bytes()
    for workers, content in zip('0101', (b'', PICTURES['PostScript'][1](), good[:len(good) // 2], None), strict=True):
        files[0].write_bytes(content) if content is not None else files[0].unlink()
        if content is None:  # after the folder was listed
            files[0].symlink_to(tmp_path / 'gone.jpg')
        assert main(['train', 'data', *words.split(), '--workers', workers]) == 2
        (line,) = [line for line in capsys.readouterr().err.splitlines() if 'error:' in line]
        assert f'Every image must be readable: {Path("data/train/dark/0.jpg")} is not' in line


def test_an_array_of_any_shape_is_read_whole(tmp_path):
    labels = np.arange(12, dtype=np.int32).reshape(3, 4)
    for order in 'CF':
        np.save(tmp_path / 'a.npy', np.asarray(labels, order=order))
        assert np.array_equal(stored_labels(tmp_path / 'a.npy'), labels)


TEXTS = {
    'dataset.yaml, bomb': (read_dataset_yaml, 'dataset.yaml', bomb(), 'stands for more than'),
    'dataset.yaml, code': (is_dataset_yaml, 'dataset.yaml', 'root: !!python/object/apply:os.system ["touch ran"]',
                           'must be YAML'),
    'dataset.yaml, deep': (is_dataset_yaml, 'dataset.yaml', '[' * 2000, 'must be YAML'),
    'label map, code': (label_map_of, 'a.yaml', '0: !!python/name:os.system', 'must have a pair in each line'),
    'label map, bomb': (label_map_of, 'a.yaml', bomb(), 'must have a pair in each line'),
    'colours, code': (color_table, 'a.yaml', 'road: !!python/object/apply:os.system ["touch ran"]', 'must be YAML'),
    'colours, bomb': (color_table, 'a.yaml', bomb(), 'stands for more than'),
    'colours, damaged': (color_table, 'a.json', '{"road": [1', 'must be YAML or JSON'),
    'colours, deep': (color_table, 'a.json', '[' * 2000, 'nested too deep'),
}


@pytest.mark.parametrize('name', TEXTS)
def test_a_bad_text_of_a_data_set(name, bounded):
    read, file, text, message = TEXTS[name]
    Path(file).write_text(text)
    argument = Path(file).absolute() if read in (read_dataset_yaml, is_dataset_yaml) else file
    assert message in refused((ValueError, yaml.YAMLError), read, argument)


def test_plain_texts_are_read_as_ever():
    text = 'a: &a {x: [1, 2.5, null, true, "t"]}\nb: *a\n'
    assert load_yaml(text) == yaml.safe_load(text) and load_yaml('') is None
    assert load_json('{"a": [1, {"b": null}]}') == {'a': [1, {'b': None}]}
    with pytest.raises(json.JSONDecodeError):
        load_json('{')
    with pytest.raises(ValueError, match='nested too deep'):
        load_json('[' * 200_000)


# --- saved and exported models ---

def test_the_configuration_of_a_saved_model_runs_nothing(bounded):
    Path('model').mkdir()
    for config, message in (
            ('[' * 99_999, 'nested too deep'), ('{', 'cannot be loaded by its config.json'),
            ('{"_model_class": "__builtins__"}', 'cannot be loaded'), ('{"_model_class": "os"}', 'cannot be loaded'),
            ('{"architecture": "rexnetv9"}', 'cannot be loaded'), ('{}', 'it names no model')):
        Path('model/config.json').write_text(config)
        assert message in refused(ValueError, rexnet_timm.load_model, 'model')
    Path('model/config.json').write_text('{"architecture": "rexnetv1_test", "pretrained_cfg": {}}')
    Path('model/pytorch_model.bin').write_bytes(saved({'a': Runs()}))
    refused(ValueError, rexnet_timm.load_model, 'model')
    Path('model/pytorch_model.bin').write_bytes(with_pickle({'a': Large()}))
    assert 'asks for a bytearray' in refused(ValueError, rexnet_timm.load_model, 'model')


@pytest.fixture(scope='module')
def exported(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp('exported')
    model = rexnet_timm.load_model(trained_run('segmentation'))
    for name in ('a.pt2', 'a.ts'):
        rexnet_timm.export(model, folder / name)
    return folder


def changed(content: dict[str, bytes], ending: str, before: bytes, after: bytes) -> dict[str, bytes]:
    assert any(name.endswith(ending) and before in data for name, data in content.items())
    return {name: data.replace(before, after) if name.endswith(ending) else data for name, data in content.items()}


@pytest.mark.slow
def test_an_exported_program_that_does_more_than_compute(exported, bounded):
    good = entries((exported / 'a.pt2').read_bytes())
    target, size = b'"torch.ops.aten.relu.default"', b"Symbol('s"
    sample = next(name for name in good if name.endswith('sample_inputs/model.pt'))
    cases = [
        (changed(good, 'models/model.json', target, b'"torch.os.system"'), "calls 'torch.os.system'"),
        (changed(good, 'models/model.json', target, b'"torch.hub.load"'), "calls 'torch.hub.load'"),
        (changed(good, 'models/model.json', target, b'"torch.ops.aten.from_file.default"'), 'more than computing'),
        (changed(good, 'models/model.json', target, b'"_operator.attrgetter"'), 'more than computing'),
        (changed(good, 'models/model.json', size, b"open('ran','w') + Symbol('s"), "has 'open' in an expression"),
        (changed(good, 'models/model.json', size, b"eval(chr(49)) + Symbol('s"), "has 'eval' in an expression"),
        (changed(good, 'models/model.json', size, b"Integer(1).__class__ + Symbol('s"), "has '__class__'"),
        (changed(good, 'weights_config.json', b'"use_pickle": false', b'"use_pickle": true'), 'weights as pickles'),
        ({**good, sample: saved((Runs(),))}, 'holds more than tensors'),
        ({**good, 'archive/data/constants/custom_obj_0': b'1'}, 'custom_obj_0'),
        ({**good, 'archive/data/constants/opaque_obj_0': pickle.dumps(Runs())}, 'opaque_obj_0'),
        ({**good, 'archive/data/aotinductor/model/a.so': b'1'}, 'which may be code'),
        ({**good, 'other/models/model.json': b'{}'}, 'has an entry twice')]
    for content, message in cases:
        Path('a.pt2').write_bytes(zipped(content))
        assert message in refused(ValueError, rexnet_timm.load_model, 'a.pt2'), message
    Path('a.pt2').write_bytes(zipped(good, zipfile.ZIP_DEFLATED))
    assert 'compressed entries' in refused(ArchiveError, check_torch_export, 'a.pt2')
    check_torch_export(os.fspath(exported / 'a.pt2'))


class Writes(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.from_file('ran', True, 4)


class Wakes(torch.nn.Module):
    @torch.jit.export
    def __getstate__(self) -> tuple[int, bool]:
        return 1, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[int, bool]) -> None:
        self.training = state[1]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


@pytest.mark.slow
def test_a_torchscript_program_that_does_more_than_compute(bounded):
    for module, message in ((Writes(), 'torch.from_file'), (Wakes(), '__[gs]etstate__')):
        torch.jit.save(torch.jit.script(module), 'a.ts')
        with pytest.raises(ArchiveError, match=message):
            check_torchscript('a.ts')
        assert 'more than computing' in refused(ValueError, rexnet_timm.load_model, 'a.ts')
