"""What a check of the data proposes for training, as options of `rexnet train`: printed by `rexnet check`, taken by
`--auto`.
"""
import argparse
from collections.abc import Mapping
from typing import Any

import torch

from ..data.check import Check
from ..data.plan import Plan as Planned
from ..data.plan import plan_of
from ..deployment.memory import fitting_batch
from .arguments import train_args_of
from .build import create_model, in_channels, start_process
from .kinds import kind_of
from .kinds.base import least_batch

__all__ = ['MODEL', 'Planned', 'planned', 'planned_batch', 'words_of']

MODEL = 'rexnetv1_unet_1_0'
MOST_IMAGES = 16  # in a batch
BATCHES = 10  # in an epoch, at least


def words_of(options: Mapping[str, Any]) -> list[str]:
    """Options as words of a command line, by their names."""
    words = []
    for name, value in options.items():
        if name == 'label_map' and not isinstance(value, str) and not isinstance(value[0], str):
            value = [f'{label}:{index}' for label, index in value]
            if value[0].startswith('-'):  # in one word, which is no option
                value = [' '.join(value)]
        values = value if isinstance(value, (list, tuple)) else [value]
        flag = f'--{name.replace("_", "-")}'
        values = [f'{item:g}' if isinstance(item, float) else str(item) for item in values]
        if len(values) == 1 and values[0].startswith('-'):
            words.append(f'{flag}={values[0]}')
        else:
            words += [flag, *values]
    return words


def planned(args: argparse.Namespace, folder: str, check: Check, color_file: str | None) -> Planned:
    """The plan for a check, with the batch size for the model of the arguments of `rexnet check`."""
    plan = plan_of(check)
    if not plan.values:
        return plan
    if check.colors_are_proposed:
        plan.add('color_map', color_file, 'The colours of the masks, whose classes can be named in the file.')
    said = {name: value for name in ('model', 'encoder_name', 'in_chans', 'device')
            if (value := getattr(args, name)) is not None}
    number = plan.values.get('num_classes') or len(check.class_names)
    train_args = train_args_of({'data': folder, 'img_size': plan.values['img_size'], **said})
    split = check.splits[check.train]
    planned_batch(plan, train_args, number, split.pairs - split.num_bad, start_process(args.device).device)
    return plan


def planned_batch(plan: Planned, args: argparse.Namespace, num_classes: int, images: int, device: torch.device) -> None:
    """Add the batch size to a plan: what fits into the memory, and leaves some batches in an epoch."""
    kind = kind_of(args.model)
    size = args.input_size[1:] if args.input_size else (args.img_size,) * 2
    input_size = (in_channels(args) or 3, *size)
    with torch.random.fork_rng(devices=[]):
        model = create_model(args, num_classes, kind.without_effect).train()
        least = least_batch(args, model, input_size)
        most = max(least, min(MOST_IMAGES, images // BATCHES))
        batch = fitting_batch(model.to(device), input_size, device, least, most)
    plan.add('batch_size', batch, f'A power of two up to {MOST_IMAGES} that fits into the free memory of {device.type} '
             f'and leaves {BATCHES} batches in an epoch of {images} images, where there are so many.')


