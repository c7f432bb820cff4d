"""Networks and images as several tests need them."""
import torch
from torch import nn

from rexnet_timm.data.description import DataDescription
from rexnet_timm.deployment.load import describe


def with_statistics(model: nn.Module) -> nn.Module:
    """A model whose BatchNorm statistics are not those of a new one."""
    model.train()
    with torch.no_grad():
        for _ in range(3):
            model(torch.randn(4, 3, 64, 64))
    return model.eval()


def image(*shape: int) -> torch.Tensor:
    """The same noise at every call, float32 of a shape."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


COLORS = ((10, 20, 30), (200, 0, 0), (0, 0, 200))


class Brightest(nn.Module):
    """Its classes are the channels: of each pixel the largest one."""
    num_classes = 3

    def forward(self, x):
        return x


def brightest(**description) -> nn.Module:
    return describe(Brightest(), DataDescription(
        **{'class_names': ('red', 'green', 'blue'), 'colors': COLORS, 'mean': (0.,), 'std': (0.1,), **description}))
