"""Tests of the joint transforms: image and mask stay together, no label is invented, all channel counts work."""
import pytest
import torch
from torchvision import tv_tensors

from rexnet_timm.data import create_segmentation_transform
from rexnet_timm.data.color import RgbJitter
from rexnet_timm.data.transforms import ColorJitter, RandomScaleCrop, Resize

PLAIN = {'mean': (0.0, 0.0, 0.0), 'std': (1.0, 1.0, 1.0)}


def blocks(
        height: int = 60,
        width: int = 80,
        cell: int = 10,
        in_chans: int = 3,
) -> tuple[tv_tensors.Image, tv_tensors.Mask]:
    """A mask of cells numbered 0, 1, 2, ... and an image that shows 2 * label in every channel."""
    rows, columns = torch.arange(height) // cell, torch.arange(width) // cell
    mask = rows[:, None] * (columns.max() + 1) + columns
    return tv_tensors.Image((mask * 2).to(torch.uint8).expand(in_chans, height, width).clone()), tv_tensors.Mask(mask)


def aligned_share(image: torch.Tensor, mask: torch.Tensor, ignore_label: int = 255) -> float:
    """Share of the labelled pixels whose image value is that of their label."""
    valid = mask != ignore_label
    shown = image[0] * 255 / 2
    return ((shown - mask).abs() < 0.6)[valid].float().mean().item()


@pytest.mark.parametrize('interpolation', ['nearest', 'bilinear', 'bicubic'])
def test_training_keeps_image_and_mask_aligned(interpolation):
    """Colour jitter off, the image says which label each pixel must have; only blended edges may differ."""
    torch.manual_seed(0)
    transform = create_segmentation_transform(
        True, (48, 56), **PLAIN, vflip=0.5, color_jitter=0, interpolation=interpolation)
    shares = []
    for _ in range(40):
        image, mask = transform(*blocks())
        assert image.shape == (3, 48, 56) and image.dtype == torch.float32 and type(image) is torch.Tensor
        assert mask.shape == (48, 56) and mask.dtype == torch.int64 and type(mask) is torch.Tensor
        shares.append(aligned_share(image, mask))
        assert set(mask.unique().tolist()) <= {*range(48), 255}
    assert min(shares) > (0.93 if interpolation == 'nearest' else 0.6)
    assert sum(shares) / len(shares) > (0.98 if interpolation == 'nearest' else 0.8)


@pytest.mark.parametrize('interpolation', ['nearest', 'bilinear', 'bicubic'])
@pytest.mark.parametrize('size', [(45, 60), (37, 101), (73, 97), (211, 333)])
def test_resized_masks_are_centred_on_the_image(size, interpolation):
    """The edge of the mask lies where the edge in the image lies, not shifted towards a corner."""
    y, x = torch.meshgrid(torch.arange(120), torch.arange(160), indexing='ij')
    mask = (2 * x + 3 * y > 311).long()
    image, mask = Resize(size, interpolation)(
        tv_tensors.Image((mask * 255).to(torch.uint8)[None]), tv_tensors.Mask(mask))
    rows_with_edge = mask.diff(dim=1).abs().sum()
    shift = (image[0].float() / 255 - mask).sum() / rows_with_edge  # in pixels of the result, to the right
    assert abs(shift.item()) < 0.1


def test_flips_mirror_both():
    image, mask = blocks()
    flipped_image, flipped_mask = create_segmentation_transform(
        True, (60, 80), **PLAIN, scale=(1, 1), hflip=1, vflip=1, color_jitter=0)(image, mask)
    assert torch.equal(flipped_mask, mask.as_subclass(torch.Tensor).flip(0, 1))
    assert torch.equal((flipped_image * 255).round().byte(), image.as_subclass(torch.Tensor).flip(1, 2))


def test_padding_has_mean_colour_and_ignore_label():
    torch.manual_seed(0)
    transform = create_segmentation_transform(
        True, (100, 100), mean=(0.2, 0.4, 0.6), ignore_label=77, scale=(1, 1), color_jitter=0)
    image, mask = transform(*blocks(60, 80))
    padding = mask == 77
    assert padding.sum() == 100 * 100 - 60 * 80  # the image is whole
    assert image[:, padding].abs().max() < 0.01  # the mean is 0 after normalisation, except for its rounding to uint8
    rows, columns = (~padding).nonzero().T
    assert (rows.max() - rows.min() + 1, columns.max() - columns.min() + 1) == (60, 80)


def test_scale_is_relative_to_the_image_and_covers_its_range():
    """The side of a cell in the result tells the factor."""
    torch.manual_seed(0)
    crop = RandomScaleCrop((64, 64), (0.5, 2.0), [0, 0, 0], 255, 'nearest')
    factors = []
    for _ in range(200):
        _, mask = crop(*blocks(200, 200, cell=16))
        counts = torch.bincount(mask.flatten())[:200]
        factors.append((counts.max().item() ** 0.5) / 16)  # a cell that lies wholly in the crop
    assert 0.45 < min(factors) < 0.6 and 1.75 < max(factors) < 2.15
    assert 80 < sum(factor < 1 for factor in factors) < 120  # smaller as often as larger


def test_crops_do_not_collapse():
    """Crops come from everywhere: each part of the picture is seen, its corners included."""
    torch.manual_seed(0)
    transform = create_segmentation_transform(True, 32, scale=(0.8, 1.25))
    seen = torch.zeros(256, dtype=torch.long)
    for _ in range(150):
        seen += torch.bincount(transform(*blocks())[1].flatten(), minlength=256)
    assert (seen[:48] > 0).all()
    assert seen[255] == 0  # images that are large enough are not padded


def test_random_state_is_torchs():
    transform = create_segmentation_transform(True, 48)
    results = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        results.append(transform(*blocks()))
    assert torch.equal(results[0][0], results[1][0]) and torch.equal(results[0][1], results[1][1])
    assert not torch.equal(results[0][0], results[2][0])


@pytest.mark.parametrize('in_chans', range(1, 8))
@pytest.mark.parametrize('interpolation', ['bilinear', 'bicubic'])
@pytest.mark.parametrize('is_training', [True, False])
def test_channels(in_chans, is_training, interpolation):
    """Each channel is moved, resized, padded and normalised as the only channel of a grey image would be."""
    pixels, labels = blocks(in_chans=in_chans)
    pixels = tv_tensors.wrap((pixels // (1 + torch.arange(in_chans)[:, None, None])).to(torch.uint8), like=pixels)
    mean, std = torch.linspace(0.1, 0.9, in_chans).tolist(), torch.linspace(0.2, 0.4, in_chans).tolist()

    def transformed(image, mean, std):
        torch.manual_seed(3)
        return create_segmentation_transform(
            is_training, 100, mean=mean, std=std, scale=(0.7, 0.8), vflip=0.5, color_jitter=0,
            interpolation=interpolation, in_chans=len(image))(image, labels)

    image, mask = transformed(pixels, mean, std)
    assert image.shape == (in_chans, 100, 100)
    for channel in range(in_chans):
        alone = tv_tensors.wrap(pixels[channel:channel + 1], like=pixels)
        grey, same = transformed(alone, mean[channel:channel + 1], std[channel:channel + 1])
        assert torch.equal(mask, same)
        torch.testing.assert_close(image[channel], grey[0], atol=1.01 / 255 / 0.2, rtol=0)  # rounded in another path


@pytest.mark.parametrize('in_chans', range(1, 8))
def test_color_jitter_changes_colours_and_nothing_else(in_chans):
    """The first three channels are RGB and jittered as a picture; further ones stay; fewer than three are grey."""
    torch.manual_seed(0)
    image, mask = blocks(in_chans=in_chans)
    image = tv_tensors.wrap(torch.randint(30, 220, image.shape, dtype=torch.uint8), like=image)
    results = [ColorJitter(0.4)(image, mask) for _ in range(5)]
    for jittered, same in results:
        assert isinstance(jittered, tv_tensors.Image) and jittered.shape == image.shape
        assert jittered.dtype == torch.uint8 and same is mask
        for channel in range(in_chans):
            assert torch.equal(jittered[channel], image[channel]) == (channel > 2)
    assert not torch.equal(results[0][0], results[1][0])
    if in_chans >= 3:
        torch.manual_seed(1)
        expected = RgbJitter(0.4, 0.04)(image[:3].as_subclass(torch.Tensor))
        torch.manual_seed(1)
        assert torch.equal(ColorJitter(0.4)(image, mask)[0][:3], expected)


@pytest.mark.parametrize('size', [(45, 60), (37, 101), (73, 97), (211, 333)])
def test_masks_are_resized_by_the_pixel_below_each_centre(size):
    mask = torch.arange(120 * 160).view(120, 160)
    _, result = Resize(size)(tv_tensors.Image(torch.zeros(3, 120, 160, dtype=torch.uint8)), tv_tensors.Mask(mask))
    rows, columns = (
        [(2 * i + 1) * length // (2 * number) for i in range(number)]  # floor((i + 0.5) * length / number)
        for number, length in zip(size, (120, 160), strict=True))
    share = (result.as_subclass(torch.Tensor) == mask[rows][:, columns]).float().mean()
    assert share > 0.98  # a centre on the edge between two pixels belongs to either


def test_evaluation_keeps_the_native_size():
    image, mask = blocks(37, 53)
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.25, 0.2)
    result, labels = create_segmentation_transform(False, mean=mean, std=std)(image, mask)
    expected = (image.as_subclass(torch.Tensor) / 255 - torch.tensor(mean)[:, None, None]) \
        / torch.tensor(std)[:, None, None]
    torch.testing.assert_close(result, expected)
    assert torch.equal(labels, mask.as_subclass(torch.Tensor))
    assert type(result) is torch.Tensor and type(labels) is torch.Tensor


def test_evaluation_resizes_without_new_labels():
    image, mask = create_segmentation_transform(False, (64, 48), **PLAIN)(*blocks(60, 80))
    assert image.shape == (3, 64, 48) and mask.shape == (64, 48)
    assert mask.unique().tolist() == list(range(48))
    assert aligned_share(image, mask) > 0.7


def test_statistics_of_other_channel_counts_are_averaged():
    image, mask = blocks(in_chans=1)
    result, _ = create_segmentation_transform(False, mean=(0.1, 0.2, 0.6), std=(0.5, 0.5, 0.5), in_chans=1)(image, mask)
    torch.testing.assert_close(result, (image.as_subclass(torch.Tensor) / 255 - 0.3) / 0.5)


def test_labels_of_any_size_survive():
    """Resizing goes through floating point; labels beyond a byte must come out as they went in."""
    mask = tv_tensors.Mask(torch.tensor([[0, 60001], [65535, 254]]))
    _, result = Resize((4, 4))(tv_tensors.Image(torch.zeros(3, 2, 2, dtype=torch.uint8)), mask)
    assert torch.equal(result.as_subclass(torch.Tensor), mask.repeat_interleave(2, 0).repeat_interleave(2, 1))


@pytest.mark.parametrize('arguments, text', [
    ({'is_training': True}, r'Training takes images of one size so that they form a batch: pass img_size'),
    ({'is_training': False, 'img_size': 0}, r'img_size must be one or two .* positive numbers, got \(0, 0\)'),
    ({'is_training': False, 'interpolation': 'area'}, "must be one of nearest, bilinear, bicubic, got 'area'"),
    ({'is_training': True, 'img_size': 32, 'scale': (2.0, 0.5)}, r'0 < lowest <= highest, got \(2.0, 0.5\)'),
    ({'is_training': True, 'img_size': 32, 'hflip': 1.5}, 'hflip must be from 0 to 1, got 1.5'),
    ({'is_training': True, 'img_size': 32, 'color_jitter': -0.1}, 'color_jitter must be from 0 to 1, got -0.1'),
    ({'is_training': False, 'mean': ()}, 'mean must have a value for each channel, got none'),
])
def test_bad_arguments(arguments, text):
    with pytest.raises(ValueError, match=text):
        create_segmentation_transform(**arguments)


def test_channels_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match='it has 1, they have 3; create data set and transform with the same in_chans'):
        create_segmentation_transform(False)(*blocks(in_chans=1))
