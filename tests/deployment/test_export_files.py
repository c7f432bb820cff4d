"""Exported files give the values of the network, at any size, in any order, and say what they are."""
import copy
import json
import sys
import warnings

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from networks import with_statistics
from torch import nn

import rexnet_timm
from rexnet_timm.data import DataDescription
from rexnet_timm.deployment import export as exporting
from rexnet_timm.deployment.exported import FORMATS, METADATA, ExportedNetwork, is_exported, load_exported
from rexnet_timm.deployment.load import describe
from rexnet_timm.deployment.onnx_graph import cut_by_slices, pool_by_name

NAMES = ('sky', 'road "main"', 'Bäume')
DESCRIPTION = DataDescription(
    class_names=NAMES, colors=((0, 0, 0), (255, 0, 0), (0, 255, 0)), ignore_index=255,
    mean=(0.1, -0.2, 0.3), std=(0.5, 0.6, 0.7), value_range=(-1., 1.))
PACKAGES = {'onnx': ('onnx', 'onnxscript', 'onnxruntime'), 'openvino': ('onnx', 'onnxscript', 'openvino')}
SIZES = [(64, 96), (97, 65), (32, 32), (64, 96), (33, 160), (131, 97)]  # larger and smaller in turn


def need(format: str) -> None:
    for package in PACKAGES.get(format, ()):
        pytest.importorskip(package, reason="the export extra is not installed: pip install 'rexnet-timm[export]'")


@pytest.fixture(scope='module')
def unet() -> rexnet_timm.MultiScaleUnet:
    torch.manual_seed(0)
    return describe(with_statistics(rexnet_timm.MultiScaleUnet('rexnetv1_test', classes=3)), DESCRIPTION)


def pixels(size: tuple[int, int], number: int = 1) -> torch.Tensor:
    return torch.randint(0, 256, (number, 3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def normalized(images: torch.Tensor) -> torch.Tensor:
    """DESCRIPTION by hand: pixels from -1 to 1, then mean and std."""
    mean, std = (torch.tensor(values).reshape(3, 1, 1) for values in ((0.1, -0.2, 0.3), (0.5, 0.6, 0.7)))
    return (images / 127.5 - 1 - mean) / std


def check(network: ExportedNetwork, model: nn.Module, sizes=SIZES) -> None:
    """The file gives the values of the model, in eager mode, at every size."""
    for number, size in enumerate(sizes, 1):
        images = pixels(size, 1 + number % 3)
        with torch.no_grad():
            expected = model(normalized(images))
        output = network(images if network.takes_uint8 else normalized(images))
        assert output.shape == expected.shape and output.dtype == torch.float32
        assert float((output - expected).abs().max()) < 1e-4 * float(expected.std())


SLOW = [pytest.param(format, marks=pytest.mark.slow) for format in PACKAGES]


@pytest.mark.parametrize('format', ['torchscript', pytest.param('torch-export', marks=pytest.mark.slow), *SLOW])
def test_a_file_equals_the_network_at_sizes_in_turn(format, unet, tmp_path):
    need(format)
    path, state = tmp_path / f'model{FORMATS[format][0]}', copy.deepcopy(unet.state_dict())
    comparisons = rexnet_timm.export(unet, path)
    assert [comparison.size[1:] for comparison in comparisons] == [(64, 96), (97, 65), (160, 160)]
    assert all(comparison.difference < 1e-4 and not comparison.unequal for comparison in comparisons)
    assert all(comparison.pixels > 0.9 * comparison.size[0] * comparison.size[1] * comparison.size[2]
               for comparison in comparisons)
    weights = ['model.bin'] if format == 'openvino' else []
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted([path.name, *weights])
    network = rexnet_timm.load_model(path)
    assert network.takes_uint8 == (format in PACKAGES)
    check(network, unet)
    assert unet.scales == (0, 1, 2, 3, 4) and all(torch.equal(state[key], unet.state_dict()[key]) for key in state)
    # what it knows of its data
    assert network.description == DESCRIPTION and network.class_names == [*NAMES]
    assert network.colors == [(0, 0, 0), (255, 0, 0), (0, 255, 0)] and network.ignore_index == 255
    assert network.preprocessing == unet.preprocessing
    assert (network.output, network.num_classes, network.size) == ('logits', 3, None)
    assert not network.returns_classes and not network.training


@pytest.mark.slow
def test_the_onnx_graph_is_plain(unet, tmp_path):
    need('onnx')
    import onnx

    rexnet_timm.export(unet, tmp_path / 'model.onnx')
    model = onnx.load(tmp_path / 'model.onnx')
    onnx.checker.check_model(model, full_check=True)
    types = [node.op_type for node in model.graph.node]
    assert types.count('Cast') == 1 and 'Transpose' not in types and 'Gather' not in types and 'Range' not in types
    assert 'ReduceMean' not in types and 'GlobalAveragePool' in types and 'BatchNormalization' not in types
    shipped = copy.deepcopy(unet).drop_heads()
    assert types.count('Conv') == sum(isinstance(module, nn.Conv2d) for module in shipped.modules())
    (image,), (output,) = model.graph.input, model.graph.output
    dims = [[dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in (image, output)]
    assert dims == [['batch', 3, 'height', 'width'], ['batch', 3, 'height', 'width']]
    assert (image.name, output.name) == ('images', 'logits')
    assert image.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    properties = {entry.key: json.loads(entry.value) for entry in model.metadata_props}
    assert set(properties) == set(METADATA) and properties['class_names'] == [*NAMES]
    assert properties['preprocessing']['mean'] == [0.1, -0.2, 0.3]
    assert exporting.__file__.encode() not in model.SerializeToString(), 'no paths of this machine'


def test_classes_in_place_of_logits(unet, tmp_path):
    rexnet_timm.export(unet, tmp_path / 'model.ts', argmax=True, normalize=True)
    network = rexnet_timm.load_model(tmp_path / 'model.ts')
    assert network.returns_classes and network.takes_uint8
    images = pixels((65, 97), 2)
    with torch.no_grad():
        best = unet(normalized(images)).topk(2, dim=1)
    classes = network(images)
    assert classes.shape == (2, 65, 97) and classes.dtype == torch.uint8
    clear = best.values[:, 0] - best.values[:, 1] > 1e-3
    assert clear.float().mean() > 0.9 and torch.equal(classes[clear].long(), best.indices[:, 0][clear])


def test_a_binary_class_is_a_logit_above_zero(tmp_path):
    torch.manual_seed(0)
    model = with_statistics(rexnet_timm.MultiScaleUnet('rexnetv1_test', classes=1))
    rexnet_timm.export(model, tmp_path / 'model.ts', argmax=True)
    images = normalized(pixels((64, 64)))
    with torch.no_grad():
        logits = model(images)[:, 0]
    classes = rexnet_timm.load_model(tmp_path / 'model.ts')(images)
    clear = logits.abs() > 1e-3 * logits.std()
    assert 0 < (logits > 0).float().mean() < 1 and torch.equal(classes[clear], (logits > 0)[clear].to(torch.uint8))


def test_one_size_and_a_scale(unet, tmp_path):
    (comparison,) = rexnet_timm.export(unet, tmp_path / 'model.ts', size=(65, 97), scale=2)
    assert comparison.size[1:] == (65, 97)
    network = rexnet_timm.load_model(tmp_path / 'model.ts')
    assert network.size == (65, 97)
    check(network, copy.deepcopy(unet).prune_to_scale(2), [(65, 97)] * 2)
    with pytest.raises(ValueError, match='made for images of 65 x 97 only, got 64 x 96: resize them'):
        network(torch.zeros(1, 3, 64, 96))


@pytest.mark.slow
@pytest.mark.parametrize('format', ['torchscript', *SLOW])
def test_half_the_bytes(format, unet, tmp_path):
    need(format)
    path, half = (tmp_path / f'{name}{FORMATS[format][0]}' for name in ('whole', 'half'))
    rexnet_timm.export(unet, path, normalize=False)
    rexnet_timm.export(unet, half, normalize=False, half=True)
    if format == 'openvino':
        path, half = path.with_suffix('.bin'), half.with_suffix('.bin')
    assert half.stat().st_size < 0.75 * path.stat().st_size
    images = normalized(pixels((64, 96)))
    with torch.no_grad():
        expected = unet(images)
    output = load_exported(tmp_path / f'half{FORMATS[format][0]}')(images)
    assert output.dtype == torch.float32
    assert 0 < float((output - expected).abs().max() / expected.std()) < 0.05


@pytest.mark.slow
@pytest.mark.parametrize('format', ['torchscript', pytest.param('torch-export', marks=pytest.mark.slow), *SLOW])
def test_an_architecture_that_needs_multiples_of_its_stride_is_padded_in_the_file(format, tmp_path):
    need(format)
    torch.manual_seed(0)
    model = describe(with_statistics(smp.FPN('resnet18', encoder_weights=None, classes=3)), DESCRIPTION)
    path = tmp_path / f'model{FORMATS[format][0]}'
    rexnet_timm.export(model, path)
    network = rexnet_timm.load_model(path)

    def padded(images: torch.Tensor) -> torch.Tensor:
        height, width = images.shape[-2:]
        whole = images.new_zeros(*images.shape[:2], -(-height // 32) * 32, -(-width // 32) * 32)
        whole[..., :height, :width] = images
        return model(whole)[..., :height, :width]

    check(network, padded)
    with pytest.raises(RuntimeError, match='divisible'):
        model(torch.zeros(1, 3, 65, 64))  # the model itself stays as it was


def test_depth_gives_the_finest_disparity(tmp_path):
    torch.manual_seed(0)
    model = rexnet_timm.ReXDepth(width_mult=0.25, depth_mult=0.2).eval()
    describe(model, DataDescription(task='depth', min_depth=0.5, max_depth=20.))
    rexnet_timm.export(model, tmp_path / 'model.ts')
    network = rexnet_timm.load_model(tmp_path / 'model.ts')
    assert network.output == 'disparity' and network.description.max_depth == 20.
    images = normalized(pixels((97, 65)))
    with torch.no_grad():
        torch.testing.assert_close(network(images), model(images)['disp', 0])
    with pytest.raises(ValueError, match='a depth network has none: leave it out'):
        rexnet_timm.export(model, tmp_path / 'classes.ts', argmax=True)


@pytest.mark.parametrize('format', ['torchscript', pytest.param('onnx', marks=pytest.mark.slow)])
def test_a_classifier(format, tmp_path):
    need(format)
    torch.manual_seed(0)
    model = with_statistics(timm.create_model('rexnetv1_test', num_classes=3))
    describe(model, DataDescription(task='classification', class_names=NAMES, mean=DESCRIPTION.mean,
                                    std=DESCRIPTION.std, value_range=(-1., 1.)))
    path = tmp_path / f'model{FORMATS[format][0]}'
    rexnet_timm.export(model, path)
    check(rexnet_timm.load_model(path), model)


@pytest.mark.slow
def test_a_second_output_of_smp_is_left_out(tmp_path):
    model = with_statistics(smp.Unet('resnet18', encoder_weights=None, classes=2, aux_params={'classes': 5}))
    rexnet_timm.export(model, tmp_path / 'model.ts')
    assert rexnet_timm.load_model(tmp_path / 'model.ts')(torch.zeros(1, 3, 64, 64)).shape == (1, 2, 64, 64)
    assert model.classification_head is not None


@pytest.mark.parametrize('fault', ['values', 'nan', 'shape', 'error'])
def test_a_file_that_differs_is_not_kept(fault, unet, tmp_path, monkeypatch):
    path = tmp_path / 'model.ts'
    path.write_bytes(b'the file before')
    load = load_exported

    def faulty(file):
        network = load(file)
        run = network._run
        network._run = {
            'values': lambda x: run(x) + (x.shape[-1] == 65), 'nan': lambda x: run(x) * float('nan'),
            'shape': lambda x: run(x)[:, :2], 'error': lambda x: run(x[:, :, :-1])}[fault]
        return network

    monkeypatch.setattr(exporting, 'load_exported', faulty)
    message = {
        'values': r'differs by \d.* of the deviation of the logits \(at most 0.001\) at 97 x 65, with another class at',
        'nan': 'differs by nan', 'shape': r'must return \(1, 3, 64, 96\) .* returns \(1, 2, 64, 96\)',
        'error': 'returned'}[fault]
    with pytest.raises(RuntimeError if fault == 'error' else ValueError, match=message):
        rexnet_timm.export(unet, path)
    assert [file.name for file in tmp_path.iterdir()] == ['model.ts'] and path.read_bytes() == b'the file before'


def test_a_full_disk_leaves_what_was_there(unet, tmp_path):
    resource = pytest.importorskip('resource', reason='this system limits no sizes of files')
    path = tmp_path / 'model.ts'
    path.write_bytes(b'the file before')
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(OSError) as error:
            rexnet_timm.export(unet, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert error.value.filename == str(path)
    assert [file.name for file in tmp_path.iterdir()] == ['model.ts'] and path.read_bytes() == b'the file before'


def test_another_class_at_a_clear_pixel_is_found(unet, tmp_path, monkeypatch):
    load = load_exported

    def faulty(file):
        network = load(file)
        run = network._run
        network._run = lambda x: (run(x) + (torch.arange(x.shape[-1]) == 3)) % 3
        return network

    monkeypatch.setattr(exporting, 'load_exported', faulty)
    with pytest.raises(ValueError, match=r'differs at 64 x 96, with another class at \d+ of \d+ clear pixels'):
        rexnet_timm.export(unet, tmp_path / 'model.ts', argmax=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('format', ['onnx', 'torchscript'])
def test_a_network_of_deep_images_takes_them_normalised(format, tmp_path):
    need(format)
    torch.manual_seed(0)
    known = DataDescription(
        in_chans=2, class_names=NAMES, bands=(3, 1), image_scale=((100, 300), (0, 1000)), mean=(0.5, 0.25),
        std=(0.5, 2.))
    model = describe(rexnet_timm.MultiScaleUnet('rexnetv1_test', classes=3, in_channels=2).eval(), known)
    path = tmp_path / f'model.{"ts" if format == "torchscript" else format}'
    with pytest.raises(ValueError, match='normalize makes a file that takes uint8 .* of this model have other bits'):
        rexnet_timm.export(model, path, normalize=True)
    rexnet_timm.export(model, path)
    network = rexnet_timm.load_model(path)
    assert not network.takes_uint8 and network.description == known
    image = np.random.default_rng(0).integers(0, 1200, (64, 70, 3)).astype(np.uint16)
    np.save(tmp_path / 'image.npy', image)
    expected, found = (rexnet_timm.predict(net, tmp_path / 'image.npy') for net in (model, network))
    np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=1e-5)


def test_mistakes_are_told(unet, tmp_path):
    path = tmp_path / 'model.ts'
    with pytest.raises(ValueError, match='format must be one of onnx, openvino, .*, got .tflite'):
        rexnet_timm.export(unet, path, 'tflite')
    with pytest.raises(ValueError, match="a file of onnx must end in .onnx, got '.*model.ts'"):
        rexnet_timm.export(unet, path, 'onnx')
    with pytest.raises(ValueError, match='must end in .onnx or .xml or .pt2 or .ts or .pt, got'):
        rexnet_timm.export(unet, tmp_path / 'model')
    with pytest.raises(ValueError, match='size must be height and width of at least 32, got 31 64'):
        rexnet_timm.export(unet, path, size=(31, 64))
    with pytest.raises(ValueError, match='scale must be one of .*, the scales with a head, got 7'):
        rexnet_timm.export(unet, path, scale=7)
    with pytest.raises(FileNotFoundError, match='There is no folder'):
        rexnet_timm.export(unet, tmp_path / 'no' / 'model.ts')
    classifier = timm.create_model('rexnetv1_test', num_classes=257).eval()
    with pytest.raises(ValueError, match='scale cuts the multi-scale U-Net, and ReXNetV1 has no scales'):
        rexnet_timm.export(classifier, path, scale=1)
    with pytest.raises(ValueError, match='at most 256, and there are 257'):
        rexnet_timm.export(classifier, path, argmax=True)
    with pytest.raises(ValueError, match='an activation over them'):
        rexnet_timm.export(
            rexnet_timm.MultiScaleUnet('rexnetv1_test', classes=1, activation='sigmoid'), path, argmax=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('format', PACKAGES)
def test_a_missing_extra_is_told(format, unet, tmp_path, monkeypatch):
    for package in PACKAGES[format]:
        monkeypatch.setitem(sys.modules, package, None)  # what makes an import fail
    path = tmp_path / f'model{FORMATS[format][0]}'
    with pytest.raises(ValueError, match=r"need onnx and onnxscript and .* pip install 'rexnet-timm\[export\]'$"):
        rexnet_timm.export(unet, path)
    path.write_bytes(b'some')
    path.with_suffix('.bin').write_bytes(b'')
    with pytest.raises(ValueError, match=r"pip install 'rexnet-timm\[export\]'$"):
        rexnet_timm.load_model(path)


def test_a_network_of_one_size_names_the_remedy(tmp_path):
    model = describe(timm.create_model('vit_tiny_patch16_224', num_classes=3, depth=1).eval(), DataDescription(
        task='classification'))
    with pytest.raises(ValueError, match='cannot be exported for any size .*: pass size, the height and width'):
        rexnet_timm.export(model, tmp_path / 'model.pt2')
    rexnet_timm.export(model, tmp_path / 'model.pt2', size=(224, 224))
    assert rexnet_timm.load_model(tmp_path / 'model.pt2')(torch.zeros(1, 3, 224, 224)).shape == (1, 3)


@pytest.mark.slow
def test_images_of_another_kind_are_refused(unet, tmp_path):
    rexnet_timm.export(unet, tmp_path / 'a.ts', normalize=True)
    rexnet_timm.export(unet, tmp_path / 'b.pt')
    assert is_exported(tmp_path / 'b.pt')
    takes_uint8, takes_float = (rexnet_timm.load_model(tmp_path / name) for name in ('a.ts', 'b.pt'))
    for network, images, message in (
            (takes_uint8, torch.zeros(1, 3, 64, 64), 'takes uint8 from 0 to 255, got torch.float32'),
            (takes_float, pixels((64, 64)), 'takes normalised float images, got torch.uint8'),
            (takes_uint8, pixels((31, 64)), 'at least 32 x 32, got 31 x 64'),
            (takes_uint8, pixels((64, 64))[:, :1], r'must be \(N, 3, H, W\), got \(1, 1, 64, 64\)'),
            (takes_uint8, pixels((64, 64))[0], r'must be \(N, 3, H, W\), got \(3, 64, 64\)')):
        with pytest.raises(ValueError, match=message):
            network(images)
    with pytest.raises(ValueError, match='is an exported file already'):
        rexnet_timm.export(takes_float, tmp_path / 'c.ts')


def test_what_export_did_not_write_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match='There is no file .*gone.pt2'):
        rexnet_timm.load_model(tmp_path / 'gone.pt2')
    for name in ('broken.ts', 'broken.pt2'):
        (tmp_path / name).write_bytes(b'PK no such thing')
        with pytest.raises(ValueError, match=f'{name}. is no file of torch.*, or is damaged'):
            rexnet_timm.load_model(tmp_path / name)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        torch.jit.save(torch.jit.script(nn.ReLU()), tmp_path / 'foreign.ts')
    with pytest.raises(ValueError, match='does not say what its network takes and returns'):
        rexnet_timm.load_model(tmp_path / 'foreign.ts')
    torch.save({'weight': torch.zeros(1)}, tmp_path / 'weights.pt')
    assert not is_exported(tmp_path / 'weights.pt')
    for name, format in (('broken.onnx', 'onnx'), ('broken.xml', 'openvino')):
        need(format)
        (tmp_path / name).write_bytes(b'no such thing')
        (tmp_path / 'broken.bin').write_bytes(b'')
        with pytest.raises(ValueError, match=f'{name}. is no file of o.*, or is damaged'):
            rexnet_timm.load_model(tmp_path / name)


def test_picks_of_other_rows_are_no_cuts():
    onnx = pytest.importorskip('onnx', reason="the export extra is not installed: pip install 'rexnet-timm[export]'")
    helper, INT64, FLOAT = onnx.helper, onnx.TensorProto.INT64, onnx.TensorProto.FLOAT

    def types(first: int) -> list[str]:
        nodes = [
            helper.make_node('Range', ['first', 'end', 'one'], ['numbers']),
            helper.make_node('Gather', ['x', 'numbers'], ['rows'], axis=-2),
            helper.make_node('Gather', ['rows', 'numbers'], ['y'], axis=-1)]
        graph = helper.make_graph(
            nodes, 'graph', [helper.make_tensor_value_info('x', FLOAT, [1, 1, 'h', 'w']),
                             helper.make_tensor_value_info('end', INT64, [])],
            [helper.make_tensor_value_info('y', FLOAT, [1, 1, 'n', 'n'])],
            [helper.make_tensor(name, INT64, [], [value]) for name, value in (('first', first), ('one', 1))])
        cut_by_slices(graph)
        onnx.checker.check_model(helper.make_model(graph))
        return [node.op_type for node in graph.node]

    assert types(0) == ['Reshape', 'Reshape', 'Concat', 'Slice']
    assert types(1) == ['Range', 'Gather', 'Gather']


@pytest.mark.parametrize('axes, keepdims, rank, op_type', [
    ([2, 3], 1, 4, 'GlobalAveragePool'), ([-1, -2], 1, 4, 'GlobalAveragePool'), ([2, 3], 0, 4, 'ReduceMean'),
    ([1], 1, 4, 'ReduceMean'), ([2, 3], 1, 5, 'ReduceMean')])
def test_only_means_of_maps_are_pools(axes, keepdims, rank, op_type):
    onnx = pytest.importorskip('onnx', reason="the export extra is not installed: pip install 'rexnet-timm[export]'")
    helper, FLOAT = onnx.helper, onnx.TensorProto.FLOAT
    shape = [2] * rank
    nodes = [
        helper.make_node('Relu', ['x'], ['y']),
        helper.make_node('ReduceMean', ['y', 'axes'], ['z'], keepdims=keepdims)]
    graph = helper.make_graph(
        nodes, 'graph', [helper.make_tensor_value_info('x', FLOAT, shape)],
        [helper.make_tensor_value_info('z', FLOAT, [None] * (rank if keepdims else 2))],
        [helper.make_tensor('axes', onnx.TensorProto.INT64, [len(axes)], axes)],
        value_info=[helper.make_tensor_value_info('y', FLOAT, shape)])
    pool_by_name(graph)
    assert graph.node[1].op_type == op_type and len(graph.initializer) == (op_type == 'ReduceMean')
    onnx.checker.check_model(helper.make_model(graph, opset_imports=[helper.make_opsetid('', 18)]))
