"""Weights and input by closed formula, and the reference values that NAVER's published code gave with them.

Source of the values: `naver_reference.json`, made by running rexnetv1.py and rexnetv1_lite.py of
https://github.com/clovaai/rexnet (MIT) in evaluation mode. The formula is written down beside that file.
"""
import json
import zlib
from math import prod
from pathlib import Path

import numpy as np
import pytest
import torch

REFERENCE = Path(__file__).resolve().parents[2] / 'shared' / 'golden' / 'naver_reference.json'
NAMES = (
    'rexnetv1 width_mult=1.0', 'rexnetv1 width_mult=1.3', 'rexnetv1 width_mult=2.0', 'rexnetv1_lite multiplier=1.0')


def record(name: str) -> dict:
    """One reference record; skips the test where the file is not at hand."""
    if not REFERENCE.exists():
        pytest.skip(f'reference values are not there: {REFERENCE}')
    return next(entry for entry in json.loads(REFERENCE.read_text()) if entry['name'] == name)


def entry(key: str, shape: list[int]) -> torch.Tensor:
    """The float32 tensor that the formula gives for a NAVER key; int64 zero for num_batches_tracked."""
    if key.endswith('num_batches_tracked'):
        return torch.zeros(shape, dtype=torch.int64)
    seed = zlib.crc32(key.encode()) % 9973
    waves = np.abs(np.sin(12.9898 * np.arange(prod(shape), dtype=np.float64) + 0.618 * seed) * 43758.5453)
    u = waves - np.floor(waves)
    if key.endswith('running_var'):
        value = 0.5 + u
    elif len(shape) >= 2:
        value = 2 * (u - 0.5) * np.sqrt(3 / prod(shape[1:]))
    elif key.endswith('weight'):
        value = 0.75 + 0.5 * u
    else:
        value = 0.2 * (u - 0.5)
    return torch.from_numpy(value.reshape(shape).astype(np.float32))


def state_dict(reference: dict) -> dict[str, torch.Tensor]:
    """The whole state dict of a record in NAVER's layout and order."""
    return {key: entry(key, shape) for key, shape in reference['state_dict']}


def image(reference: dict) -> torch.Tensor:
    """The input of a record, float32 (N, 3, H, W) in (-1, 1)."""
    shape = reference['input_shape']
    return entry('input', shape) * np.float32(np.sqrt(prod(shape[1:]) / 3))
