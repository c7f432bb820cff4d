"""Pictures after the epochs of a run, which goes on without those that fail."""
import logging
from collections.abc import Callable
from typing import Any

import torch.nn as nn

from ..deployment.run_pictures import RunPictures
from ..errors import is_told
from ..training.log_writers import LogWriters
from .faults import fault_of

__all__ = ['EpochPictures']

_logger = logging.getLogger(__name__)


class EpochPictures:
    """Draws the pictures of a run and gives them to its logs.

    What fails in it is told when it begins to fail, and tried again after the next epoch: a full disk may have room
    again. An error of our own is told with where it came from.

    Args:
        pictures: What draws.
        network: Gives the network that is validated.
        log: The logs.
    """

    def __init__(self, pictures: RunPictures, network: Callable[[], nn.Module], log: LogWriters) -> None:
        self._pictures, self._network, self._log = pictures, network, log
        self._fails = False
        self._try(pictures.begin)

    def __call__(self, epoch: int) -> None:
        """Draw what is due after an epoch."""
        self._try(self._draw, epoch)

    def _draw(self, epoch: int) -> None:
        pictures = self._pictures.draw(epoch, self._network())
        self._fails = False
        self._log.add_pictures(epoch, pictures)

    def _try(self, call: Callable[..., None], *arguments: Any) -> None:
        try:
            call(*arguments)
        except Exception as error:  # days of training are worth more than a picture
            reason = fault_of(error) or (str(error) if isinstance(error, ValueError) and is_told(error) else None)
            if not self._fails:
                _logger.warning(
                    'A picture could not be made, and the run goes on without it. %s',
                    reason or 'This is a fault of the program:', exc_info=error if reason is None else None)
            self._fails = True
