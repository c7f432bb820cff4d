"""Colours in one pass, beside torchvision's passes one after the other."""
import itertools

import pytest
import torch
from torchvision.transforms.v2 import functional as F

from rexnet_timm.data.color import RgbJitter, color_matrix

STEPS = (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation)


def middle(size: tuple[int, int] = (24, 32)) -> torch.Tensor:
    """Values that no change below brings out of 0 to 1, where each pass would be cut off."""
    torch.manual_seed(0)
    return torch.rand(3, *size, dtype=torch.float64) * 0.3 + 0.35


def changed(image: torch.Tensor, order: list[int], *values: float) -> torch.Tensor:
    matrix, shift = color_matrix(order, *values, image.flatten(1).double().mean(1))
    return (matrix @ image.flatten(1).double() + shift[:, None]).view(image.shape)


@pytest.mark.parametrize('order', list(itertools.permutations(range(3))))
def test_one_pass_is_three_of_torchvision(order):
    image, factors = middle(), (1.15, 0.7, 1.3)
    expected = image
    for step in order:
        expected = STEPS[step](expected, factors[step])
    assert 0 < expected.min() and expected.max() < 1
    ours = changed(image, [*order, 3], *factors, 0.)
    # torchvision's luma has the factors 0.2989, 0.587 and 0.114
    torch.testing.assert_close(ours, expected, atol=2e-4, rtol=0)


def test_hue_turns_colours_and_keeps_luma_and_grey():
    image = middle()
    luma = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)
    turned = changed(image, [3], 1., 1., 1., 0.04)
    torch.testing.assert_close(torch.einsum('c,chw->hw', luma, turned), torch.einsum('c,chw->hw', luma, image))
    assert not torch.allclose(turned, image, atol=0.01)
    grey = image[:1].expand(3, -1, -1)
    torch.testing.assert_close(changed(grey, [3], 1., 1., 1., 0.3), grey, atol=1e-3, rtol=0)
    torch.testing.assert_close(changed(turned, [3], 1., 1., 1., -0.04), image)
    # in the direction of HSV, which keeps another brightness, and about as far
    step, other = turned - image, F.adjust_hue(image, 0.04) - image
    assert torch.nn.functional.cosine_similarity(step.flatten(), other.flatten(), dim=0) > 0.6
    assert 0.5 < step.norm() / other.norm() < 2


def test_pixels_are_rounded_and_cut_off_once():
    torch.manual_seed(0)
    image, jitter = torch.randint(0, 256, (3, 40, 50), dtype=torch.uint8), RgbJitter(0.4, 0.04)
    for seed in range(20):
        torch.manual_seed(seed)
        ours = jitter(image)
        torch.manual_seed(seed)
        order = torch.randperm(4).tolist()
        factors = torch.empty(3, dtype=torch.float64).uniform_(0.6, 1.4).tolist()
        turn = torch.empty((), dtype=torch.float64).uniform_(-0.04, 0.04).item()
        expected = changed(image, order, *factors, turn).clamp(0, 255)
        assert ours.dtype == torch.uint8 and (ours - expected).abs().max() < 0.502
    assert torch.equal(RgbJitter(0., 0.)(image), image)
    strided = image.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    torch.manual_seed(3)
    once = jitter(strided)
    torch.manual_seed(3)
    assert torch.equal(once, jitter(image))
