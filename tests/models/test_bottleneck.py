import copy

import pytest
import timm
import torch
from timm.layers import ConvNormAct, DropPath
from timm.models.rexnet import LinearBottleneck
from torch import nn
from torch.nn.utils import prune
from torch.utils.flop_counter import FlopCounterMode

import rexnet_timm
from rexnet_timm.models.bottleneck import LeanBottleneck, convert_lean
from rexnet_timm.models.conv_norm_act import LeanConvNormAct

FORMATS = [torch.contiguous_format, torch.channels_last]
BLOCKS = {
    'expanding': dict(in_chs=4, out_chs=6, stride=1, exp_ratio=6., se_ratio=0.25),
    'strided': dict(in_chs=4, out_chs=6, stride=2, exp_ratio=6., se_ratio=0.25),
    'without expansion': dict(in_chs=6, out_chs=5, stride=1),
    'without excitation': dict(in_chs=4, out_chs=4, stride=1, exp_ratio=6.),
    'with relu6': dict(in_chs=4, out_chs=6, stride=1, exp_ratio=6., act_layer='relu6'),
    'dilated': dict(in_chs=4, out_chs=6, stride=1, dilation=(2, 2), exp_ratio=6., se_ratio=0.25),
}


def pair(block: str, memory_format: torch.memory_format = torch.contiguous_format) -> tuple[nn.Module, nn.Module]:
    """timm's block between two convolutions, with random statistics, and the same with the lean layers."""
    torch.manual_seed(0)
    args = BLOCKS[block]
    plain = nn.Sequential(
        nn.Conv2d(3, args['in_chs'], 1), LinearBottleneck(**args), nn.Conv2d(args['out_chs'], 2, 1)).double()
    for module in plain.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.running_var):
                nn.init.uniform_(tensor, 0.5, 1.5)
            for tensor in (module.bias, module.running_mean):
                nn.init.normal_(tensor)
    lean = convert_lean(copy.deepcopy(plain))
    assert type(lean[1]) is LeanBottleneck
    return plain.to(memory_format=memory_format), lean.to(memory_format=memory_format)


def images(memory_format: torch.memory_format = torch.contiguous_format) -> torch.Tensor:
    torch.manual_seed(1)
    # far from zero, so that the variance is not the mean square
    return (5 + 2 * torch.randn(4, 3, 9, 8, dtype=torch.double)).contiguous(memory_format=memory_format)


def gradients(model: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    x = x.clone().requires_grad_()
    output = model(x)
    weight = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view(output.shape)
    return [output, *torch.autograd.grad((weight * output).sum(), [x, *model.parameters()])]


@pytest.mark.parametrize('memory_format', FORMATS, ids=str)
@pytest.mark.parametrize('training', [True, False], ids=['training', 'evaluation'])
@pytest.mark.parametrize('block', BLOCKS)
def test_values_gradients_and_statistics_are_timms(block, training, memory_format):
    plain, lean = (model.train(training) for model in pair(block, memory_format))
    x = images(memory_format)
    torch.testing.assert_close(gradients(lean, x), gradients(plain, x))
    torch.testing.assert_close(lean.state_dict(), plain.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(lean(x), plain(x))


@pytest.mark.parametrize('block', BLOCKS)
def test_gradients_of_gradients_are_timms(block):
    penalties = []
    for model in pair(block):
        x = images().requires_grad_()
        gradient, = torch.autograd.grad(model.train()(x).square().sum(), x, create_graph=True)
        penalties.append(torch.autograd.grad(gradient.square().mean(), list(model.parameters()), allow_unused=True))
    torch.testing.assert_close(penalties[1], penalties[0])


@pytest.mark.parametrize('frozen', ['conv_exp', 'conv_dw', 'conv_exp.bn', 'se'])
def test_frozen_parameters_change_no_other_gradient(frozen):
    plain, lean = pair('expanding')
    for model in (plain, lean):
        model.train()[1].get_submodule(frozen).requires_grad_(False)
        model[0].requires_grad_(False)
        model(images()).square().sum().backward()
    for theirs, ours in zip(plain.parameters(), lean.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


def test_stochastic_depth_is_timms():
    plain, lean = pair('expanding')
    results = []
    for model in (plain, lean):
        model.train()[1].drop_path = DropPath(0.5)
        torch.manual_seed(2)
        results.append(gradients(model, images()))
    torch.testing.assert_close(results[1], results[0])


def count_batch_norms(model: nn.Module, x: torch.Tensor, training: bool) -> int:
    """Calls of BatchNorm over more than one pixel."""
    model.train(training)
    with torch.profiler.profile(record_shapes=True) as profile:
        model(x)
    return sum(event.count for event in profile.key_averages(group_by_input_shape=True)
               if event.key == 'aten::native_batch_norm' and event.input_shapes[0][2:] != [1, 1])


def test_convolutions_take_batch_norm_in():
    plain, lean = pair('expanding')
    assert [count_batch_norms(model, images(), training=False) for model in (plain, lean)] == [3, 0]
    # the expansion alone, and BatchNorm after the depthwise convolution and the projection stay
    assert [count_batch_norms(model, images(), training=True) for model in (plain, lean)] == [3, 2]


def test_few_pixels_are_normalised_as_they_are():
    _, lean = pair('expanding')
    assert count_batch_norms(lean, images()[:, :, :8, :4], training=True) == 3  # 128 pixels of 4 channels
    assert count_batch_norms(lean, images()[:, :, :8, :5], training=True) == 2  # 160, as many as it takes


@pytest.mark.parametrize('training', [True, False], ids=['training', 'evaluation'])
def test_hooks_of_layers_are_called(training):
    _, lean = pair('expanding')
    layers = [module for module in lean[1].modules() if isinstance(module, (nn.Conv2d, nn.BatchNorm2d))]
    seen = []
    for module in layers:
        module.register_forward_hook(lambda module, args, output: seen.append(module))
    lean.train(training)(images())
    assert len(seen) == len(layers) == 9  # three and three, and two and one of the excitation
    assert {id(module) for module in seen} == {id(module) for module in layers}


def test_weights_that_a_hook_prepares_are_those_that_count():
    plain, lean = pair('expanding')
    for model in (plain, lean):
        prune.l1_unstructured(model[1].conv_exp.conv, 'weight', amount=0.5)
        optimizer = torch.optim.SGD(model.train().parameters(), lr=0.1)
        for _ in range(2):
            optimizer.zero_grad()
            model(images()).square().mean().backward()
            optimizer.step()
    with torch.no_grad():
        torch.testing.assert_close(lean.eval()(images()), plain.eval()(images()))


def test_operations_that_are_counted_stay():
    ours, timms = timm.create_model('rexnetv1_1_0').eval(), timm.create_model('rexnet_100').eval()
    counts = []
    for model in (ours, timms):
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(torch.randn(1, 3, 64, 64))
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1]


def test_scripts_traces_and_compiles():
    plain, lean = pair('expanding')
    x = images()
    for model in (plain.eval(), lean.eval()):
        model.requires_grad_(False)
    expected = plain(x)
    torch.testing.assert_close(torch.jit.script(copy.deepcopy(lean))(x), expected)
    torch.testing.assert_close(torch.jit.trace(copy.deepcopy(lean), x)(x), expected)
    torch.testing.assert_close(torch.fx.symbolic_trace(copy.deepcopy(lean))(x), expected)
    torch.testing.assert_close(torch.export.export(copy.deepcopy(lean), (x,)).module()(x), expected)
    torch.compiler.reset()
    compiled = torch.compile(copy.deepcopy(lean), backend='eager', fullgraph=True)
    torch.testing.assert_close(compiled(x), expected)
    torch.testing.assert_close(torch.jit.script(copy.deepcopy(lean)).train()(x), copy.deepcopy(plain).train()(x))


def test_gradients_of_single_samples():
    _, lean = pair('expanding')
    parameters = {name: parameter.detach() for name, parameter in lean.eval().named_parameters()}

    def loss(parameters: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(lean, parameters, (x[None],)).square().sum()

    x = images()
    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, x)
    lean(x[1:2]).square().sum().backward()
    for name, parameter in lean.named_parameters():
        torch.testing.assert_close(each[name][1], parameter.grad)


def test_the_layers_of_a_backbone_are_lean():
    model = rexnet_timm.ReXNetV1(num_classes=0)
    assert {type(block) for block in model.features} == {LeanBottleneck, LeanConvNormAct}
    assert not any(type(module) is ConvNormAct for module in model.modules())
