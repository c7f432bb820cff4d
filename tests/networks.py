"""Networks and images as several tests need them."""
import torch
from torch import nn


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
