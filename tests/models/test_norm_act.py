import copy

import pytest
import timm
import torch
from timm.layers import BatchNormAct2d
from torch import nn

import rexnet_timm
from rexnet_timm.models.bottleneck import convert_lean
from rexnet_timm.models.norm_act import LeanBatchNormAct2d, LeanReLU6

FORMATS = [torch.contiguous_format, torch.channels_last]


def stack(act_layer: str = 'silu') -> nn.Sequential:
    torch.manual_seed(0)
    norm = BatchNormAct2d(6, act_layer=act_layer)
    with torch.no_grad():
        norm.weight.uniform_(0.5, 1.5)
        norm.bias.normal_()
    last = nn.ReLU6() if act_layer in ('silu', 'identity') else nn.Identity()
    return nn.Sequential(nn.Conv2d(3, 6, 3), norm, last, nn.Conv2d(6, 6, 3)).double()


def images(memory_format: torch.memory_format = torch.contiguous_format) -> torch.Tensor:
    torch.manual_seed(1)
    return (8 * torch.randn(4, 3, 9, 8, dtype=torch.double)).contiguous(memory_format=memory_format)


def gradients(model: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    x = x.clone().requires_grad_()
    output = model(x)
    weight = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view(output.shape)  # NCHW, whatever x is
    return [output, *torch.autograd.grad((weight * output).sum(), [x, *model.parameters()])]


@pytest.mark.parametrize('memory_format', FORMATS, ids=str)
@pytest.mark.parametrize('act_layer', ['silu', 'relu', 'relu6', 'identity'])
def test_values_gradients_and_statistics_are_timms(act_layer, memory_format):
    plain = stack(act_layer)
    lean = convert_lean(copy.deepcopy(plain))
    assert isinstance(lean[1], LeanBatchNormAct2d)
    assert any(isinstance(module, LeanReLU6) for module in lean.modules()) == (act_layer != 'relu')
    for model in (plain, lean):
        model.train().to(memory_format=memory_format)
    torch.testing.assert_close(gradients(lean, images(memory_format)), gradients(plain, images(memory_format)))
    torch.testing.assert_close(lean.state_dict(), plain.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(lean.eval()(images()), plain.eval()(images()))


def test_gradients_of_gradients_are_timms():
    plain = stack().train()
    lean = convert_lean(copy.deepcopy(plain))
    penalties = []
    for model in (plain, lean):
        x = images().requires_grad_()
        gradient, = torch.autograd.grad(model(x).square().sum(), x, create_graph=True)
        penalties.append(torch.autograd.grad(gradient.square().mean(), list(model.parameters())))
    torch.testing.assert_close(penalties[1], penalties[0])


def test_a_single_value_is_refused_as_torch_does():
    norm = convert_lean(nn.Sequential(BatchNormAct2d(6, act_layer='silu'))).train()
    with pytest.raises(ValueError, match='Expected more than 1 value per channel'):
        norm(torch.randn(1, 6, 1, 1, requires_grad=True))


def test_frozen_parameters_change_no_other_gradient():
    plain = stack().train()
    lean = convert_lean(copy.deepcopy(plain))
    for model in (plain, lean):
        model[0].requires_grad_(False)
        model[1].bias.requires_grad_(False)
        model(images()).square().sum().backward()
    for theirs, ours in zip(plain.parameters(), lean.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


def kept_elements(model: nn.Module, x: torch.Tensor) -> int:
    """Elements that autograd keeps for the backward pass beside the parameters, each storage once."""
    sizes = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        sizes[tensor.untyped_storage().data_ptr()] = tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = model(x)
    assert output.requires_grad
    for parameter in model.parameters():
        sizes.pop(parameter.untyped_storage().data_ptr(), None)
    return sum(sizes.values())


def test_a_backbone_keeps_less_for_its_backward_pass():
    ours, timms = rexnet_timm.ReXNetV1(num_classes=0), timm.create_model('rexnet_100', num_classes=0)
    x = torch.randn(2, 3, 64, 64)
    assert kept_elements(ours.train(), x) < 0.75 * kept_elements(timms.train(), x)


def test_parameters_and_keys_are_the_same():
    plain = stack()
    parameters = dict(plain.named_parameters())
    lean = convert_lean(plain)
    assert all(parameter is parameters[name] for name, parameter in lean.named_parameters())
    assert list(lean.state_dict()) == list(stack().state_dict())


def test_scripts_traces_and_compiles():
    model = convert_lean(stack()).train()
    expected = copy.deepcopy(model)(images())
    torch.testing.assert_close(torch.fx.symbolic_trace(copy.deepcopy(model))(images()), expected)
    torch.testing.assert_close(torch.jit.script(copy.deepcopy(model))(images()), expected)
    compiled = torch.compile(copy.deepcopy(model), backend='eager', fullgraph=True)
    torch.testing.assert_close(compiled(images()), expected)


def test_mixed_precision_takes_timms_way():
    model = convert_lean(stack()).float().train()
    with torch.autocast('cpu', dtype=torch.bfloat16):
        output = model(images().float())
    output.float().sum().backward()
    assert output.dtype == torch.bfloat16 and model[1].weight.grad.isfinite().all()
