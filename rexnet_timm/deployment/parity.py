"""An exported file beside its network: the same images, the same values."""
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ..data.description import DataDescription
from .exported import ExportedNetwork

__all__ = ['Comparison', 'agreement', 'compare', 'example_images']

COMPARED = ((1, 64, 96), (2, 97, 65), (1, 160, 160))  # number, height and width
TOLERANCE = 1e-3  # of the deviation of the output
HALF_TOLERANCE = 5e-2


@dataclass(frozen=True)
class Comparison:
    """An exported file beside the network, at one size.

    Attributes:
        size: Number, height and width of the images.
        difference: Largest difference of the outputs, of the deviation of the network's; None of a file that gives
            classes.
        pixels: Number of pixels (of a classifier, images) whose class is clear: its logit leads by more than twice what
            may differ. 0 for depth.
        unequal: How many of these have another class in the file.
    """
    size: tuple[int, int, int]
    difference: float | None
    pixels: int
    unequal: int


def example_images(shape: tuple[int, int, int], description: DataDescription, as_uint8: bool) -> torch.Tensor:
    """Images of soft patches and noise, the same at every call, as a file takes them.

    Args:
        shape: Number, height and width.
        description: What the network knows of its images.
        as_uint8: Whether they are uint8; otherwise they are float32 and normalised.

    Returns:
        (N, in_chans, H, W).
    """
    number, size = shape[0], tuple(shape[1:])
    generator = torch.Generator().manual_seed(size[0])
    patches = torch.rand(number, description.in_chans, 5, 5, generator=generator)
    noise = torch.rand(number, description.in_chans, *size, generator=generator)
    pixels = (0.8 * F.interpolate(patches, size, mode='bilinear') + 0.2 * noise) * 255
    if as_uint8:
        return pixels.to(torch.uint8)
    low, high = description.value_range
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (description.mean, description.std))
    return (pixels / 255 * (high - low) + low - mean) / std


@torch.no_grad()
def compare(
        network: ExportedNetwork, reference: Callable[[torch.Tensor], torch.Tensor], half: bool = False,
) -> list[Comparison]:
    """Run an exported file beside its network at the sizes of `COMPARED`, or at the one that it is made for.

    Args:
        network: The file.
        reference: From the same images to logits or disparity.
        half: Whether the file computes in float16 or has its weights in it.

    Raises:
        ValueError: The outputs differ, or have another shape.
    """
    comparisons, tolerance = [], HALF_TOLERANCE if half else TOLERANCE
    for shape in COMPARED if network.size is None else [(2, *network.size)]:
        images = example_images(shape, network.description, network.takes_uint8)
        expected, found = reference(images), network(images)
        comparison = _compare_outputs(shape, expected, found, network.output, tolerance)
        comparisons.append(comparison)
        wrong = comparison.difference is not None and not comparison.difference <= tolerance  # NaN is wrong as well
        if wrong or comparison.unequal:
            difference = '' if comparison.difference is None else (
                f' by {comparison.difference:.2g} of the deviation of the {network.output} (at most {tolerance:g})')
            raise ValueError(
                f'The exported file must give the values of the network, and differs{difference} at {shape[1]} x '
                f'{shape[2]}, with another class at {comparison.unequal} of {comparison.pixels} clear pixels. It is '
                'not kept: export another format, or without half.')
    return comparisons


@torch.no_grad()
def agreement(
        network: ExportedNetwork, reference: Callable[[torch.Tensor], torch.Tensor], batches: Iterable[torch.Tensor],
) -> float:
    """Share of pixels, or of a classifier's images, with the same class in an exported file and in its network.

    Args:
        network: The file, which returns logits or classes.
        reference: From the same images to logits.
        batches: Images as the file takes them.
    """
    equal = number = 0
    for images in batches:
        found = network(images)
        same = _classes(reference(images))[0] == (found if network.returns_classes else _classes(found)[0])
        equal, number = equal + int(same.sum()), number + same.numel()
    return equal / number


def _compare_outputs(
        shape: tuple[int, int, int], expected: torch.Tensor, found: torch.Tensor, output: str, tolerance: float,
) -> Comparison:
    if output == 'classes':
        wanted_shape = (expected.shape[0], *expected.shape[2:])
    else:
        wanted_shape = tuple(expected.shape)
    if tuple(found.shape) != wanted_shape:
        raise ValueError(
            f'The exported file must return {wanted_shape} for images of {shape[1]} x {shape[2]}, and returns '
            f'{tuple(found.shape)}. It is not kept: export another format.')
    # a network that gives nearly the same everywhere is held against the size of its values
    deviation = max(float(expected.std()), 1e-3 * float(expected.abs().max()), 1e-12)
    difference = None if output == 'classes' else float((found - expected).abs().max()) / deviation
    if output == 'disparity':
        return Comparison(shape, difference, 0, 0)
    classes, lead = _classes(expected)
    clear = lead > 2 * tolerance * deviation
    unequal = clear & (classes != (found if output == 'classes' else _classes(found)[0]))
    return Comparison(shape, difference, int(clear.sum()), int(unequal.sum()))


def _classes(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The class of every pixel, and how far its logit leads; of a binary mask 0 is the logit of the background."""
    if logits.shape[1] == 1:
        return (logits[:, 0] > 0).to(torch.uint8), logits[:, 0].abs()
    best = logits.topk(2, dim=1).values
    return logits.argmax(1).to(torch.uint8 if logits.shape[1] <= 256 else torch.int64), best[:, 0] - best[:, 1]
