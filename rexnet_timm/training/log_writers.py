"""The numbers and pictures of each epoch for tools that show runs: TensorBoard, Weights & Biases, Trackio.

They are a convenience: what fails in them is told once and leaves the run alone.
"""
import importlib
import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from ..errors import first_lines

__all__ = ['TOOLS', 'LogWriters', 'require_tools']

_logger = logging.getLogger(__name__)

TOOLS = ('tensorboard', 'wandb', 'trackio')
PROJECT = 'rexnet_timm'


def require_tools(tools: Sequence[str]) -> None:
    """Raise ValueError for a tool that cannot be imported.

    Args:
        tools: Some of `TOOLS`.
    """
    for tool in tools:
        try:
            importlib.import_module(tool)
        except ImportError as error:
            raise ValueError(
                f"A log for {tool} needs its package, which cannot be imported here: pip install 'rexnet-timm[log]'"
            ) from error


class LogWriters:
    """Writes to each of the tools; a context, at whose end they are closed.

    Args:
        tools: Some of `TOOLS`.
        folder: Of the run; TensorBoard's files go into it, and its name names the run.
        arguments: Of the run, plain values, which W&B and Trackio show.
    """

    def __init__(self, tools: Sequence[str], folder: str, arguments: Mapping[str, Any] | None = None) -> None:
        self._writers: dict[str, Any] = {}
        for tool in tools:
            self._try(tool, lambda tool=tool: self._writers.update({tool: _open(tool, folder, dict(arguments or {}))}))

    def __enter__(self) -> 'LogWriters':
        return self

    def __exit__(self, *error: object) -> None:
        for tool, writer in list(self._writers.items()):
            self._try(tool, writer.close if tool == 'tensorboard' else writer.finish)

    def add(self, epoch: int, values: Mapping[str, float]) -> None:
        """Write the numbers of an epoch, by name; those that are no finite numbers too."""
        for tool, writer in list(self._writers.items()):
            self._try(tool, lambda tool=tool, writer=writer: _add(tool, writer, epoch, values))

    def add_pictures(self, epoch: int, pictures: Mapping[str, Image.Image]) -> None:
        """Write the pictures of an epoch, RGB, by what they show."""
        for tool, writer in list(self._writers.items()):
            self._try(tool, lambda tool=tool, writer=writer: _add_pictures(tool, writer, epoch, pictures))

    def _try(self, tool: str, call: Any) -> None:
        try:
            call()
        except Exception as error:  # of another's package, network or disk
            self._writers.pop(tool, None)
            _logger.warning(
                'The log for %s has failed and ends here; the run goes on. (%s: %s)', tool, type(error).__name__,
                first_lines(error, 1))


def _open(tool: str, folder: str, arguments: dict[str, Any]) -> Any:
    name = os.path.basename(os.path.abspath(folder))
    if tool == 'tensorboard':
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(os.path.join(folder, 'tensorboard'))
    package = importlib.import_module(tool)
    if tool == 'wandb':
        return package.init(project=PROJECT, name=name, id=name, dir=folder, config=arguments, resume='allow')
    return package.init(project=PROJECT, name=name, config=arguments, resume='allow')


def _add(tool: str, writer: Any, epoch: int, values: Mapping[str, float]) -> None:
    if tool == 'tensorboard':
        for name, value in values.items():
            writer.add_scalar(name, value, epoch)
        writer.flush()
    else:
        writer.log(dict(values), step=epoch)


def _add_pictures(tool: str, writer: Any, epoch: int, pictures: Mapping[str, Image.Image]) -> None:
    if tool == 'tensorboard':
        for name, picture in pictures.items():
            writer.add_image(name, np.asarray(picture), epoch, dataformats='HWC')
        writer.flush()
    elif pictures:
        package = importlib.import_module(tool)
        writer.log({name: package.Image(picture) for name, picture in pictures.items()}, step=epoch)
