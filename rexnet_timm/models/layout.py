"""State-dict layouts of ReXNetV1: timm's, which this package writes, and NAVER's, which it reads as well.

NAVER's layout is that of https://github.com/clovaai/rexnet (MIT license): one flat Sequential `features` that starts
with the stem's layers, one Sequential `out` a block, and 1x1 convs in `output`. The map between the two is read off the
modules of the model at hand, so that it holds for every width, depth and head.
"""
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from timm.models import clean_state_dict

if TYPE_CHECKING:
    from .rexnetv1 import ReXNetV1

__all__ = ['check_shapes', 'checkpoint_filter_fn', 'naver_to_timm', 'timm_to_naver', 'to_timm_layout']

FINAL_CHS = 1280  # channels of the final 1x1 conv at width_mult 1.0
CLASSIFIER_KEYS = ('head.fc.weight', 'head.fc.bias')


def _rename(state_dict: Mapping[str, Any], names: Mapping[str, str], linear: bool) -> dict[str, Any]:
    # the classifier is linear in timm's layout and a 1x1 conv in NAVER's
    renamed = {}
    for key, value in state_dict.items():
        new_key = names.get(key, key)
        if CLASSIFIER_KEYS[0] in (key, new_key) and getattr(value, 'ndim', 0) == (4 if linear else 2):
            value = value.flatten(1) if linear else value[:, :, None, None]
        renamed[new_key] = value
    return renamed


def _some(names: list[str]) -> str:
    return ', '.join(names[:4]) + (', ...' if len(names) > 4 else '')


def to_timm_layout(
        state_dict: Mapping[str, Any],
        model: 'ReXNetV1',
        strict: bool = True,
        partial: bool = False,
) -> dict[str, Any]:
    """A new state dict of `model` in timm's layout, from timm's or NAVER's, unwrapped as :func:`checkpoint_filter_fn`.

    Args:
        state_dict: Entries by name.
        model: The network it is for.
        strict: Refuse missing and unknown entries; otherwise unknown ones stay under their name.
        partial: The classifier may be missing, and entries of the whole network that `model` went without may be there.

    Raises:
        ValueError: With the number and the first names of what is missing or unknown, and what would load.
    """
    for wrapper in ('state_dict', 'model'):
        if isinstance(state_dict, Mapping) and isinstance(state_dict.get(wrapper), Mapping):
            state_dict = state_dict[wrapper]
    if not isinstance(state_dict, Mapping) or not all(isinstance(key, str) for key in state_dict):
        raise ValueError(
            f'A state dict maps names to tensors, got {type(state_dict).__name__}. Pass what torch.load(path, '
            'weights_only=True) or model.state_dict() returns.')
    state_dict = clean_state_dict(state_dict)
    layout, own = model.naver_keys(), model.state_dict()
    to_timm = {theirs: ours for ours, theirs in layout.items()}
    timm_keys = [key for key in state_dict if key in layout]
    naver_keys = [key for key in state_dict if key in to_timm]
    is_naver = len(naver_keys) > len(timm_keys)

    # torch fills in num_batches_tracked, which old files lack
    required = [key for key in own if not key.endswith('num_batches_tracked')]
    required = [key for key in required if not (partial and key in CLASSIFIER_KEYS)]
    required = [layout.get(key, key) for key in required] if is_naver else required
    missing = [key for key in required if key not in state_dict]
    allowed = layout if partial else own
    unknown = [key for key in state_dict if (to_timm.get(key, key) if is_naver else key) not in allowed]
    mixed = bool(timm_keys and naver_keys)
    if mixed or not (timm_keys or naver_keys) or (strict and (missing or unknown)):
        problem = "mixes timm's layout and NAVER's" if mixed else 'does not fit'
        raise ValueError(
            f'The state dict {problem}: {len(missing)} of the {len(required)} entries that {type(model).__name__} '
            f'needs are missing ({_some(missing)}), {len(unknown)} are not its own ({_some(unknown)}). What loads is '
            "timm's layout (stem.conv.weight, ...) or NAVER's (features.0.weight, ...), not both, of a network with "
            'the same width_mult, depth_mult and head; strict=False loads what fits of one layout.')
    return _rename(state_dict, to_timm, linear=True) if is_naver else dict(state_dict)


def check_shapes(state_dict: Mapping[str, Any], model: 'ReXNetV1') -> None:
    """Raise ValueError if an entry of a state dict in timm's layout has another shape than in `model`."""
    own = model.state_dict()
    wrong = [key for key in own if key in state_dict and getattr(state_dict[key], 'shape', None) != own[key].shape]
    if not wrong:
        return
    key = wrong[0]
    # of the entries 'features.<last>.conv.weight' and 'features.<index>.conv_dw.conv.weight'
    final = [
        value for name, value in state_dict.items()
        if name.startswith('features.') and name.endswith('.conv.weight') and name.count('.') == 3]
    another_width = final and any(name.startswith('features.') for name in wrong)
    width = f' Its final conv suggests width_mult={final[0].shape[0] / FINAL_CHS:g}.' if another_width else ''
    raise ValueError(
        f'{len(wrong)} of {len(own)} entries have another shape than {type(model).__name__} needs: {_some(wrong)}; '
        f'{key} is {tuple(getattr(state_dict[key], "shape", ()))}, needed is {tuple(own[key].shape)}.{width} Build the '
        'model with the width_mult, ch_div, in_chans and num_classes of the file.')


def naver_to_timm(state_dict: Mapping[str, Any], model: 'ReXNetV1') -> dict[str, Any]:
    """NAVER's layout in timm's, values unchanged; `model` gives the structure. ValueError for what is not NAVER's."""
    return _convert(state_dict, {theirs: ours for ours, theirs in model.naver_keys().items()}, 'NAVER', True)


def timm_to_naver(state_dict: Mapping[str, Any], model: 'ReXNetV1') -> dict[str, Any]:
    """timm's layout in NAVER's, values unchanged; `model` gives the structure. ValueError for what is not timm's."""
    return _convert(state_dict, model.naver_keys(), 'timm', False)


def _convert(state_dict: Mapping[str, Any], names: Mapping[str, str], layout: str, linear: bool) -> dict[str, Any]:
    unknown = [key for key in state_dict if key not in names]
    if unknown:
        raise ValueError(
            f"Every entry must be in {layout}'s layout of this model; {len(unknown)} of {len(state_dict)} are not: "
            f'{_some(unknown)}. Build the model with the width_mult and depth_mult of the file.')
    return _rename(state_dict, names, linear)


def checkpoint_filter_fn(state_dict: Mapping[str, Any], model: 'ReXNetV1') -> dict[str, Any]:
    """timm's `pretrained_filter_fn`: a checkpoint of the whole network in timm's layout, ready for timm to adapt.

    Takes timm's or NAVER's layout, bare or under 'state_dict' or 'model', with or without `module.` before the names.
    The classifier and shapes may differ, since timm adapts them. ValueError as :func:`to_timm_layout`.
    """
    return to_timm_layout(state_dict, model, partial=True)
