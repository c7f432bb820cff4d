"""What a model keeps for the backward pass, and the batch that fits."""
import torch
from torch import nn

from rexnet_timm.deployment import memory

CPU = torch.device('cpu')


def model() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU()).train()


def test_what_is_kept_is_counted_once_and_without_weights():
    floats = 3 * 32 * 32 + 8 * 32 * 32  # the input, for the gradient of the weights, and the result of the ReLU
    assert memory.kept_bytes(model(), (3, 32, 32)) == memory.kept_bytes(model(), (3, 32, 32), 5) == 4 * floats
    twice = nn.Sequential(model(), nn.Conv2d(8, 8, 1), nn.ReLU())  # whose input is what the first one keeps
    assert memory.kept_bytes(twice, (3, 32, 32)) == 4 * (floats + 8 * 32 * 32)


def test_the_batch_is_the_largest_that_fits(monkeypatch):
    net, size = model(), (3, 32, 32)
    kept = memory.kept_bytes(net, size)
    weights = memory.COPIES * 4 * sum(parameter.numel() for parameter in net.parameters())
    for images, expected in ((0, 2), (7.9, 4), (8.1, 8), (1000, 16)):
        free = (weights + images * kept * memory.OVERHEAD) / memory.SHARE
        monkeypatch.setattr(memory, 'free_bytes', lambda device, free=free: free)
        assert memory.fitting_batch(net, size, CPU, least=2, most=16) == expected
    assert memory.fitting_batch(net, size, CPU, least=2, most=12) == 8
    free = (2 * weights + 8.2 * kept * memory.OVERHEAD) / memory.SHARE
    monkeypatch.setattr(memory, 'free_bytes', lambda device: free)
    assert memory.fitting_batch(net, size, CPU, 2, 16, processes=2) == 4


def test_the_free_memory_is_that_of_this_machine():
    assert 2 ** 20 < memory.free_bytes(CPU) < 2 ** 46
