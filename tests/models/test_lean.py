"""The lean layers against timm's and torch's own: values, gradients, statistics, hooks, and what else meets a model."""
import copy
import io
import pickle

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.layers import (
    BatchNormAct2d,
    ConvNormAct,
    convert_sync_batchnorm,
    freeze_batch_norm_2d,
    unfreeze_batch_norm_2d,
)
from timm.models.rexnet import LinearBottleneck
from torch import nn
from torch.func import functional_call
from torch.nn.utils import prune
from torch.utils.checkpoint import checkpoint

import rexnet_timm
from rexnet_timm.models import lean as lean_module
from rexnet_timm.models.lean import LeanBatchNormAct2d, LeanReLU6, LeanSiLU, convert_lean

FORMATS = [torch.contiguous_format, torch.channels_last]
SYNC = torch.nn.SyncBatchNorm.convert_sync_batchnorm


def randomise(model: nn.Module) -> nn.Module:
    """Statistics and maps of the norms that differ from channel to channel."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.running_var):
                nn.init.uniform_(tensor, 0.5, 1.5)
            for tensor in (module.bias, module.running_mean):
                nn.init.normal_(tensor)
    return model


def pair(act_layer: str = 'silu') -> tuple[nn.Module, nn.Module]:
    """A convolution, norm with activation, ReLU6 and convolution of timm and torch, and the same lean; float64."""
    torch.manual_seed(0)
    last = nn.ReLU6() if act_layer in ('silu', 'identity') else nn.Identity()
    plain = nn.Sequential(nn.Conv2d(3, 6, 3), BatchNormAct2d(6, act_layer=act_layer), last, nn.Conv2d(6, 2, 1))
    randomise(plain.double().train())
    return plain, convert_lean(copy.deepcopy(plain))


def networks(**kwargs) -> tuple[nn.Module, nn.Module]:
    """timm's network and ours of the same weights."""
    torch.manual_seed(0)
    theirs = randomise(timm.create_model('rexnet_100', drop_rate=0., **kwargs))
    ours = timm.create_model('rexnetv1_1_0', drop_rate=0., **kwargs)
    ours.load_state_dict(theirs.state_dict())
    return theirs.train(), ours.train()


def images(size: int = 9, dtype: torch.dtype = torch.double) -> torch.Tensor:
    return 1 + 3 * torch.randn(4, 3, size, size - 1, generator=torch.Generator().manual_seed(1), dtype=dtype)


def gradients(model: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    """The output, and the gradients of a weighted sum of it, of the input and of all parameters that want one."""
    x = x.clone().requires_grad_()
    output = model(x)
    weight = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view(output.shape)  # NCHW, whatever x is
    wanted = [x, *(parameter for parameter in model.parameters() if parameter.requires_grad)]
    return [output, *torch.autograd.grad((weight * output).sum(), wanted)]


def assert_same(lean: nn.Module, plain: nn.Module, x: torch.Tensor) -> None:
    torch.testing.assert_close(gradients(lean, x), gradients(plain, x))
    torch.testing.assert_close(lean.state_dict(), plain.state_dict())


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


@pytest.fixture(autouse=True)
def as_at_the_start():
    before = rexnet_timm.set_lean('cpu')
    yield
    rexnet_timm.set_lean(before)


# --- values ---

@pytest.mark.parametrize('memory_format', FORMATS, ids=str)
@pytest.mark.parametrize('training', [True, False], ids=['training', 'evaluation'])
@pytest.mark.parametrize('act_layer', ['silu', 'relu', 'relu6', 'identity'])
def test_values_gradients_and_statistics_are_timms(act_layer, training, memory_format):
    plain, lean = (model.to(memory_format=memory_format).train(training) for model in pair(act_layer))
    x = images().contiguous(memory_format=memory_format)
    assert_same(lean, plain, x)
    seen = []
    lean[1].register_forward_hook(lambda module, args, output: seen.append(output))
    lean(x)
    assert seen[0].is_contiguous(memory_format=memory_format)


def test_a_backbones_values_gradients_and_statistics_are_timms():
    theirs, ours = networks(num_classes=7)
    assert_same(ours.double(), theirs.double(), images(64))
    for model in (theirs, ours):
        model.eval()
    assert_same(ours, theirs, images(64))


@pytest.mark.parametrize('memory_format', FORMATS, ids=str)
@pytest.mark.parametrize('mean, std', [(0., 1.), (10., 1.), (1e3, 1.), (1e3, 1e-3), (0., 1e-3), (3., 0.)])
def test_float32_is_as_exact_as_torchs_own(mean, std, memory_format):
    torch.manual_seed(0)
    plain = randomise(nn.Sequential(BatchNormAct2d(16, act_layer='silu'), nn.ReLU6())).train()
    x = mean + std * torch.randn(4, 16, 14, 13)
    expected = gradients(copy.deepcopy(plain).double(), x.double())
    x = x.contiguous(memory_format=memory_format)
    lean = gradients(convert_lean(copy.deepcopy(plain)), x)
    for ours, theirs, exact in zip(lean, gradients(plain, x), expected, strict=True):
        error, allowed = ((values.double() - exact).abs().max() for values in (ours, theirs))
        # which of two roundings falls nearer is chance, where both are of the order of a rounding
        assert error <= 1.1 * allowed + 4 * torch.finfo(torch.float32).eps * exact.abs().max()


def test_derivatives_are_those_of_the_values():
    torch.manual_seed(0)
    lean = convert_lean(randomise(nn.Sequential(BatchNormAct2d(2, act_layer='silu'), nn.ReLU6()))).double().train()

    def call(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        return functional_call(lean, {'0.weight': weight, '0.bias': bias}, (x,))

    inputs = (images(3)[:2, :2].requires_grad_(), *(p.detach().clone().requires_grad_() for p in lean.parameters()))
    assert torch.autograd.gradcheck(
        call, inputs, check_forward_ad=True, check_batched_grad=True, check_batched_forward_grad=True)
    assert torch.autograd.gradgradcheck(call, inputs, check_batched_grad=True, check_fwd_over_rev=True)


def penalty(model: nn.Module) -> tuple[torch.Tensor, ...]:
    x = images().requires_grad_()
    gradient, = torch.autograd.grad(model(x).square().sum(), x, create_graph=True)
    return torch.autograd.grad(gradient.square().mean(), list(model.parameters()), allow_unused=True)


def split(model: nn.Module) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    return {k: v.detach() for k, v in model.named_parameters()}, {k: v.clone() for k, v in model.named_buffers()}


def func_grad(model: nn.Module) -> dict[str, torch.Tensor]:
    return torch.func.grad(lambda *args: functional_call(model, args[:2], args[2:]).square().sum())(
        *split(model), images())


def func_grad_of_the_last_layer(model: nn.Module) -> dict[str, torch.Tensor]:
    parameters, buffers = split(model)
    parameters = {key: value for key, value in parameters.items() if key.startswith('3.')}
    return torch.func.grad(lambda *args: functional_call(model, args[:2], args[2:]).square().sum())(
        parameters, buffers, images())


def func_hessian(model: nn.Module) -> dict[str, dict[str, torch.Tensor]]:
    parameters, buffers = split(model)
    return torch.func.hessian(lambda *args: functional_call(model, args[:2], args[2:]).square().mean())(
        {'1.weight': parameters['1.weight']}, buffers, images())


def ensemble(model: nn.Module) -> tuple[torch.Tensor, ...]:
    parameters, buffers = torch.func.stack_module_state([model, copy.deepcopy(model)])
    x = images()
    output = torch.func.vmap(lambda *state: functional_call(model, state, (x,)))(parameters, buffers)
    return torch.autograd.grad(output.square().sum(), list(parameters.values()))


def single_samples(model: nn.Module) -> dict[str, torch.Tensor]:
    torch.func.replace_all_batch_norm_modules_(model)
    one = torch.func.grad(lambda parameters, x: functional_call(model, parameters, (x[None],)).square().sum())
    return torch.func.vmap(one, in_dims=(None, 0))(split(model)[0], images())


def forward_mode(model: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.autograd.forward_ad.dual_level():
        x = torch.autograd.forward_ad.make_dual(images().requires_grad_(), images() ** 2)
        return torch.autograd.forward_ad.unpack_dual(model(x))


def forward_mode_in_batches(model: nn.Module) -> torch.Tensor:
    return torch.autograd.functional.jacobian(
        lambda x: model(x).mean((1, 2, 3)), images(5), strategy='forward-mode', vectorize=True)


def batched_gradients(model: nn.Module) -> tuple[torch.Tensor, ...]:
    output = model(images())
    directions = torch.stack([output.detach(), output.detach() ** 2])
    return torch.autograd.grad(output, list(model.parameters()), directions, is_grads_batched=True)


@pytest.mark.parametrize('way', [
    penalty, func_grad, func_grad_of_the_last_layer, func_hessian, ensemble, single_samples, forward_mode,
    forward_mode_in_batches, batched_gradients], ids=lambda way: way.__name__)
def test_other_ways_to_differentiate_agree_with_timm(way):
    plain, lean = pair()
    torch.testing.assert_close(way(lean), way(plain))
    torch.testing.assert_close(lean.state_dict(), plain.state_dict())


# --- what is kept ---

def test_a_backbone_keeps_less_for_its_backward_pass():
    theirs, ours = networks(num_classes=0)
    x = images(64, torch.float)
    timms = kept_elements(theirs, x)
    assert kept_elements(ours, x) < 0.75 * timms
    assert rexnet_timm.set_lean(False) == 'cpu'
    assert kept_elements(ours, x) == timms
    assert rexnet_timm.set_lean(True) is False
    assert kept_elements(ours, x) < 0.75 * timms
    assert rexnet_timm.set_lean('cpu') is True


def test_relu6_keeps_its_output_in_lite_models_too():
    model = rexnet_timm.ReXNetV1Lite(num_classes=3).train()
    assert not any(type(module) is nn.ReLU6 for module in model.modules())
    x = images(64, torch.float)
    less = kept_elements(model, x)
    rexnet_timm.set_lean(False)
    assert less < 0.75 * kept_elements(model, x)


@pytest.mark.parametrize('mode', [None, 1, 0, 'cuda', 'off', ['cpu']])
def test_other_modes_are_refused(mode):
    with pytest.raises(ValueError, match="mode must be True, False or 'cpu', got "):
        rexnet_timm.set_lean(mode)
    assert rexnet_timm.set_lean('cpu') == 'cpu'


def test_the_environment_sets_the_mode(monkeypatch):
    monkeypatch.delenv('REXNET_LEAN', raising=False)
    assert lean_module._initial_mode() == 'cpu'
    for value, mode in (('0', False), ('cpu', 'cpu'), ('1', True)):
        monkeypatch.setenv('REXNET_LEAN', value)
        assert lean_module._initial_mode() == mode
    monkeypatch.setenv('REXNET_LEAN', 'off')
    with pytest.raises(ValueError, match=r"REXNET_LEAN must be 0 \(off\), .* got 'off': set it to one of them"):
        lean_module._initial_mode()


# --- what others see ---

def test_the_layers_are_timms_and_torchs():
    theirs, ours = networks()
    for (name, module), (other_name, other) in zip(theirs.named_modules(), ours.named_modules(), strict=True):
        assert name == other_name and isinstance(other, type(module) if module is not theirs else type(ours))
        if isinstance(module, (nn.Conv2d, LinearBottleneck)):
            assert type(other) is type(module)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert [name for name, _ in ours.named_parameters()] == [name for name, _ in theirs.named_parameters()]


def watch(model: nn.Module, x: torch.Tensor) -> dict[str, tuple[torch.Tensor, ...]]:
    """The input and the output of every module, as they were then, and the output as it has become."""
    inputs, outputs = {}, {}
    for name, module in model.named_modules():
        module.register_forward_pre_hook(
            lambda module, args, name=name: inputs.__setitem__(name, args[0].detach().clone()))
        module.register_forward_hook(
            lambda module, args, output, name=name: outputs.__setitem__(
                name, (output.detach().clone(), output.detach())))
    model(x)
    return {name: (inputs[name], *outputs[name]) for name in outputs}


@pytest.mark.parametrize('grad', [True, False], ids=['grad', 'no grad'])
@pytest.mark.parametrize('training', [True, False], ids=['training', 'evaluation'])
def test_hooks_see_what_they_see_in_timm(training, grad):
    theirs, ours = (model.train(training) for model in networks(num_classes=5))
    with torch.set_grad_enabled(grad):
        expected, seen = (watch(model, images(64, torch.float)) for model in (theirs, ours))
    assert list(seen) == list(expected)
    for name, (before, after, later) in seen.items():
        torch.testing.assert_close((before, after), expected[name][:2], msg=lambda text, name=name: f'{name}: {text}')
        module = ours.get_submodule(name)
        if isinstance(module, (nn.Conv2d, BatchNormAct2d, ConvNormAct, LinearBottleneck, nn.ReLU6, nn.SiLU)):
            assert torch.equal(later, after), f'{name}: what the hook kept has been overwritten'


def watch_gradients(model: nn.Module, x: torch.Tensor) -> tuple[dict[str, object], dict[str, torch.Tensor]]:
    """Gradients that backward hooks get, and those that outputs retain, of a step."""
    seen, kept = {}, {}

    def keep(name: str, output: torch.Tensor) -> None:
        output.retain_grad()
        kept[name] = output

    for name, module in model.named_modules():
        if isinstance(module, (nn.Conv2d, BatchNormAct2d, LinearBottleneck, nn.ReLU6)):
            module.register_full_backward_hook(
                lambda module, grad_in, grad_out, name=name: seen.__setitem__(name, (grad_in, grad_out)))
            module.register_forward_hook(lambda module, args, output, name=name: keep(name, output))
    model(x).square().sum().backward()
    return seen, {name: output.grad for name, output in kept.items()}


def test_gradients_that_hooks_see_are_timms():
    theirs, ours = (watch_gradients(model.double(), images(64)) for model in networks(num_classes=5))
    assert len(ours[0]) > 150
    torch.testing.assert_close(ours, theirs)


def test_hooks_on_the_activation_are_called_and_count():
    plain, lean = pair()
    seen = []
    for model in (plain, lean):
        model[1].act.register_forward_hook(lambda module, args, output: seen.append((len(args), output.detach())))
    assert_same(lean, plain, images())
    torch.testing.assert_close(seen[0], seen[1])
    for model in (plain, lean):
        model[1].act.register_forward_pre_hook(lambda module, args: (2 * args[0],))
        model[1].act.register_forward_hook(lambda module, args, output: output + 1)
    assert_same(lean, plain, images())


def test_a_hook_that_changes_the_norms_output_in_place_counts():
    plain, lean = pair()
    for model in (plain, lean):
        model[1].drop.register_forward_hook(lambda module, args, output: output.mul_(2))
    assert_same(lean, plain, images())


def test_derived_classes_stay():
    class ScaledSiLU(nn.SiLU):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(x)

    class CappedReLU6(nn.ReLU6):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x).clamp(max=2)

    class ShiftedNorm(BatchNormAct2d):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) + 1

    plain = nn.Sequential(BatchNormAct2d(3, act_layer=ScaledSiLU), CappedReLU6(), ShiftedNorm(3, act_layer=nn.SiLU))
    lean = convert_lean(copy.deepcopy(plain))
    assert [type(module) for module in lean.modules()] == [type(module) for module in plain.modules()]
    assert_same(lean.double(), plain.double(), images())


@pytest.mark.parametrize('act', [nn.ReLU(), nn.SiLU(), nn.Identity()], ids=str)
def test_an_activation_that_is_set_afterwards_counts(act):
    plain, lean = pair()
    plain[1].act = lean[1].act = act
    assert_same(lean, plain, images())


# --- settings of the norm ---

def no_statistics(norm: nn.BatchNorm2d) -> None:
    norm.running_mean = norm.running_var = norm.num_batches_tracked = None


@pytest.mark.parametrize('training', [True, False], ids=['training', 'evaluation'])
@pytest.mark.parametrize('change', [
    lambda norm: setattr(norm, 'track_running_stats', False), no_statistics,
    lambda norm: setattr(norm, 'momentum', None), lambda norm: setattr(norm, 'momentum', 0.7),
    lambda norm: setattr(norm, 'momentum', 0.), lambda norm: setattr(norm, 'eps', 0.5),
    lambda norm: norm.eval(), lambda norm: norm.requires_grad_(False), lambda norm: norm.weight.requires_grad_(False),
    lambda norm: norm.bias.requires_grad_(False), lambda norm: setattr(norm, 'drop', nn.AvgPool2d(2)),
    lambda norm: setattr(norm, 'num_batches_tracked', None),
], ids=['not tracked', 'no statistics', 'cumulative', 'momentum', 'no momentum', 'eps', 'frozen statistics', 'frozen',
        'frozen weight', 'frozen bias', 'drop layer', 'not counted'])
def test_settings_made_afterwards_count(change, training):
    plain, lean = pair()
    for model in (plain, lean):
        change(model.train(training)[1])
    for _ in range(2):
        assert_same(lean, plain, images())


@pytest.mark.parametrize('affine, track_running_stats', [(False, True), (True, False), (False, False)])
def test_norms_without_parameters_or_statistics(affine, track_running_stats):
    plain = nn.Sequential(
        BatchNormAct2d(3, affine=affine, track_running_stats=track_running_stats, act_layer='silu')).double()
    lean = convert_lean(copy.deepcopy(plain))
    for model in (plain, lean):
        model.train()
    assert_same(lean, plain, images())


def test_inputs_without_gradient():
    plain, lean = pair()
    for model in (plain, lean):
        model[0].requires_grad_(False)
        model(images()).square().sum().backward()
    for theirs, ours in zip(plain.parameters(), lean.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)
    for model in (plain, lean):
        model.requires_grad_(False)
    torch.testing.assert_close(lean(images()), plain(images()))
    assert not lean(images()).requires_grad


@pytest.mark.parametrize('context', [torch.no_grad, torch.inference_mode], ids=lambda context: context.__name__)
@pytest.mark.parametrize('training', [True, False], ids=['training', 'evaluation'])
def test_without_autograd(training, context):
    plain, lean = (model.train(training) for model in pair())
    with context():
        torch.testing.assert_close(lean(images()), plain(images()))
    torch.testing.assert_close(lean.state_dict(), plain.state_dict())


@pytest.mark.parametrize('shape', [(1, 6, 1, 1), (6, 4, 4), (2, 5, 4, 4)], ids=str)
def test_what_timm_refuses_is_refused(shape):
    plain, lean = (model.float() for model in pair())
    errors = []
    for model in (plain, lean):
        with pytest.raises(Exception) as error:  # noqa: B017  whatever timm raises
            model[1](torch.randn(shape, requires_grad=True))
        errors.append((error.type, str(error.value)))
    assert errors[0][0] is errors[1][0]


def test_an_empty_batch():
    plain, lean = pair()
    torch.testing.assert_close(gradients(lean, images()[:0]), gradients(plain, images()[:0]))


@pytest.mark.parametrize('use_reentrant', [True, False])
def test_checkpointing(use_reentrant):
    plain, lean = pair()
    x = images().requires_grad_()
    plain(x).square().sum().backward()
    checkpoint(lean, x, use_reentrant=use_reentrant).square().sum().backward()
    for theirs, ours in zip(plain.parameters(), lean.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_mixed_precision_is_timms(dtype):
    results = []
    for model in pair():
        with torch.autocast('cpu', dtype=dtype):
            output = model.float()(images(dtype=torch.float))
        results.append([output, *torch.autograd.grad(output.float().square().sum(), list(model.parameters()))])
        assert output.dtype == dtype
    torch.testing.assert_close(results[1], results[0])


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32])
def test_other_dtypes_are_timms(dtype):
    plain, lean = (model.to(dtype) for model in pair())
    assert_same(lean, plain, images(dtype=dtype))


def test_two_forward_passes_before_a_backward_pass():
    plain, lean = pair()
    results = []
    for model in (plain, lean):
        loss = model(images()).square().sum() + model(2 * images()).square().sum()
        loss.backward()
        results.append([parameter.grad for parameter in model.parameters()])
    torch.testing.assert_close(results[1], results[0])


# --- conversions ---

def randomised(create) -> nn.Module:
    torch.manual_seed(0)
    return randomise(create()).double().eval()


CONVERTED = {
    'backbone': lambda: timm.create_model('rexnetv1_test', num_classes=3),
    'lite': lambda: rexnet_timm.ReXNetV1Lite(width_mult=0.5, depth_mult=0.2, num_classes=3),
    'features': lambda: timm.create_model('rexnetv1_test', features_only=True),
    'a block': lambda: nn.Sequential(timm.create_model('rexnetv1_test').stem),
    'unet': lambda: rexnet_timm.MultiScaleUnet('rexnetv1_test', classes=2),
    'unet with silu': lambda: rexnet_timm.MultiScaleUnet('rexnetv1_test', classes=2, decoder_act_layer='silu'),
}


@pytest.mark.parametrize(
    'convert', [SYNC, convert_sync_batchnorm, freeze_batch_norm_2d], ids=['torch', 'timm', 'freeze'])
@pytest.mark.parametrize('create', CONVERTED.values(), ids=CONVERTED)
def test_conversions_of_norms_keep_activations(create, convert):
    model = randomised(create)
    x = torch.randn(2, 3, 64, 64, dtype=torch.double)
    with torch.no_grad():
        expected = model(x)
        parameters = dict(model.named_parameters())
        converted = convert(copy.deepcopy(model)).eval()
        torch.testing.assert_close(converted(x), expected)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in converted.modules())
    if convert is not freeze_batch_norm_2d:
        assert list(converted.state_dict()) == list(model.state_dict())
        assert {name: p.shape for name, p in converted.named_parameters()} == {
            name: p.shape for name, p in parameters.items()}
        assert any(isinstance(module, nn.SyncBatchNorm) for module in converted.modules())
    else:
        torch.testing.assert_close(unfreeze_batch_norm_2d(converted).eval()(x), expected)


def put_back(module: nn.Module) -> nn.Module:
    """Undo torch's SyncBatchNorm conversion the way it is done, as trainers do when they end."""
    new = module
    if isinstance(module, nn.SyncBatchNorm):
        new = nn.BatchNorm2d(module.num_features, module.eps, module.momentum, module.affine)
        new.weight, new.bias = module.weight, module.bias
        for name in ('running_mean', 'running_var', 'num_batches_tracked'):
            setattr(new, name, getattr(module, name))
        new.training = module.training
    for name, child in module.named_children():
        new.add_module(name, put_back(child))
    return new


def test_the_way_back_from_torchs_conversion_keeps_activations_too():
    model = randomised(CONVERTED['unet'])
    x = torch.randn(2, 3, 64, 64, dtype=torch.double)
    with torch.no_grad():
        expected = model(x)
        again = put_back(SYNC(SYNC(model)))
        torch.testing.assert_close(again(x), expected)
    assert not any(isinstance(module, nn.SyncBatchNorm) for module in again.modules())
    assert sum(isinstance(module, LeanBatchNormAct2d) for module in again.modules()) > 10
    assert all(not output.isnan().any() for output in again.train()(x))


def test_other_modules_are_added_as_they_are():
    block = convert_lean(nn.Sequential(ConvNormAct(3, 4, act_layer='silu')))[0]
    for name, module in (('bn', nn.SyncBatchNorm(4)), ('bn', nn.BatchNorm2d(4)), ('new', nn.Identity())):
        block.add_module(name, module)
        assert getattr(block, name) is module
        assert type(module) in (nn.SyncBatchNorm, nn.BatchNorm2d, nn.Identity)
    block.add_module('nothing', None)
    assert block.nothing is None


# --- copies, files, graphs ---

@pytest.mark.parametrize('copy_of', [
    copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model)),
    lambda model: torch.load(io.BytesIO(saved(model)), weights_only=False)], ids=['deepcopy', 'pickle', 'torch.save'])
def test_copies_are_lean(copy_of):
    _, ours = networks(num_classes=0)
    x = images(64, torch.float)
    new = copy_of(ours)
    assert kept_elements(new, x) == kept_elements(ours, x)
    torch.testing.assert_close(gradients(new, x), gradients(ours, x))


def saved(model: nn.Module) -> bytes:
    file = io.BytesIO()
    torch.save(model, file)
    return file.getvalue()


def test_meta_tensors():
    model = timm.create_model('rexnetv1_test', num_classes=3).to('meta').train()
    assert model(torch.empty(2, 3, 64, 64, device='meta')).shape == (2, 3)


@pytest.mark.parametrize('training', [True, False], ids=['training', 'evaluation'])
def test_graphs_hold_plain_operations(training):
    plain, lean = (model.train(training) for model in pair())
    x = images()
    expected = copy.deepcopy(plain)(x)
    for graph in (
            torch.jit.script(copy.deepcopy(lean)), torch.jit.trace(copy.deepcopy(lean), x, check_trace=False),
            torch.fx.symbolic_trace(copy.deepcopy(lean)), torch.export.export(copy.deepcopy(lean), (x,)).module()):
        torch.testing.assert_close(graph(x), expected)
    traced = torch.jit.trace(copy.deepcopy(lean), x, check_trace=False)
    assert 'PythonOp' not in str(traced.inlined_graph)


def test_a_scripted_model_leaves_the_values_of_the_original():
    plain, lean = pair()
    x = images()
    scripted = torch.jit.script(lean)
    assert_same(lean, copy.deepcopy(plain), x)
    assert {type(module) for module in lean.modules()}.isdisjoint({LeanBatchNormAct2d, LeanSiLU, LeanReLU6})
    assert scripted.code


@pytest.mark.slow
def test_compiled_models_train_as_timms():
    theirs, ours = networks(num_classes=3)
    x = images(64)
    expected = gradients(theirs.double(), x)
    torch.compiler.reset()
    compiled = torch.compile(ours.double(), backend='aot_eager', fullgraph=True)
    torch.testing.assert_close(gradients(compiled, x), expected)
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())


def test_prunings_count():
    plain, lean = pair()
    for model in (plain, lean):
        prune.l1_unstructured(model[0], 'weight', amount=0.5)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(2):
            optimizer.zero_grad()
            model(images()).square().mean().backward()
            optimizer.step()
    with torch.no_grad():
        torch.testing.assert_close(lean.eval()(images()), plain.eval()(images()))


def test_relu6_keeps_a_leaf_and_its_bounds():
    x = torch.tensor([-1., 0., 3., 6., 7., float('nan')], requires_grad=True)
    results = []
    for relu6 in (F.relu6, LeanReLU6()):
        output = relu6(x)
        results.append([output, *torch.autograd.grad(output.sum(), x)])
    torch.testing.assert_close(results[1], results[0], equal_nan=True)
    assert x.grad_fn is None and x[0] == -1
