"""BatchNorm folded into the convolution before it, for inference.

In evaluation BatchNorm is an affine map of each channel, which the weights and the bias of a convolution take in. Which
norm follows which convolution is read off the modules' own `forward` methods, recorded by `torch.fx` one module at a
time, so that it works for any network, and a sum or a second use in between is seen.
"""
import copy
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
import torch.fx
import torch.nn as nn
from timm.layers import BatchNormAct2d, Conv2dSame, FrozenBatchNormAct2d, SyncBatchNormAct
from torch.nn.utils import fuse_conv_bn_weights
from torchvision.ops import FrozenBatchNorm2d

from .lean import LeanBatchNormAct2d

__all__ = ['fuse']

# Exactly these: a derived class may do more to its weights or its output.
_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, Conv2dSame)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, FrozenBatchNorm2d)
_NORMS_WITH_ACTIVATION = (BatchNormAct2d, LeanBatchNormAct2d, SyncBatchNormAct, FrozenBatchNormAct2d)


def fuse(model: nn.Module, inplace: bool = False) -> nn.Module:
    """Fold every BatchNorm that directly follows a convolution into it, for inference.

    Works on any network: the backbones, encoders, U-Nets and depth networks of this package, and those of timm and SMP.
    What is not sure to be equal stays as it is: norms after a sum, without running statistics, or in a module whose
    `forward` cannot be recorded by `torch.fx`, and convolutions of derived classes, with weights that are computed
    before each call, or used in several places. timm's `reparameterize_model` does what is left for its own blocks of
    several branches; call it first.

    The outputs are equal to rounding, and dtypes are kept. A convolution gets a bias, and the entries of its norm leave
    the state dict: load weights before fusing. Hooks on a convolution see its output normalised, and, where the
    activation after it works in place, have to copy it to keep it.

    Args:
        model: The network, in training or in evaluation mode.
        inplace: Change `model` itself instead of a copy.

    Returns:
        The fused network, in evaluation mode, for inference only: do not train it.
    """
    model = (model if inplace else copy.deepcopy(model)).eval()
    for conv, norm in _pairs(model):
        _fold(conv, norm)
        rest = _rest(norm).eval()
        for name, module in list(model.named_modules(remove_duplicate=False)):
            if module is norm:
                model.set_submodule(name, rest)
    return model


class _OwnForward(torch.fx.Tracer):
    """Records what the `forward` of one module does; modules that it calls stay whole, except for Sequentials."""

    def __init__(self) -> None:
        super().__init__()
        self.unrolled: set[nn.Module] = set()

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return not _is_sequential(m)

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: tuple, kwargs: dict) -> Any:
        try:
            self.path_of_module(m)
        except NameError:  # built in passing, as SMP's ResNets build a Sequential of their layers
            return forward(*args, **kwargs)
        if _is_sequential(m):
            self.unrolled.add(m)
        return super().call_module(m, forward, args, kwargs)


def _is_sequential(module: nn.Module) -> bool:
    return type(module).forward is nn.Sequential.forward


def _pairs(model: nn.Module) -> list[tuple[nn.Module, nn.Module]]:
    """The convolutions and norms of `model` that meet each other, and nothing else, wherever they are used."""
    after: dict[nn.Module, set[nn.Module | None]] = defaultdict(set)  # None is anything but a module's call
    before: dict[nn.Module, set[nn.Module | None]] = defaultdict(set)
    unrolled: set[nn.Module] = set()
    for root in model.modules():  # parents first
        if root in unrolled or not any(True for _ in root.children()):
            continue
        tracer = _OwnForward()
        try:
            graph = tracer.trace(root)
        except Exception:  # a forward that needs numbers may fail in any way: the module stays as it is
            continue
        unrolled |= tracer.unrolled
        for node in graph.nodes:
            if node.op == 'get_attr' and '.' in str(node.target):  # a weight of another module, used by itself
                owner = root.get_submodule(str(node.target).rpartition('.')[0])
                after[owner].add(None)
                before[owner].add(None)
            elif node.op == 'call_module':
                module = root.get_submodule(str(node.target))
                after[module].add(_only_user(node, root))
                before[module].add(_only_input(node, root))
    return [
        (conv, norm) for conv, (norm, *others) in after.items()
        if norm is not None and not others and before[norm] == {conv} and _can_fold(conv, norm)]


def _only_user(node: torch.fx.Node, root: nn.Module) -> nn.Module | None:
    user, *others = node.users
    if others or user.op != 'call_module' or user.args != (node,) or user.kwargs:
        return None
    return root.get_submodule(str(user.target))


def _only_input(node: torch.fx.Node, root: nn.Module) -> nn.Module | None:
    source = node.args[0] if len(node.args) == 1 and not node.kwargs else None
    if not isinstance(source, torch.fx.Node) or source.op != 'call_module':
        return None
    return root.get_submodule(str(source.target))


def _can_fold(conv: Any, norm: Any) -> bool:
    return (
        type(conv) in _CONVS and type(norm) in (*_NORMS, *_NORMS_WITH_ACTIVATION)
        and norm.running_mean is not None and norm.running_var is not None
        and norm.running_mean.shape == (conv.out_channels,)
        # else it is computed from other parameters before each call, as by torch.nn.utils.prune
        and isinstance(conv.weight, nn.Parameter))


def _fold(conv: Any, norm: Any) -> None:
    dtype = conv.weight.dtype
    wide = torch.promote_types(dtype, torch.float32)
    tensors = (conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.weight, norm.bias)
    in_wide: list[Any] = [tensor if tensor is None else tensor.detach().to(wide) for tensor in tensors]
    weight, bias, mean, var, scale, shift = in_wide
    fused = fuse_conv_bn_weights(weight, bias, mean, var, norm.eps, scale, shift)
    conv.weight, conv.bias = (
        nn.Parameter(parameter.detach().to(dtype), requires_grad=conv.weight.requires_grad) for parameter in fused)


def _rest(norm: Any) -> nn.Module:
    """What stays of a norm without the normalisation."""
    if type(norm) in _NORMS:
        return nn.Identity()
    if isinstance(norm.drop, nn.Identity):
        return norm.act
    return nn.Sequential(norm.drop, norm.act)
