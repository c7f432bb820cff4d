"""Random brightness, contrast, saturation and hue of RGB images, in one pass over the pixels.

Each of the four is a linear function of red, green and blue (hue as a rotation in the plane of equal luma, of NTSC's
YIQ axes), and contrast's grey mean follows from the means of the channels. So all of them are one matrix and one shift,
in whatever order they come, and values are cut off once at the end. torchvision's v2 makes a pass for each, with a
rounding after each, and turns hue through HSV, which takes most of the time.
"""
import math

import torch
import torch.nn as nn

__all__ = ['RgbJitter']

_LUMA = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)
_YIQ = torch.stack([_LUMA, torch.tensor([0.596, -0.274, -0.322], dtype=torch.float64),
                    torch.tensor([0.211, -0.523, 0.312], dtype=torch.float64)])


class RgbJitter(nn.Module):
    """Change brightness, contrast, saturation and hue of an image by random amounts, in a random order.

    Args:
        strength: Brightness, contrast and saturation are multiplied by factors from 1 - strength (at least 0) to
            1 + strength.
        hue: Hue is turned by at most this, in turns of the colour circle.
    """

    def __init__(self, strength: float, hue: float) -> None:
        super().__init__()
        self.strength, self.hue = strength, hue

    def forward(self, planes: torch.Tensor) -> torch.Tensor:
        """uint8 (3, H, W) of uint8 (3, H, W); all randomness is from torch's global generator."""
        low, high = max(0., 1 - self.strength), 1 + self.strength
        order = torch.randperm(4).tolist()
        factors = torch.empty(3, dtype=torch.float64).uniform_(low, high).tolist()
        turn = torch.empty((), dtype=torch.float64).uniform_(-self.hue, self.hue).item()
        values = planes.reshape(3, -1).float()
        matrix, shift = color_matrix(order, *factors, turn, values.mean(1).double())
        values = torch.addmm(shift.float()[:, None] + 0.5, matrix.float(), values)  # half, to round and not to cut
        return values.clamp_(0, 255).to(torch.uint8).view(planes.shape)


def color_matrix(
        order: list[int],
        brightness: float,
        contrast: float,
        saturation: float,
        turn: float,
        means: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """What changes the colours of an image: `matrix @ rgb + shift`.

    Args:
        order: 0 to 3, brightness, contrast, saturation and hue in the order in which they are changed.
        brightness: Factor of the values.
        contrast: Factor of their distance from the mean luma of the image.
        saturation: Factor of their distance from the luma of the pixel.
        turn: Of hue, in turns.
        means: float64 (3,) means of the channels.

    Returns:
        float64 (3, 3) and (3,).
    """
    matrix, shift = torch.eye(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    for step in order:
        if step == 0:
            matrix, shift = brightness * matrix, brightness * shift
        elif step == 1:
            mean = _LUMA @ (matrix @ means + shift)
            matrix, shift = contrast * matrix, contrast * shift + (1 - contrast) * mean
        else:
            change = _saturation(saturation) if step == 2 else _hue(turn)
            matrix, shift = change @ matrix, change @ shift
    return matrix, shift


def _saturation(factor: float) -> torch.Tensor:
    return factor * torch.eye(3, dtype=torch.float64) + (1 - factor) * _LUMA.expand(3, 3)


def _hue(turn: float) -> torch.Tensor:
    cosine, sine = math.cos(2 * math.pi * turn), math.sin(2 * math.pi * turn)
    rotation = torch.tensor([[1, 0, 0], [0, cosine, sine], [0, -sine, cosine]], dtype=torch.float64)
    return torch.linalg.solve(_YIQ, rotation @ _YIQ)
