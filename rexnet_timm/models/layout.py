"""Layouts of state dicts: timm's and NAVER's of ReXNetV1, and the older one of this package's light decoder.

This package writes timm's and reads both. NAVER's layout is that of https://github.com/clovaai/rexnet (MIT license):
one flat Sequential `features` that starts with the stem's layers, one Sequential `out` a block, and 1x1 convs in
`output`. The map between the two is read off the modules of the model at hand, so that it holds for every width, depth
and head.
"""
import re
from collections.abc import Collection, Mapping
from typing import Any

import torch
import torch.nn as nn

from ..files import PRETRAINED_DOOR, WeightsError, some, unwrap, without_prefix

__all__ = [
    'check_names', 'check_shapes', 'checkpoint_filter_fn', 'from_additive_decoder', 'naver_to_timm',
    'needed_names', 'timm_to_naver', 'to_timm_layout']

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


def needed_names(module: nn.Module) -> list[str]:
    """The names that a state dict of a module must have; torch fills in counters, which old files lack."""
    return [key for key in module.state_dict() if not key.endswith('num_batches_tracked')]


def to_timm_layout(
        state_dict: Mapping[str, Any],
        model: nn.Module,
        strict: bool = True,
        partial: bool = False,
) -> dict[str, Any]:
    """A new state dict of `model` in timm's layout, from timm's or NAVER's, taken out of a checkpoint by
    :func:`rexnet_timm.files.unwrap` and :func:`rexnet_timm.files.without_prefix`.

    Args:
        state_dict: Entries by name, or a checkpoint with them.
        model: The network it is for, with the `naver_keys` of :class:`ReXNetV1`.
        strict: Refuse missing and unknown entries; otherwise unknown ones stay under their name.
        partial: The classifier may be missing, and entries of the whole network that `model` went without may be there.

    Raises:
        WeightsError: With the number and the first names of what is missing or unknown, and what would load.
    """
    layout = model.naver_keys()
    to_timm = {theirs: ours for ours, theirs in layout.items()}
    needed = [key for key in needed_names(model) if not (partial and key in CLASSIFIER_KEYS)]
    needed_theirs = [layout.get(key, key) for key in needed]
    state_dict = without_prefix(unwrap(state_dict), needed, needed_theirs)
    num_timm, num_naver = (sum(key in names for key in state_dict) for names in (layout, to_timm))
    is_naver = num_naver > num_timm
    allowed = layout if partial else model.state_dict()
    check_names(
        state_dict, needed_theirs if is_naver else needed,
        {layout.get(key, key) for key in allowed} if is_naver else allowed, type(model).__name__, strict,
        "What loads is timm's layout (stem.conv.weight, ...) or NAVER's (features.0.weight, ...), not both, of a "
        'network with the same width_mult, depth_mult and head; strict=False loads what fits of one layout.',
        problem="mixes timm's layout and NAVER's" if num_timm and num_naver else '')
    return _rename(state_dict, to_timm, linear=True) if is_naver else state_dict


def check_names(
        state_dict: Mapping[str, Any],
        needed: Collection[str],
        allowed: Collection[str],
        owner: str,
        strict: bool,
        remedy: str,
        problem: str = '',
) -> None:
    """Refuse a state dict of which nothing is `owner`'s or, when strict, that lacks entries or has unknown ones.

    Raises:
        WeightsError: With the number and the first names of what is missing or unknown. Also for a `problem`.
    """
    missing = [key for key in needed if key not in state_dict]
    unknown = [key for key in state_dict if key not in allowed]
    if problem or len(unknown) == len(state_dict) or (strict and (missing or unknown)):
        found = [f'{len(missing)} of the {len(needed)} entries that {owner} needs are missing ({some(missing)})'] \
            if missing else []
        found += [f'{len(unknown)} are not its own ({some(unknown)})'] if unknown else []
        raise WeightsError(f'The state dict {problem or "does not fit"}: {", ".join(found)}. {remedy}')


def check_shapes(state_dict: Mapping[str, Any], model: nn.Module) -> None:
    """Raise WeightsError if an entry of a state dict, in `model`'s own names, has another shape than in `model`."""
    own = model.state_dict()
    wrong = [key for key in own if key in state_dict and getattr(state_dict[key], 'shape', None) != own[key].shape]
    if not wrong:
        return
    key = wrong[0]
    # of the entries 'features.<last>.conv.weight' and 'features.<index>.conv_dw.conv.weight'
    final = [
        value for name, value in state_dict.items()
        if name.startswith('features.') and name.endswith('.conv.weight') and name.count('.') == 3
        and getattr(value, 'ndim', 0) == 4]
    another_width = final and any(name.startswith('features.') for name in wrong)
    width = f' Its final conv suggests width_mult={final[0].shape[0] / FINAL_CHS:g}.' if another_width else ''
    classifier = state_dict.get(CLASSIFIER_KEYS[0])
    has_other_classes = (
        CLASSIFIER_KEYS[0] in wrong and getattr(classifier, 'ndim', 0) == 2
        and len(classifier) != len(own[CLASSIFIER_KEYS[0]]))
    classes = f' Its classifier has {len(classifier)} classes.' if has_other_classes else ''
    is_output = all(name in CLASSIFIER_KEYS or name.startswith('heads.') for name in wrong)
    rest = f' To load all but these, create it with {PRETRAINED_DOOR}.' if is_output else ''
    raise WeightsError(
        f'{len(wrong)} of {len(own)} entries have another shape than {type(model).__name__} needs: {some(wrong)}; '
        f'{key} is {tuple(getattr(state_dict[key], "shape", ()))}, needed is {tuple(own[key].shape)}.{width}{classes} '
        f'Build the model with the width_mult, ch_div, in_chans and num_classes of the file.{rest}')


def naver_to_timm(state_dict: Mapping[str, Any], model: nn.Module) -> dict[str, Any]:
    """NAVER's layout in timm's, values unchanged; `model` gives the structure. ValueError for what is not NAVER's."""
    return _convert(state_dict, {theirs: ours for ours, theirs in model.naver_keys().items()}, 'NAVER', True)


def timm_to_naver(state_dict: Mapping[str, Any], model: nn.Module) -> dict[str, Any]:
    """timm's layout in NAVER's, values unchanged; `model` gives the structure. ValueError for what is not timm's."""
    return _convert(state_dict, model.naver_keys(), 'timm', False)


def _convert(state_dict: Mapping[str, Any], names: Mapping[str, str], layout: str, linear: bool) -> dict[str, Any]:
    unknown = [key for key in state_dict if key not in names]
    if unknown:
        raise WeightsError(
            f"Every entry must be in {layout}'s layout of this model; {len(unknown)} of {len(state_dict)} are not: "
            f'{some(unknown)}. Build the model with the width_mult and depth_mult of the file.')
    return _rename(state_dict, names, linear)


def checkpoint_filter_fn(state_dict: Mapping[str, Any], model: nn.Module) -> dict[str, Any]:
    """timm's `pretrained_filter_fn`: a checkpoint of the whole network in timm's layout, ready for timm to adapt.

    Takes and refuses what :func:`to_timm_layout` does. The classifier and shapes may differ, since timm adapts them.
    """
    return to_timm_layout(state_dict, model, partial=True)


_ADDITIVE = re.compile(r'(.*stages\.\d+\.)conv_in\.weight')  # no encoder has a name like it beside a norm


def from_additive_decoder(state_dict: Mapping[str, Any], eps: float = 1e-5) -> dict[str, Any]:
    """A new state dict in which stages that normalised a sum, as those of the light decoder once did, normalise what
    is added. In evaluation the output is the same.

    The norm of the sum becomes that of the coarser features, and without mean and bias that of the skip.

    Args:
        state_dict: Entries by name, under any prefix. Others stay as they are.
        eps: What the norm of the sum added to the variance.
    """
    converted = dict(state_dict)
    for stage in [match[1] for match in map(_ADDITIVE.fullmatch, state_dict)
                  if match and f'{match[1]}norm.running_var' in state_dict]:
        prefix = f'{stage}norm.'
        norm = {key.removeprefix(prefix): converted.pop(key) for key in state_dict if key.startswith(prefix)}
        norm['running_var'] = norm['running_var'] + eps
        centred = {key: torch.zeros_like(norm[key]) for key in ('bias', 'running_mean') if key in norm}
        for old, new, values in (('conv_in', 'reduce', norm), ('conv_skip', 'reduce_skip', {**norm, **centred})):
            if f'{stage}{old}.weight' in converted:
                converted[f'{stage}{new}.conv.weight'] = converted.pop(f'{stage}{old}.weight')
                converted |= {f'{stage}{new}.bn.{key}': value for key, value in values.items()}
    return converted
