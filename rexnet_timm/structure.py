"""The network that a state dict of ReXNetV1 belongs to, found from its names and shapes."""
from collections.abc import Iterator, Mapping
from math import ceil

import torch

from .layout import FINAL_CHS, check_shapes, to_timm_layout
from .rexnetv1 import ReXNetV1, ReXNetV1Lite

__all__ = ['model_of']

STAGE_BLOCKS = (1, 2, 2, 3, 3, 5)  # at depth_mult 1.0
CLASSIFIERS = ('head.fc.weight', 'output.1.weight', 'output.4.weight')
LITE = ('head.pre_logits.conv.weight', 'output.4.weight')


def model_of(
        state_dict: Mapping[str, torch.Tensor],
        width_mult: float | None = None,
        depth_mult: float | None = None,
) -> ReXNetV1:
    """The network of a state dict in timm's layout or NAVER's, on the meta device: structure and shapes alone.

    Args:
        state_dict: Entries by name, of a whole network.
        width_mult: Width of the network; None tries those that give as many channels at the end, of few decimals.
        depth_mult: Depth of the network; None takes the one with as many blocks.

    Returns:
        A network with the same names and shapes.

    Raises:
        ValueError: There is none.
    """
    stems = [state_dict[key] for key in ('stem.conv.weight', 'features.0.weight') if key in state_dict]
    if len(stems) != 1 or stems[0].ndim != 4:
        raise ValueError(
            "A state dict of ReXNetV1 has the stem's conv as stem.conv.weight (timm) or features.0.weight (NAVER), one "
            f'of the two; these {len(state_dict)} entries do not: {", ".join(list(state_dict)[:4])}, ...')
    classifiers = [state_dict[key].shape[0] for key in CLASSIFIERS if key in state_dict and state_dict[key].ndim > 1]
    is_lite = any(key in state_dict for key in LITE)
    model_cls = ReXNetV1Lite if is_lite else ReXNetV1
    arguments = dict(
        depth_mult=_depth(state_dict) if depth_mult is None else depth_mult, in_chans=stems[0].shape[1],
        num_classes=classifiers[0] if classifiers else 0, device='meta')
    # the names do not depend on the width
    state_dict = to_timm_layout(state_dict, model_cls(**arguments))
    # the only entry 'features.<index>.conv.weight'; those of the blocks are deeper
    (final_chs,) = [
        value.shape[0] for key, value in state_dict.items()
        if key.startswith('features.') and key.endswith('.conv.weight') and key.count('.') == 3]
    reason = f'No width_mult gives {final_chs} channels.'
    outputs = [value.shape[0] for key, value in state_dict.items() if key.endswith('.conv_pwl.conv.weight')]
    rounded = [ch_div for ch_div in (16, 8) if all(chs % ch_div == 0 for chs in outputs)]
    for ch_div in [8] if is_lite else [*rounded, 1]:
        for width in _widths(final_chs, ch_div, is_lite) if width_mult is None else [width_mult]:
            model = model_cls(width_mult=width, ch_div=ch_div, **arguments)
            try:
                check_shapes(state_dict, model)
            except ValueError as error:
                reason = str(error)
            else:
                return model
    raise ValueError(f'No ReXNetV1 of width_mult {width_mult or "with few decimals"} has all of these shapes. {reason}')


def _depth(state_dict: Mapping[str, torch.Tensor]) -> float:
    # blocks begin with the only depthwise or expanding conv of their own: count their indices
    blocks = {
        key.split('.')[1] for key in state_dict
        if key.startswith('features.') and (key.endswith('.conv_dw.conv.weight') or key.endswith('.out.0.weight'))}
    # every change of a rounded-up length is at a multiple of 1/30, and the total names the lengths
    for thirtieths in range(1, 30 * (len(blocks) + 1)):
        depth_mult = thirtieths / 30 - 1e-9  # below it, so that no float error adds a block
        if sum(ceil(length * depth_mult) for length in STAGE_BLOCKS) == len(blocks):
            return depth_mult
    raise ValueError(
        f'No depth_mult gives {len(blocks)} blocks, which is what the state dict has. The stages of ReXNetV1 have '
        f'{", ".join(map(str, STAGE_BLOCKS))} blocks times depth_mult, rounded up.')


def _widths(final_chs: int, ch_div: int, is_lite: bool) -> Iterator[float]:
    # the widths that give the final conv these channels, of 1 decimal first, then of 2, ...
    low, high = final_chs, final_chs + 1  # cut off
    if is_lite and final_chs == FINAL_CHS:
        low, high = 1, FINAL_CHS + 1  # all widths below 1.0 share them
    elif ch_div > 1 and not is_lite:
        low, high = final_chs - ch_div, final_chs + ch_div  # rounded either way
    tried = set()
    for decimals in range(1, 5 if high - low == 1 else 4 if high - low < FINAL_CHS else 3):
        unit = 10 ** decimals
        for number in range(ceil(low * unit / FINAL_CHS - 1e-9), ceil(high * unit / FINAL_CHS - 1e-9)):
            width = number / unit
            if width > 0 and width not in tried:
                tried.add(width)
                yield width
