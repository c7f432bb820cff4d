"""How many images a model can be trained on at once: what it keeps for the backward pass, and what memory is free."""
import os
import re
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn as nn

__all__ = ['fitting_batch', 'free_bytes', 'kept_bytes']

SHARE = 0.8  # of the free memory that is planned with
# Of what is kept, the most that was seen in use: gradients of the activations, work space, and the loss
OVERHEAD = 2.0
COPIES = 4  # of each parameter: itself, its gradient, and two averages of the optimizer
_LIMITS = (  # of a container: the most, and what is in use
    ('/sys/fs/cgroup/memory.max', '/sys/fs/cgroup/memory.current'),
    ('/sys/fs/cgroup/memory/memory.limit_in_bytes', '/sys/fs/cgroup/memory/memory.usage_in_bytes'))


def kept_bytes(model: nn.Module, input_size: Sequence[int], images: int = 2) -> int:
    """Bytes that a model keeps of each image for the backward pass, counted in a forward pass of some images.

    Its weights stay as they are. Its statistics of BatchNorm and the random state do not.

    Args:
        model: In training mode, on the device that is asked about.
        input_size: Channels, height and width of an image.
        images: Images of the pass, as many as the model needs at least.
    """
    kept: dict[int, int] = {}
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}

    def count(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # an output that held itself would never be freed

    device = next(model.parameters()).device
    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        outputs = model(torch.zeros(images, *input_size, device=device))  # they hold what was counted
    del outputs
    return sum(kept.values()) // images


def free_bytes(device: torch.device) -> int:
    """Memory of a device that can be taken now; of a CPU that of the machine, or of the container, if that has less."""
    if device.type == 'cuda':
        return torch.cuda.mem_get_info(device)[0]
    pages = os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') // 2  # where nothing else is known
    found = re.search(r'^MemAvailable:\s+(\d+) kB', _text('/proc/meminfo'), re.MULTILINE)
    free = int(found[1]) * 1024 if found else pages
    for most, used in _LIMITS:
        limit, taken = _text(most).strip(), _text(used).strip()
        if limit.isdigit() and taken.isdigit():
            free = min(free, max(0, int(limit) - int(taken)))
    return free


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding='utf-8')
    except OSError:
        return ''


def fitting_batch(
        model: nn.Module, input_size: Sequence[int], device: torch.device, least: int, most: int,
        processes: int = 1) -> int:
    """The largest power of two of images from `least` to `most` whose training step fits into the free memory.

    Args:
        model: On the device, in training mode; see :func:`kept_bytes`.
        input_size: Channels, height and width of an image.
        device: Where it is trained.
        least: What is returned where nothing fits.
        most: Highest answer; at least `least`.
        processes: Processes that share a CPU's memory, each with such a batch.
    """
    kept = kept_bytes(model, input_size, max(2, least))
    weights = COPIES * sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    room = SHARE * free_bytes(device) / (processes if device.type == 'cpu' else 1) - weights
    batch = least
    while batch * 2 <= most and batch * 2 * kept * OVERHEAD <= room:
        batch *= 2
    return batch
