"""What to train a segmentation with, by rules on what was counted in the data.

The idea is nnU-Net's (https://arxiv.org/abs/1904.08128), that a fingerprint of the data decides; the rules are our
own, for two dimensions:

* img_size: the shorter side of the image in the middle, to the nearest multiple of 32, from 64 to 512.
* scale: 0.5 to 2, and 0.75 to 1.5 where half of the pixels of some class are in objects that would be smaller than
  8 x 8 pixels at half the size.
"""
from dataclasses import dataclass, field
from typing import Any

from .check import Check

__all__ = ['Plan', 'plan_of']

STEP, SMALLEST, LARGEST = 32, 64, 512
WIDE, NARROW = (0.5, 2.0), (0.75, 1.5)
LEAST_AREA = 64


@dataclass
class Plan:
    """What to train with.

    Attributes:
        values: By the name of the argument.
        reasons: Why, by the name of the argument.
    """
    values: dict[str, Any] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, value: Any, reason: str) -> None:
        self.values[name], self.reasons[name] = value, reason


def plan_of(check: Check) -> Plan:
    """What to train with; empty where the labels of the data are not known, or nothing can be trained on."""
    plan, meaning = Plan(), check.meaning
    if meaning is None or check.train not in check.splits or not check.splits[check.train].shorter:
        return plan
    said = check.description
    if meaning.label_map and not check.is_mapped:
        plan.add('label_map', meaning.label_map, meaning.reasons['label_map'])
    elif said.num_classes is None or meaning.num_classes == 1 or meaning.num_classes != said.num_classes:
        plan.add('num_classes', meaning.num_classes, meaning.reasons.get('num_classes', 'As it was said.'))
    if meaning.ignore_index is not None and meaning.ignore_index != said.ignore_index:
        text = 'With so many classes, padding needs a label that is none of them.'
        plan.add('ignore_index', meaning.ignore_index, meaning.reasons.get('ignore_index', text))
    if check.validation is None:
        plan.add('val_share', 0.2, 'There is no split for validation.')
    _add_size(plan, check)
    _add_scale(plan, check)
    return plan


def _add_size(plan: Plan, check: Check) -> None:
    sides = check.splits[check.train].shorter
    passed, middle = 0, sum(sides.values()) / 2
    for side in sorted(sides):
        passed += sides[side]
        if passed >= middle:
            break
    size = min(max(round(side / STEP) * STEP, SMALLEST), LARGEST)
    plan.add('img_size', size, f'The shorter side of the images is {side} pixels in the middle; a multiple of {STEP}, '
             f'from {SMALLEST} to {LARGEST}.')


def _add_scale(plan: Plan, check: Check) -> None:
    areas = {index: found.typical for index, found in check.classes(check.train).items()}
    if not areas:
        return
    smallest = min(areas, key=areas.get)
    is_small = areas[smallest] * WIDE[0] ** 2 < LEAST_AREA
    plan.add('scale', NARROW if is_small else WIDE,
             f'Half of the pixels of {check.class_names[smallest]} are in objects of {areas[smallest]:.0f} pixels or '
             f'less, at {WIDE[0]} of the size {"fewer" if is_small else "not fewer"} than {LEAST_AREA}.')
