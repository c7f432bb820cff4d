"""Folders for others: what this package, timm and SMP read of them, what the card says, and what it keeps to itself."""
import json
import os
from pathlib import Path

import huggingface_hub
import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from networks import image, with_statistics
from PIL import Image
from torch import nn

import rexnet_timm
from rexnet_timm.data import DataDescription
from rexnet_timm.deployment.load import describe

NAMES = ('sky', 'road | kerb', 'car')
MODELS = {
    'timm': lambda: timm.create_model('rexnetv1_unet', width_mult=0.3, num_classes=3),
    'pruned': lambda: timm.create_model('rexnetv1_unet_test', num_classes=3, in_chans=4).prune_to_scale(1),
    'multiscaleunet': lambda: rexnet_timm.MultiScaleUnet('rexnetv1_test', classes=3, scales=(0, 2)),
    'smp': lambda: smp.FPN('rexnetv1_test', encoder_weights=None, classes=3),
    'depth': lambda: timm.create_model('rexdepth', width_mult=0.3, depth_mult=0.3, scales=(0, 1)),
    'classes': lambda: timm.create_model('rexnetv1', width_mult=0.3, num_classes=3),
}


def model_of(name: str) -> nn.Module:
    """A model with a description that is not the default."""
    torch.manual_seed(0)
    task = {'depth': 'depth', 'classes': 'classification'}.get(name, 'segmentation')
    model = MODELS[name]()
    in_chans = 4 if name == 'pruned' else 3
    if in_chans == 3:
        model = with_statistics(model)
    return describe(model.eval(), DataDescription(
        task=task, class_names=() if task == 'depth' else NAMES, in_chans=in_chans, mean=(0.4,) * in_chans,
        std=(0.3,) * in_chans, input_size=(64, 96), ignore_index=255 if task == 'segmentation' else None,
        min_depth=0.5 if task == 'depth' else None))


def outputs(model: nn.Module, channels: int = 3) -> list[torch.Tensor]:
    with torch.no_grad():
        answer = model.eval()(image(1, channels, 64, 64))
    return list(answer.values()) if isinstance(answer, dict) else [answer]


def same(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    return len(first) == len(second) and all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize('name', MODELS)
def test_every_library_reads_the_folder(name, tmp_path):
    model = model_of(name)
    expected = outputs(model, model.description.in_chans)
    written = rexnet_timm.share(model, tmp_path / 'shared')
    assert written == sorted(os.listdir(tmp_path / 'shared')) == ['README.md', 'config.json', 'model.safetensors']
    again = rexnet_timm.load_model(tmp_path / 'shared')
    assert same(outputs(again, model.description.in_chans), expected)
    assert again.description == model.description and type(again) is type(model)
    if name in ('timm', 'pruned', 'depth', 'classes'):
        theirs = timm.create_model(f'local-dir:{tmp_path / "shared"}', pretrained=True)
        assert same(outputs(theirs, model.description.in_chans), expected)
        assert theirs.pretrained_cfg['mean'] == pytest.approx((0.4,) * len(theirs.pretrained_cfg['mean']))
        assert tuple(theirs.pretrained_cfg['input_size']) == (model.description.in_chans, 64, 96)
    if isinstance(model, smp.base.SegmentationModel):
        assert same(outputs(smp.from_pretrained(tmp_path / 'shared'), model.description.in_chans), expected)
    # what came back can be shared again
    rexnet_timm.share(again, tmp_path / 'again')
    assert same(outputs(rexnet_timm.load_model(tmp_path / 'again'), model.description.in_chans), expected)


def write_results(folder: Path, **more: object) -> Path:
    folder.mkdir(exist_ok=True)
    of_class = {'iou': 51.25, 'dice': 67.8, 'precision': None, 'recall': 50.}
    results = {
        'task': 'segmentation', 'split': 'test', 'images': 7, 'class_names': list(NAMES), 'miou': 51.25, 'ece': None,
        'classes': dict.fromkeys(NAMES, of_class), **more}
    (folder / 'results.json').write_text(json.dumps(results))
    return folder


def test_the_card_has_scores_classes_and_the_picture(tmp_path):
    results = write_results(tmp_path / 'results')
    Image.new('RGB', (8, 8)).save(results / 'example.png')
    written = rexnet_timm.share(
        model_of('timm'), tmp_path / 'shared', results=results, dataset='streets',
        usage='Some words on FOLDER.', training={'epochs': 30, 'opt': 'adamw', 'min_depth': 0.1})
    assert written == ['README.md', 'config.json', 'model.safetensors', 'results.json', 'example.png']
    card = huggingface_hub.ModelCard.load(tmp_path / 'shared' / 'README.md')
    assert card.data.pipeline_tag == 'image-segmentation'
    assert '7 images of the split test.\n\n| score | value |\n|---|---|\n| mIoU | 51.2 % |' in card.text
    assert '| calibration error | - |' in card.text
    assert '| 1 | road \\| kerb | 51.2 % | 67.8 % | - | 50.0 % |' in card.text
    assert '![Input, truth and prediction of an image](example.png)' in card.text
    assert 'Data: streets' in card.text and '```yaml\nepochs: 30\nopt: adamw\n```' in card.text
    assert "timm.create_model('local-dir:FOLDER', pretrained=True)" in card.text
    assert 'Some words on FOLDER.' in card.text
    rexnet_timm.share(model_of('timm'), tmp_path / 'other', results=results / 'results.json', with_picture=False)
    assert not (tmp_path / 'other' / 'example.png').exists()
    assert 'example.png' not in (tmp_path / 'other' / 'README.md').read_text()


@pytest.mark.parametrize('name, pipeline, file', [
    ('depth', 'depth-estimation', 'depth.png'), ('classes', 'image-classification', 'classes.csv')])
def test_cards_of_other_tasks(name, pipeline, file, tmp_path):
    rexnet_timm.share(model_of(name), tmp_path)
    card = huggingface_hub.ModelCard.load(tmp_path / 'README.md')
    assert card.data.pipeline_tag == pipeline and card.data.library_name == 'timm' and file in card.text
    code = card.text.split('```python')[1].split('```')[0].replace('FOLDER', str(tmp_path))
    names = {}
    exec(code, names)
    assert same(outputs(names['model']), outputs(model_of(name)))


def test_no_path_and_no_secret_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv('HF_TOKEN', 'hf_very_secret')
    secret = str(tmp_path / 'patients')
    training = {
        'data_dir': secret, 'output': secret, 'experiment': 'patients', 'initial_checkpoint': f'{secret}/last.pth',
        'pretrained_path': secret, 'config': f'{secret}/x.yaml', 'class_map': secret, 'resume': secret,
        'model': f'local-dir:{secret}', 'encoder_name': 'C:\\patients', 'opt_args': {'path': secret},
        'aa': '~/patients', 'epochs': 3, 'lr': 0.1, 'device': 'cuda:1'}
    model = model_of('classes')
    # as a model keeps the file that it began with
    model.pretrained_cfg.update(file=f'{secret}/start.pth', url=f'file://{secret}')
    rexnet_timm.share(model, tmp_path / 'shared', training=training)
    for path in (tmp_path / 'shared').iterdir():
        content = path.read_bytes()
        assert b'patients' not in content and b'very_secret' not in content and bytes(tmp_path) not in content, path
    assert 'epochs: 3\nlr: 0.1\n' in (tmp_path / 'shared' / 'README.md').read_text()


def test_other_files_stay(tmp_path):
    (tmp_path / 'notes.txt').write_text('mine')
    rexnet_timm.share(model_of('classes'), tmp_path)
    (tmp_path / 'results.json').write_text('{"miou": 1}')  # of the model that is replaced
    with pytest.raises(ValueError, match=r'README.md. exists: pass overwrite to replace it, or another folder\.$'):
        rexnet_timm.share(model_of('timm'), tmp_path)
    assert rexnet_timm.load_model(tmp_path).description.task == 'classification'
    rexnet_timm.share(model_of('timm'), tmp_path, overwrite=True)
    assert rexnet_timm.load_model(tmp_path).description.task == 'segmentation'
    assert (tmp_path / 'notes.txt').read_text() == 'mine' and len(os.listdir(tmp_path)) == 4


@pytest.mark.parametrize('more, message', [
    ({'task': 'depth'}, 'of segmentation, and .* is of depth: validate this model'),
    ({'class_names': ['a', 'b', 'c']}, 'names other classes: validate this model'),
    ({'split': None, 'only': 1}, None),
])
def test_results_of_another_model_are_refused(more, message, tmp_path):
    results = write_results(tmp_path / 'results', **more)
    if message is None:
        (results / 'results.json').write_text('[1]')
        message = 'is another file'
    with pytest.raises(ValueError, match=message):
        rexnet_timm.share(model_of('timm'), tmp_path / 'shared', results=results)
    assert not (tmp_path / 'shared').exists()


def test_what_is_no_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match='must be one of timm or segmentation_models_pytorch, .* got Linear'):
        rexnet_timm.share(nn.Linear(2, 2), tmp_path / 'shared')
    for name in ('timm', 'classes'):
        with pytest.raises(ValueError, match='rebuilt from its name and arguments .*as load_model gave it, not fused'):
            rexnet_timm.share(rexnet_timm.fuse(model_of(name)), tmp_path / 'shared')
    model = model_of('classes')
    for name in ('nobody', 'a/b/c', 'a b/c', ''):
        with pytest.raises(ValueError, match="repo_id must be 'USER/NAME', got"):
            rexnet_timm.share(model, tmp_path / 'shared', repo_id=name)
    assert not (tmp_path / 'shared').exists()


def test_an_upload_that_fails_leaves_the_folder(tmp_path):
    # the tests are offline, and the real client of the Hub says so
    with pytest.raises(ValueError, match="'someone/classes' was not uploaded to .*offline.* The folder .* is complete"):
        rexnet_timm.share(model_of('classes'), tmp_path / 'shared', repo_id='someone/classes')
    assert rexnet_timm.load_model(tmp_path / 'shared').class_names == list(NAMES)
    assert "'hf-hub:someone/classes'" in (tmp_path / 'shared' / 'README.md').read_text()
