"""Enlarging by a transposed convolution against interpolation."""
import pytest
import torch
from networks import image

from rexnet_timm.grid import enlarge, enlarging_by_convolution


@pytest.mark.parametrize('scale', [1, 2, 3])
def test_a_transposed_convolution_gives_what_interpolation_gives(scale):
    x, size = image(2, 3, 5, 7), (5 * 2 ** scale - 1, 7 * 2 ** scale)
    expected = enlarge(x, scale, size)
    with enlarging_by_convolution():
        found = enlarge(x, scale, size)
        nearest = enlarge(x, scale, size, 'nearest')
    torch.testing.assert_close(found, expected)
    assert found.shape == (2, 3, *size) and not torch.equal(found, expected), 'it is computed another way'
    assert torch.equal(nearest, enlarge(x, scale, size, 'nearest'))
    assert torch.equal(enlarge(x, scale, size), expected), 'only inside the block'
