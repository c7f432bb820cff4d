"""`rexnet share`: from a run to a folder, to the Hub, and back in a process that knows only this package."""
import json
import os
import subprocess
import sys
from pathlib import Path

import hub_cache
import numpy as np
import pytest
import yaml
from PIL import Image
from running import ROOT
from trained import trained_run

import rexnet_timm
from rexnet_timm.__main__ import main

MEASURE = '--dataset synthetic --synthetic-images 8 --device cpu --workers 0'.split()


@pytest.fixture
def run(tmp_path, monkeypatch) -> Path:
    """A copy of a run of the built-in masks, with the results of its validation."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / 'run'
    folder.mkdir()
    for name in ('model_best.pth.tar', 'args.yaml'):
        (folder / name).write_bytes((trained_run('segmentation') / name).read_bytes())
    assert main(['validate', '--checkpoint', 'run', *MEASURE]) == 0
    return folder


def test_a_run_is_shared(run, capsys):
    arguments = yaml.safe_load((run / 'args.yaml').read_text())
    assert os.path.isabs(arguments['output'])
    capsys.readouterr()
    assert main(['share', '--checkpoint', 'run']) == 0
    assert capsys.readouterr().out == (
        'run/shared: README.md, config.json, model.safetensors, results.json, example.png; scores of '
        'run/validate-test/results.json\n')
    card = (run / 'shared' / 'README.md').read_text()
    score = json.loads((run / 'validate-test' / 'results.json').read_text())['miou']
    assert f'| mIoU | {score:.1f} % |' in card and 'Data: the set synthetic' in card and '| 1 | disc |' in card
    assert 'rexnet predict photo.jpg --checkpoint FOLDER' in card and 'epochs: 1' in card
    assert arguments['output'] not in card and str(run.parent) not in card
    with Image.open(run / 'shared' / 'example.png') as picture:
        assert picture.width > 3 * 320
    assert main(['validate', '--checkpoint', 'run/shared', *MEASURE]) == 0
    again = json.loads((run / 'shared' / 'validate-test' / 'results.json').read_text())
    assert again['miou'] == score


def test_scores_of_other_weights_are_left_out(run, capsys, caplog):
    (run / 'validate-test').rename(run / 'validate-test-model.onnx')
    assert main(['share', 'out', '--checkpoint', 'run']) == 0
    assert 'no scores' in capsys.readouterr().out and not Path('out/results.json').exists()
    (run / 'validate-test-model.onnx').rename(run / 'validate-test')
    (run / 'last.pth.tar').write_bytes((run / 'model_best.pth.tar').read_bytes())
    assert main(['share', 'last', '--checkpoint', 'run/last.pth.tar']) == 0
    assert not Path('last/results.json').exists()
    os.utime(run / 'validate-test' / 'results.json', (0, 0))  # the run was trained again
    assert main(['share', 'again', '--checkpoint', 'run']) == 0
    assert 'no scores' in capsys.readouterr().out
    assert 'validate-test/results.json is older than run/model_best.pth.tar and is left out' in caplog.text


def test_the_way_there_and_what_is_left_out(run, capsys):
    (run / 'validate-test').rename(run / 'validate-validation')  # any split does where there is no test
    checkpoint = ('--checkpoint', 'run/model_best.pth.tar')
    assert main(['share', 'out', *checkpoint, '--no-picture', '--data-name', 'shapes']) == 0
    card = Path('out/README.md').read_text()
    assert sorted(os.listdir('out')) == ['README.md', 'config.json', 'model.safetensors', 'results.json']
    assert 'Data: shapes' in card and 'example.png' not in card and '| mIoU |' in card
    capsys.readouterr()
    for output, *words, message in (
            ('out', "'out/README.md' exists: pass --overwrite to replace it, or another OUTPUT."),
            ('new', '--push-to-hub', 'nobody', "--push-to-hub must be 'USER/NAME', got 'nobody'."),
            ('new', '--private', '--private is for --push-to-hub, which is not given')):
        assert main(['share', output, '--checkpoint', 'run', *words]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count('\n') == 1
    assert not Path('new').exists()


HUB = """
import base64, importlib, json, sys
from pathlib import Path
import huggingface_hub
from rexnet_timm.__main__ import main

http = importlib.import_module(type(huggingface_hub.get_session()).__module__.partition('.')[0])
folder, asked = Path(sys.argv[1]), []


def answer(request):
    path, body = request.url.path, request.read()
    asked.append([request.method, path])
    if path == '/api/repos/create':
        asked[-1].append(json.loads(body))
        return http.Response(200, json={'url': 'https://hub.invalid/someone/shapes'})
    if path.endswith('/validate-yaml'):
        return http.Response(200, json={'warnings': [], 'errors': []})
    if path == '/api/models/someone/shapes/preupload/main':
        names = [file['path'] for file in json.loads(body)['files']]
        return http.Response(200, json={'files': [
            {'path': name, 'uploadMode': 'regular', 'shouldIgnore': False, 'oid': None} for name in names]})
    if path == '/api/models/someone/shapes/commit/main':
        for line in map(json.loads, body.splitlines()):
            if line['key'] == 'file':
                (folder / line['value']['path']).write_bytes(base64.b64decode(line['value']['content']))
        return http.Response(200, json={
            'commitUrl': 'https://hub.invalid/someone/shapes/commit/1', 'commitOid': '1' * 40, 'hookOutput': ''})
    return http.Response(404, json={})


huggingface_hub.set_client_factory(lambda: http.Client(transport=http.MockTransport(answer)))
status = main(sys.argv[2:])
Path('asked.json').write_text(json.dumps(asked))
sys.exit(status)
"""

USER = """
import json, sys
import rexnet_timm
import numpy as np
import segmentation_models_pytorch as smp
import timm
import torch

folder, hub = sys.argv[1:]
x = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
models = [
    rexnet_timm.load_model(folder), rexnet_timm.load_model(hub), smp.from_pretrained(folder),
    timm.create_model('local-dir:' + folder, pretrained=True).eval(), timm.create_model(hub, pretrained=True).eval()]
with torch.no_grad():
    sums = [model(x).double().sum().item() for model in models]
masks = [rexnet_timm.Predictor(rexnet_timm.load_model(place))('photo.png').mask for place in (folder, hub)]
np.save('mask.npy', masks[0])
print(json.dumps([sums, bool((masks[0] == masks[1]).all())]))
"""


def call(code: str, *words: str, **variables: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, 'PYTHONPATH': str(ROOT), **variables}
    return subprocess.run(
        [sys.executable, '-c', code, *words], env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_to_the_hub_and_back(run):
    """The real client of the Hub, down to the requests, which a server within the process answers."""
    Path('received').mkdir()
    Path('out').mkdir()
    Path('out', 'private.txt').write_text('not for others')
    result = call(
        HUB, 'received', 'share', 'out', '--checkpoint', 'run', '--push-to-hub', 'someone/shapes', '--private',
        HF_HUB_OFFLINE='0', HF_TOKEN='hf_secret', HF_ENDPOINT='https://hub.invalid', HF_HUB_DISABLE_XET='1')
    assert result.returncode == 0, result.stderr
    assert 'Uploaded: rexnet predict photo.jpg --checkpoint hf-hub:someone/shapes' in result.stdout
    asked = json.loads(Path('asked.json').read_text())
    (made,) = [rest[0] for _, path, *rest in asked if path == '/api/repos/create']
    assert made['organization'] == 'someone' and made['name'] == 'shapes'
    assert made.get('visibility') == 'private' or made.get('private')
    files = {path.name: path.read_bytes() for path in Path('received').iterdir()}
    assert files.keys() == {'README.md', 'config.json', 'model.safetensors', 'results.json', 'example.png'}
    assert all(content == Path('out', name).read_bytes() for name, content in files.items())
    assert not any(word in content for content in files.values() for word in (b'hf_secret', bytes(run.parent)))

    hub_cache.store('someone/shapes', files)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (70, 90, 3), np.uint8)).save('photo.png')
    result = call(USER, 'out', 'hf-hub:someone/shapes')
    assert result.returncode == 0, result.stderr
    sums, equal = json.loads(result.stdout.splitlines()[-1])
    assert len(set(sums)) == 1 and equal
    expected = rexnet_timm.predict(rexnet_timm.load_model(run), 'photo.png').mask
    assert np.array_equal(np.load('mask.npy'), expected)
