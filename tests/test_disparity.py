import math

import pytest
import torch

from rexnet_timm.disparity import disparity_to_depth, valid_depth


def test_disparity_runs_linearly_in_inverse_depth():
    disparity = torch.tensor([0., 0.5, 1.])
    expected = torch.tensor([80., 2 / (1 / 80 + 1 / 2), 2.])
    torch.testing.assert_close(disparity_to_depth(disparity, 2., 80.), expected)


def test_valid_depth():
    depth = torch.tensor([0., -1., 0.05, 0.1, 50., 100., 101., math.nan, math.inf])
    assert valid_depth(depth).tolist() == [False, False, False, True, True, True, False, False, False]


def test_a_wrong_range_is_refused():
    with pytest.raises(ValueError, match=r'0 < min_depth < max_depth, got 5 and 5: pass the nearest'):
        disparity_to_depth(torch.zeros(1), 5, 5)
