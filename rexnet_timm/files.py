"""Files of weights and checkpoints, read without running code from them."""
import argparse
import os
import pickle
from collections.abc import Mapping
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.models import clean_state_dict

__all__ = ['load_checkpoint_file', 'load_weights_file']

WRAPPERS = ('state_dict_ema', 'model_ema', 'state_dict', 'model')  # timm's order: the moving average where there is one


def load_checkpoint_file(path: str | os.PathLike) -> dict[str, Any]:
    """Read a checkpoint as tensors and plain values; one that needs to run code is refused.

    Args:
        path: A file written by torch.save, of a dict.

    Returns:
        Its content, with tensors on the CPU.

    Raises:
        FileNotFoundError: No such file.
        ValueError: Not a checkpoint, or one that would run code.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f'There is no checkpoint {os.fspath(path)!r}.')
    try:
        # timm's saver stores the arguments of the run in a namespace, which is plain data
        with torch.serialization.safe_globals([argparse.Namespace]):
            checkpoint = torch.load(path, map_location='cpu', weights_only=True)
    except pickle.UnpicklingError as error:
        # torch's own text goes on to say how to run the code
        raise ValueError(
            f'A checkpoint must hold tensors and plain values alone, and {os.fspath(path)!r} does not: it holds code, '
            'or is damaged, and nothing of it has run. A .safetensors file cannot hold code.') from error
    except (RuntimeError, EOFError) as error:
        text = next(iter(str(error).splitlines()), 'it is empty')
        raise ValueError(f'{os.fspath(path)!r} is no checkpoint, or is damaged: {text}') from error
    if not isinstance(checkpoint, dict):
        raise ValueError(f'A checkpoint must be a dict, {os.fspath(path)!r} is a {type(checkpoint).__name__}.')
    return checkpoint


def load_weights_file(path: str | os.PathLike) -> dict[str, torch.Tensor]:
    """Read the weights of a file as timm does, taken out of a training checkpoint, with or without `module.`.

    Args:
        path: A .safetensors file, or one written by torch.save.

    Returns:
        Tensors on the CPU by name; of a checkpoint with a moving average that one.

    Raises:
        FileNotFoundError: No such file.
        ValueError: No weights, damaged, or in need of running code.
    """
    if os.fspath(path).endswith('.safetensors'):
        if not os.path.isfile(path):
            raise FileNotFoundError(f'There is no file {os.fspath(path)!r}.')
        try:
            weights = load_file(path)
        except SafetensorError as error:
            raise ValueError(f'{os.fspath(path)!r} is no safetensors file, or is damaged: {error}') from error
    else:
        weights = load_checkpoint_file(path)
    wrapped = [weights[key] for key in WRAPPERS if isinstance(weights.get(key), Mapping)]
    weights = wrapped[0] if wrapped else weights
    if not weights or not all(isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in weights.items()):
        raise ValueError(
            f'{os.fspath(path)!r} must hold tensors by name, bare or under one of {", ".join(WRAPPERS)}, and does not.')
    return clean_state_dict(weights)
