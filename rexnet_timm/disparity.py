"""Disparity and depth: how one follows from the other, and which depths count."""
import torch

__all__ = ['check_depth_range', 'disparity_to_depth', 'valid_depth']


def disparity_to_depth(disparity: torch.Tensor, min_depth: float = 0.1, max_depth: float = 100.) -> torch.Tensor:
    """Depth of a disparity, which runs linearly in 1 / depth: 0 is `max_depth` away and 1 is `min_depth` away.

    `1 / depth = 1 / max_depth + disparity * (1 / min_depth - 1 / max_depth)`

    Args:
        disparity: Any shape, from 0 to 1.
        min_depth: Above 0, in the unit of the result, normally metres.
        max_depth: Above `min_depth`.

    Returns:
        Depth of the same shape, from `min_depth` to `max_depth`.

    Raises:
        ValueError: The two depths are out of range.
    """
    check_depth_range(min_depth, max_depth)
    return 1 / (1 / max_depth + disparity * (1 / min_depth - 1 / max_depth))


def check_depth_range(min_depth: float, max_depth: float) -> None:
    """Raise ValueError unless 0 < min_depth < max_depth."""
    if not 0 < min_depth < max_depth:
        raise ValueError(
            f'Depth must be 0 < min_depth < max_depth, got {min_depth} and {max_depth}: pass the nearest and the '
            'farthest depth that can occur.')


def valid_depth(depth: torch.Tensor, min_depth: float = 0.1, max_depth: float = 100.) -> torch.Tensor:
    """Where there is a depth in the range: bool of the same shape, False for 0, NaN and infinity too."""
    return (depth >= min_depth) & (depth <= max_depth)
