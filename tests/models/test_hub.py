"""Published weights by name, through the real code of timm, SMP and huggingface_hub on a local cache, offline."""
import json
import os
from pathlib import Path
from types import SimpleNamespace

import hub_cache
import huggingface_hub
import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from networks import image
from test_weights import Trap, with_noise

import rexnet_timm
from rexnet_timm.models.any_encoder import create_encoder

ENCODER = 'rexnetv1_test'


@pytest.fixture(scope='module')
def published() -> dict[str, torch.Tensor]:
    """The entries of timm's own rexnet_100, in the cache as the repository that the names stand for."""
    torch.manual_seed(0)
    model = with_noise(timm.create_model('rexnet_100'))
    hub_cache.publish('timm/rexnet_100.nav_in1k', model)
    return model.state_dict()


def assert_loaded(module: torch.nn.Module, published: dict[str, torch.Tensor], adapted: tuple[str, ...] = ()) -> None:
    own = module.state_dict()
    changed = {key for key, value in own.items() if key not in published or not torch.equal(value, published[key])}
    assert changed == set(adapted)
    assert len(own) > 390  # of 421, so that no part is left out


@pytest.mark.parametrize('name', ['rexnetv1', 'rexnetv1_1_0', 'rexnetv1_1_0.nav_in1k'])
def test_backbones(name, published):
    model = timm.create_model(name, pretrained=True)
    assert_loaded(model, published)
    assert len(model.state_dict()) == len(published)
    assert model.pretrained_cfg['tag'] == 'nav_in1k' and model.pretrained_cfg['input_size'] == (3, 224, 224)


def test_the_repository_itself_names_timms_network(published):
    assert_loaded(timm.create_model('hf-hub:timm/rexnet_100.nav_in1k', pretrained=True), published)


def test_backbones_with_other_classes_and_channels(published):
    model = timm.create_model('rexnetv1_1_0', pretrained=True, num_classes=10, in_chans=1)
    assert_loaded(model, published, ('stem.conv.weight', 'head.fc.weight', 'head.fc.bias'))
    torch.testing.assert_close(model.stem.conv.weight, published['stem.conv.weight'].sum(1, keepdim=True))
    twin = timm.create_model('rexnet_100', pretrained=True, num_classes=10, in_chans=4)  # as timm's own adapt
    ours = timm.create_model('rexnetv1_1_0', pretrained=True, num_classes=10, in_chans=4)
    assert torch.equal(ours.stem.conv.weight, twin.stem.conv.weight)


def test_features(published):
    x = image(1, 3, 64, 64)
    ours = timm.create_model('rexnetv1_1_0', pretrained=True, features_only=True).eval()(x)
    theirs = timm.create_model('rexnet_100', pretrained=True, features_only=True).eval()(x)
    assert len(ours) == 5
    for our, their in zip(ours, theirs, strict=True):  # not to the bit, as our convolutions take BatchNorm in
        torch.testing.assert_close(our, their, rtol=0, atol=1e-5 * their.std().item())


@pytest.mark.parametrize('name', ['rexnetv1_unet', 'rexnetv1_unet_1_0'])
def test_unets_start_from_the_encoders_weights(name, published, caplog):
    model = timm.create_model(name, pretrained=True, num_classes=11)
    assert_loaded(model.encoder, published)
    gray = timm.create_model(name, pretrained=True, num_classes=11, in_chans=1)
    assert_loaded(gray.encoder, published, ('stem.conv.weight',))
    torch.testing.assert_close(gray.encoder.stem.conv.weight, published['stem.conv.weight'].sum(1, keepdim=True))
    assert not caplog.records  # weights of an encoder have no heads, and that is no news


@pytest.mark.parametrize('name', ['rexnetv1', 'rexnetv1_unet'])
def test_another_width_is_refused(name, published):
    with pytest.raises(ValueError, match='entries have another shape .*Its final conv suggests width_mult=1. Build'):
        timm.create_model(name, pretrained=True, width_mult=1.3)


@pytest.mark.parametrize('name', ['rexnetv1_0_9', 'rexnetv1_unet_0_9', 'rexnetv1_lite_1_0', 'rexnetv1r_1_0'])
def test_names_without_weights_say_so(name):
    assert not timm.models.is_model_pretrained(name)
    with pytest.raises(RuntimeError, match=f'No pretrained weights exist for {name}. Use `pretrained=False`'):
        timm.create_model(name, pretrained=True)


def test_weights_that_are_not_in_the_cache_are_asked_of_the_hub():
    # every other name goes the same way, and here the way ends
    with pytest.raises(huggingface_hub.errors.LocalEntryNotFoundError):
        timm.create_model('rexnetv1_1_3', pretrained=True)
    with pytest.raises(huggingface_hub.errors.LocalEntryNotFoundError):
        smp.Unet('rexnetv1_1_3', encoder_weights='imagenet')


@pytest.mark.parametrize('build, adapted', [
    (lambda: smp.Unet('rexnetv1'), ()),  # 'imagenet' is SMP's default
    (lambda: smp.Unet('rexnetv1_1_0', encoder_weights='imagenet', in_channels=4), ('stem.conv.weight',)),
    (lambda: smp.create_model('deeplabv3plus', 'rexnetv1', encoder_output_stride=8), ()),
    (lambda: rexnet_timm.MultiScaleUnet('rexnetv1', encoder_weights='imagenet', drop_path_rate=0.1), ()),
    (lambda: smp.create_model('multiscaleunet', 'rexnetv1', in_channels=1), ('stem.conv.weight',)),
], ids=['default', 'channels', 'dilated', 'arguments', 'multiscale'])
def test_encoder_weights(build, adapted, published):
    model = build()
    assert_loaded(model.encoder, published, adapted)


def test_tags_choose_the_repository():
    twin = with_noise(timm.create_model('rexnetr_200', num_classes=11))  # for brevity; the encoder leaves them out
    hub_cache.publish('timm/rexnetr_200.sw_in12k', twin)
    expected = twin.state_dict()
    for model in (
            timm.create_model('rexnetv1r_2_0.sw_in12k', pretrained=True, num_classes=5),
            timm.create_model('rexnetv1r_unet_2_0.sw_in12k', pretrained=True).encoder,
            smp.Unet('rexnetv1r_2_0', encoder_weights='sw_in12k').encoder,
            rexnet_timm.load_encoder_weights(create_encoder('rexnetv1r_2_0'), 'rexnetv1r_2_0.sw_in12k')):
        own = {key: value for key, value in model.state_dict().items() if not key.startswith('head.')}
        assert all(torch.equal(value, expected[key]) for key, value in own.items()) and len(own) > 390
    for build in (
            lambda: timm.create_model('rexnetv1r_2_0', pretrained=True),
            lambda: smp.Unet('rexnetv1r_2_0', encoder_weights='imagenet')):
        with pytest.raises(huggingface_hub.errors.LocalEntryNotFoundError):
            build()  # the default is sw_in12k_ft_in1k, which is not in the cache


def test_encoders_adapt_channels_as_timm_does(published):
    weight = timm.create_model('rexnet_100', pretrained=True, in_chans=4).stem.conv.weight
    torch.testing.assert_close(create_encoder('rexnetv1', 4, weights='imagenet').stem.conv.weight, weight)


def test_load_encoder_weights_takes_names(published):
    encoder = create_encoder('rexnetv1', depth=5)
    for name in ('rexnetv1_1_0', 'rexnet_100', 'rexnetv1_unet_1_0', 'hf-hub:timm/rexnet_100.nav_in1k'):
        torch.nn.init.zeros_(encoder.stem.conv.weight)
        assert_loaded(rexnet_timm.load_encoder_weights(encoder, name), published)


def test_preprocessing_of_smp(published):
    ours = rexnet_timm.get_preprocessing_params('rexnetv1')
    theirs = smp.encoders.get_preprocessing_params('tu-rexnetv1')  # SMP's own function, for the name with weights
    assert theirs == {key: ours[key] for key in theirs} and theirs['mean'] == [0.485, 0.456, 0.406]
    with pytest.raises(KeyError, match='mean'):
        # it looks at the top of config.json, where timm's repositories do not have it; should this pass, say so
        smp.encoders.get_preprocessing_params('rexnetv1')


def test_published_code_is_refused(tmp_path):
    model = timm.create_model('rexnetv1_test')
    witness = tmp_path / 'ran'
    hub_cache.publish('timm/rexnet_130.nav_in1k', model, weights={'state_dict': Trap(witness)})
    with pytest.raises(RuntimeError, match='weights_only=True blocked'):
        timm.create_model('rexnetv1_1_3', pretrained=True)
    hub_cache.publish('someone/unet', model, weights={'state_dict': Trap(witness)}, config={'encoder_name': ENCODER})
    with pytest.raises(ValueError, match="^The weights in 'someone/unet' do not load: it holds code .* has run$"):
        rexnet_timm.MultiScaleUnet.from_pretrained('someone/unet')
    assert not witness.exists()


def trained(build) -> torch.nn.Module:
    """A model whose weights and statistics are not those of a new one."""
    torch.manual_seed(1)
    model = build().train()
    with torch.no_grad():
        model(torch.randn(2, 3, 64, 64))
    return model.eval()


MODELS = {
    'Unet': lambda: smp.Unet('rexnetv1', encoder_weights=None, classes=5),
    'FPN': lambda: smp.FPN(ENCODER, encoder_weights=None, classes=5, encoder_depth=4, upsampling=2),
    'MultiScaleUnet': lambda: rexnet_timm.MultiScaleUnet('rexnetv1', width_mult=0.3, classes=5, scales=range(0, 4, 2)),
    'pruned': lambda: rexnet_timm.MultiScaleUnet(ENCODER, classes=5).prune_to_scale(1),
    'timm': lambda: timm.create_model('rexnetv1_unet', width_mult=0.3, num_classes=5),
}


@pytest.mark.parametrize('name', MODELS)
def test_saved_models_come_back(name, tmp_path):
    model, x = trained(MODELS[name]), image(1, 3, 64, 64)
    model.save_pretrained(tmp_path)
    loads = [type(model).from_pretrained, smp.from_pretrained]
    for load in loads:
        loaded = load(tmp_path)
        assert type(loaded) is type(model) and not loaded.training
        assert loaded.state_dict().keys() == model.state_dict().keys()
        with torch.no_grad():
            assert torch.equal(loaded(x), model(x))


def test_a_saved_model_brings_its_encoders_weights(published, tmp_path):
    rexnet_timm.MultiScaleUnet('rexnetv1', encoder_weights='imagenet').save_pretrained(tmp_path)
    assert json.loads((tmp_path / 'config.json').read_text())['encoder_weights'] is None  # nothing to fetch for nothing
    smp.Unet('rexnetv1', encoder_weights='imagenet').save_pretrained(tmp_path)
    assert_loaded(smp.from_pretrained(tmp_path).encoder, published)


@pytest.fixture
def uploads(monkeypatch) -> dict[str, dict[str, bytes]]:
    """What the client of the Hub was asked to upload, by repository and file."""
    sent = {}

    def upload_folder(self, *, repo_id: str, folder_path: Path, **kwargs: object) -> str:
        sent[repo_id] = {path.name: path.read_bytes() for path in Path(folder_path).iterdir()}
        return f'uploaded {repo_id}'

    monkeypatch.setattr(
        huggingface_hub.HfApi, 'create_repo', lambda self, repo_id, **kwargs: SimpleNamespace(repo_id=repo_id))
    monkeypatch.setattr(huggingface_hub.HfApi, 'upload_folder', upload_folder)
    return sent


@pytest.mark.parametrize('name', ['Unet', 'MultiScaleUnet'])
def test_pushed_models_come_back(name, uploads, tmp_path):
    model, x = trained(MODELS[name]), image(1, 3, 64, 64)
    told = dict(dataset='CamVid', metrics={'mIoU': 46.2})
    assert model.push_to_hub('someone/model', model_card_kwargs=told) == 'uploaded someone/model'
    files = uploads['someone/model']
    assert files.keys() == {'README.md', 'config.json', 'model.safetensors'}
    card = files['README.md'].decode()
    assert 'CamVid' in card and '46.2' in card and 'mIoU' in card
    hub_cache.store(f'someone/{name}', files)
    loads = [type(model).from_pretrained, smp.from_pretrained]
    for load in loads:
        with torch.no_grad():
            assert torch.equal(load(f'someone/{name}')(x), model(x))


def test_the_model_card(tmp_path):
    model = MODELS['MultiScaleUnet']()
    training = {'opt': 'adamw', 'lr': 0.002, 'epochs': 20}
    model.save_pretrained(
        tmp_path, dataset='CamVid at 240 x 180', metrics={'mIoU': 46.2, 'Dice': 55.5},
        model_card_kwargs=dict(training=training, license='mit'))
    card = huggingface_hub.ModelCard.load(tmp_path / 'README.md')
    assert card.data.license == 'mit' and card.data.pipeline_tag == 'image-segmentation'
    text = card.text
    parameters = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    # what it is
    assert '# MultiScaleUnet on rexnetv1' in text and 'logits at scales 0, 2 ' in text
    assert f'3 channels in, 5 classes out, {parameters:.2f} M parameters' in text
    # how it was trained
    assert 'Data: CamVid at 240 x 180' in text and '```yaml\nepochs: 20\nlr: 0.002\nopt: adamw\n```' in text
    # how it scores
    assert '| mIoU | 46.2 |\n| Dice | 55.5 |' in text
    arguments = json.loads(text.split('```json')[1].split('```')[0])
    assert arguments['width_mult'] == 0.3 and arguments['scales'] == [0, 2]


@pytest.mark.parametrize('name', ['FPN', 'MultiScaleUnet'])
def test_the_cards_example_loads_the_model(name, tmp_path, monkeypatch):
    model = trained(MODELS[name])
    rexnet_timm.create_model_card(model, training='by hand').save(tmp_path / 'README.md')
    model.save_pretrained(tmp_path)
    text = (tmp_path / 'README.md').read_text()
    assert 'by hand' in text and text.count('Not recorded.') == 2  # the data and the scores
    names = {'FOLDER': os.fspath(tmp_path)}
    exec(text.split('```python')[1].split('```')[0], names)
    x = image(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(names['model'](x), model(x))
