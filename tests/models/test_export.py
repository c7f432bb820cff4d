"""Networks that were traced, exported, scripted or compiled take any size and give the values of eager mode."""
import copy
import logging
import operator
import warnings

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from torch import nn
from torch.export import Dim, export

import rexnet_timm
from rexnet_timm.models.any_encoder import create_encoder

ENCODER = 'rexnetv1_test'
EXAMPLE = (64, 96)
SIZES = [(64, 100), (65, 97), (97, 131), (180, 240), (33, 32)]
# torch.export holds a map of one pixel for another network than one of several, as it does for any five strides of 2
EXPORT_SIZES = [(64, 100), (65, 97), (97, 131), (180, 240), (33, 34)]


class ChosenScales(nn.Module):
    """Several outputs of one network, as a tuple."""

    def __init__(self, model: nn.Module, scales: tuple[int, ...]):
        super().__init__()
        self.model, self.scales = model, scales

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(self.model.forward_scales(x, self.scales).values())


class Values(nn.Module):
    """The values of a dict, as a tuple: torch.jit.trace knows no dict by tuples."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(self.model(x).values())


def unet(encoder_name: str = ENCODER, **kwargs) -> rexnet_timm.MultiScaleUnet:
    return rexnet_timm.MultiScaleUnet(encoder_name, **{'classes': 3, **kwargs})


KINDS = {
    'light': unet,
    'dense': lambda: unet(decoder_type='dense'),
    'unet': lambda: unet(decoder_type='unet'),
    'bilinear': lambda: unet(decoder_interpolation='bilinear'),
    'unet, bilinear': lambda: unet(decoder_type='unet', decoder_interpolation='bilinear'),
    'cut at 3': lambda: unet().prune_to_scale(3),
    'unet, cut at 2': lambda: unet(decoder_type='unet').prune_to_scale(2),
    'shipped': lambda: unet().drop_heads(),
    'scale 0': lambda: unet(scales=(0,)),
    'scales 1 and 2': lambda: unet(scales=(1, 2)),
    'binary': lambda: unet(classes=1),
    'sigmoid': lambda: unet(activation='sigmoid'),
    'shallow': lambda: unet(encoder_depth=3, scales=(0, 2)),
    'dilated': lambda: unet(output_stride=8),
    'several scales': lambda: ChosenScales(unet(), (0, 1, 3)),
    'unet, several scales': lambda: ChosenScales(unet(decoder_type='unet'), (0, 1, 3)),
    'lite': lambda: unet('rexnetv1_lite_1_0'),
    'resnet18': lambda: unet('resnet18'),
    'rounds down': lambda: unet('vgg11'),
    'patches': lambda: unet('tu-convnext_atto'),
    'patches, unet': lambda: unet('tu-convnext_atto', decoder_type='unet'),
    'timm name': lambda: timm.create_model('rexnetv1_unet', width_mult=0.25, depth_mult=0.2, num_classes=3),
    'depth': lambda: rexnet_timm.ReXDepth(width_mult=0.25, depth_mult=0.2),
    'backbone': lambda: timm.create_model('rexnetv1_test'),
    'encoder': lambda: create_encoder(ENCODER),
}
QUICK = ('light', 'unet', 'rounds down', 'depth')
# ONNX's exporter begins with torch.export, so that a kind is tried by one of the two, and two kinds by both. What is in
# neither has the graph of another kind, and is traced only.
TO_ONNX = (
    'light', 'dense', 'unet', 'cut at 3', 'shipped', 'shallow', 'several scales', 'rounds down', 'patches', 'depth')
TO_EXPORT = (
    'light', 'unet, bilinear', 'unet, cut at 2', 'scales 1 and 2', 'dilated', 'lite', 'resnet18', 'rounds down',
    'patches, unet', 'backbone', 'encoder')


@pytest.fixture(autouse=True)
def no_debug_records():
    """torch's tracers write thousands of them, which pytest would keep."""
    logging.disable(logging.DEBUG)
    yield
    logging.disable(logging.NOTSET)


def some(names) -> list:
    return [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in names]


def build(kind: str) -> nn.Module:
    torch.manual_seed(0)
    return KINDS[kind]().eval()


def images(size: tuple[int, int], number: int = 1) -> torch.Tensor:
    return torch.randn(number, 3, *size, generator=torch.Generator().manual_seed(size[0]))


def flat(output) -> list[torch.Tensor]:
    """The tensors of an output of any form."""
    if isinstance(output, dict):
        return list(output.values())
    return list(output) if isinstance(output, (list, tuple)) else [output]


def check(kind: str, converted, model: nn.Module, sizes=SIZES, number: int = 1) -> None:
    """The converted network gives eager mode's values at every size."""
    for size in sizes:
        x = images(size, number)
        with torch.no_grad():
            expected, outputs = flat(model(x)), flat(converted(x))
        if kind == 'encoder':  # the first feature is the input, and one without channels has no values
            expected, outputs = expected[1:], outputs[1:]
        assert len(outputs) == len(expected)
        for output, value in zip(outputs, expected, strict=True):
            atol = max(1e-4, 1e-5 * float(value.abs().max()))  # logits of random weights reach a thousand
            torch.testing.assert_close(torch.as_tensor(output), value, rtol=1e-4, atol=atol)


RANGES = {
    'multiples of 32': {2: 32 * Dim('rows', min=2, max=16), 3: 32 * Dim('columns', min=2, max=16)},
    'range': {2: Dim('height', min=33, max=512), 3: Dim('width', min=33, max=512)},
    'automatic': {2: Dim.AUTO, 3: Dim.AUTO},
    'batch': {0: Dim('number', min=1, max=8), 2: Dim('height', min=33, max=512), 3: Dim('width', min=33, max=512)},
    'one side': {3: Dim('width', min=33, max=512)},
}


@pytest.mark.parametrize('ranges', [
    'batch', *(pytest.param(name, marks=pytest.mark.slow) for name in RANGES if name != 'batch')])
@pytest.mark.parametrize('strict', [False, pytest.param(True, marks=pytest.mark.slow)])
def test_export_takes_free_sizes_of_every_form(ranges, strict):
    model = build('light')
    program = export(model, (images(EXAMPLE, 2),), dynamic_shapes=(RANGES[ranges],), strict=strict)
    sizes = {'multiples of 32': [(160, 192)], 'one side': [(64, 100), (64, 97)]}.get(ranges, EXPORT_SIZES)
    check('light', program.module(), model, sizes, 3 if ranges == 'batch' else 2)
    assert len(program.graph_signature.user_outputs) == 1


@pytest.mark.slow
@pytest.mark.parametrize('kind', TO_EXPORT)
def test_export_takes_any_size(kind):
    model = build(kind)
    free = {0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC}
    program = export(model, (images(EXAMPLE, 2),), dynamic_shapes=(free,))
    # where sizes are rounded down, maps of one pixel come up to 63
    sizes = EXPORT_SIZES[:-1] if kind in ('rounds down', 'patches, unet') else EXPORT_SIZES
    check(kind, program.module(), model, sizes)
    divisions = [node for node in program.graph.nodes if node.target is operator.floordiv]
    # ONNX rounds these towards zero, and python down
    assert not [node for node in divisions if getattr(node.args[0], 'target', None) in (operator.neg, operator.mul)]


def test_export_of_one_size_cuts_without_gathering():
    program = export(build('light'), (images((65, 97)),), strict=False)  # as newer releases of torch do by themselves
    assert not [node for node in program.graph.nodes if 'index_select' in str(node.target)]


@pytest.mark.parametrize('kind', some(KINDS))
def test_trace_takes_any_size(kind):
    model = build(kind)
    traceable = Values(model) if kind == 'depth' else model
    with warnings.catch_warnings():
        warnings.simplefilter('error', torch.jit.TracerWarning)  # what it warns of is frozen
        if kind in ('encoder', 'backbone', 'patches', 'patches, unet'):  # timm and SMP compare sizes of their own
            warnings.simplefilter('ignore', torch.jit.TracerWarning)
        traced = torch.jit.trace(traceable, images(EXAMPLE), strict=False, check_trace=False)
    check(kind, traced, model)


SLOW_TO_SCRIPT = (
    'rexnetv1_lite_1_0', 'resnet18', 'vgg11', 'efficientnet-b0', 'mit_b0', 'tu-resnet18', 'tu-convnext_atto')


@pytest.mark.parametrize('encoder_name, kwargs', [
    (ENCODER, {}), (ENCODER, dict(decoder_type='unet')),
    (ENCODER, dict(scales=(3,), decoder_type='unet', activation='sigmoid')),
    pytest.param(ENCODER, dict(scales=(1, 3)), marks=pytest.mark.slow),
    *(pytest.param(name, kwargs, marks=pytest.mark.slow)
      for name in SLOW_TO_SCRIPT for kwargs in ({}, dict(decoder_type='unet')))])
def test_script_gives_the_evaluation_output(encoder_name, kwargs):
    torch.jit.script(smp.Unet(encoder_name, encoder_weights=None))  # the measure: where this works, ours has to
    model = unet(encoder_name, **kwargs).eval()
    scripted = torch.jit.script(model)
    check('script', scripted, model, SIZES[:2])
    assert type(model) is rexnet_timm.MultiScaleUnet and list(model.forward_scales(images((64, 64)))) == [*model.scales]


def test_script_keeps_the_mode_of_every_module():
    model = unet('resnet18').train()
    model.freeze_encoder()
    modes = [module.training for module in model.modules()]
    torch.jit.script(model)
    assert [module.training for module in model.modules()] == modes


def test_script_of_a_depth_network_gives_the_finest_disparity():
    model = build('depth')
    scripted = torch.jit.script(model)
    x = images((65, 97))
    with torch.no_grad():
        torch.testing.assert_close(scripted(x), model(x)['disp', 0])
    assert type(model.unet) is rexnet_timm.MultiScaleUnet


@pytest.mark.slow
@pytest.mark.parametrize('kind', ['light', 'unet', 'depth', 'cut at 3', 'rounds down'])
def test_compiled_networks_take_any_size(kind):
    torch.compiler.reset()
    model = build(kind)
    compiled = torch.compile(copy.deepcopy(model), backend='eager', dynamic=True, fullgraph=True)
    check(kind, compiled, model, SIZES[:3])


@pytest.mark.slow
@pytest.mark.parametrize('kind', TO_ONNX)
def test_onnx_takes_any_size(kind, tmp_path):
    for package in ('onnx', 'onnxscript', 'onnxruntime'):
        pytest.importorskip(package, reason='the export extra is not installed: pip install rexnet-timm[export]')
    import onnxruntime

    model, path = build(kind), str(tmp_path / 'model.onnx')
    free = {0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC}
    with torch.no_grad():
        torch.onnx.export(model, (images(EXAMPLE, 2),), path, dynamo=True, dynamic_shapes=(free,), verbose=False)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(path, options)
    name = session.get_inputs()[0].name
    check(kind, lambda x: session.run(None, {name: x.numpy()}), model)
    if kind in ('light', 'unet', 'shipped', 'cut at 3'):
        assert len(session.get_outputs()) == 1


def test_what_is_too_small_is_refused_in_eager_mode_only():
    model = build('light')
    traced = torch.jit.trace(model, images((31, 64)), check_trace=False)  # the check would run eager mode
    assert traced(images((30, 31))).shape == (1, 3, 30, 31)
    with pytest.raises(ValueError, match='at least 32 x 32, got 31 x 64: enlarge or pad it'):
        model(images((31, 64)))
