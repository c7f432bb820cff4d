"""Tests of the joint transforms: image and mask stay together, no label is invented, all channel counts work."""
import pytest
import torch
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

from rexnet_timm.data import create_segmentation_transform
from rexnet_timm.data.color import RgbJitter
from rexnet_timm.data.crops import Elastic, RandomScaleCrop
from rexnet_timm.data.resizing import Resize
from rexnet_timm.data.transforms import ColorJitter

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
    """The first three channels are RGB and jittered as a picture; others get brightness and contrast in common."""
    torch.manual_seed(0)
    image, mask = blocks(in_chans=in_chans)
    image = tv_tensors.wrap(torch.randint(30, 220, image.shape, dtype=torch.uint8), like=image)
    results = [ColorJitter(0.4)(image, mask) for _ in range(5)]
    for jittered, same in results:
        assert isinstance(jittered, tv_tensors.Image) and jittered.shape == image.shape
        assert jittered.dtype == torch.uint8 and same is mask
        for channel in range(in_chans):
            assert not torch.equal(jittered[channel], image[channel])
    assert not torch.equal(results[0][0], results[1][0])
    if in_chans >= 3:
        torch.manual_seed(1)
        expected = RgbJitter(0.4, 0.04)(image[:3].as_subclass(torch.Tensor))
        torch.manual_seed(1)
        assert torch.equal(ColorJitter(0.4)(image, mask)[0][:3], expected)


@pytest.mark.parametrize('dtype', [torch.uint8, torch.float32])
@pytest.mark.parametrize('in_chans', [1, 2, 3, 6])
def test_other_bands_get_brightness_and_contrast_in_common(dtype, in_chans):
    """value -> brightness * (contrast * (value - mean) + mean), by the same two factors in each channel."""
    torch.manual_seed(0)
    image = tv_tensors.Image(torch.randint(60, 120, (in_chans, 40, 50), dtype=torch.uint8))
    if dtype == torch.float32:
        image = tv_tensors.wrap(image.as_subclass(torch.Tensor) / 40, like=image)  # 1.5 to 3, which stays beyond 1
    factors = set()
    for _ in range(10):
        result, _ = ColorJitter(0.3, has_colors=False)(image, None)
        assert isinstance(result, tv_tensors.Image) and result.dtype == dtype
        before, after = (x.as_subclass(torch.Tensor).flatten(1).double() for x in (image, result))
        brightness = after.mean(1) / before.mean(1)
        slope = ((after - after.mean(1, keepdim=True)) * (before - before.mean(1, keepdim=True))).sum(1) \
            / (before - before.mean(1, keepdim=True)).square().sum(1)
        assert brightness.max() - brightness.min() < 0.01 and slope.max() - slope.min() < 0.01
        assert 0.69 < brightness.mean() < 1.31 and 0.69 < (slope / brightness).mean() < 1.31
        factors.add(round(brightness.mean().item(), 3))
    assert len(factors) > 5
    # of float images there are no colours, whatever is said of them
    if dtype == torch.float32:
        torch.manual_seed(5)
        first, _ = ColorJitter(0.3)(image, None)
        torch.manual_seed(5)
        assert torch.equal(first, ColorJitter(0.3, has_colors=False)(image, None)[0])


@pytest.mark.parametrize('in_chans', [1, 3, 6])
def test_floats_become_what_uint8_becomes(in_chans):
    """The same random numbers, and values that differ by the rounding of uint8 only."""
    image, mask = blocks(in_chans=in_chans)
    floats = tv_tensors.wrap(image.as_subclass(torch.Tensor) / 255, like=image)
    transform = create_segmentation_transform(
        True, (70, 90), mean=(0.3,), std=(0.2,), scale=(0.6, 1.2), vflip=0.5, color_jitter=0, in_chans=in_chans,
        rotation=20, elastic=2, balanced_share=0.5)
    for seed in range(8):
        results = []
        for picture in (image, floats):
            torch.manual_seed(seed)
            results.append(transform(picture, mask))
        assert torch.equal(results[0][1], results[1][1])
        assert (results[0][0] - results[1][0]).abs().max() <= 2.01 / 255 / 0.2
    evaluation = create_segmentation_transform(False, mean=(0.3,), std=(0.2,), in_chans=in_chans)
    torch.testing.assert_close(evaluation(image, mask), evaluation(floats, mask))


@pytest.mark.parametrize('option', [{'rotation': 180}, {'elastic': 4}, {'rotation': 30, 'elastic': 3, 'vflip': 0.5}])
@pytest.mark.parametrize('interpolation', ['nearest', 'bilinear', 'bicubic'])
def test_turned_and_bent_pairs_stay_aligned(option, interpolation):
    torch.manual_seed(0)
    transform = create_segmentation_transform(
        True, (48, 56), **PLAIN, scale=(1, 1), color_jitter=0, interpolation=interpolation, **option)
    shares, filled = [], []
    for _ in range(20):
        image, mask = transform(*blocks(200, 200, cell=25))
        assert image.shape == (3, 48, 56) and mask.shape == (48, 56) and mask.dtype == torch.int64
        assert set(mask.unique().tolist()) <= {*range(64), 255}
        shares.append(aligned_share(image, mask))
        filled.append((mask == 255).float().mean().item())
    assert min(shares) > (0.97 if interpolation == 'nearest' else 0.8)
    assert max(filled) < 0.15 and sum(filled) / len(filled) < 0.02  # only what lies outside of the image


def test_a_turned_crop_is_the_image_turned():
    """By a quarter, for which torch has a function of its own; outside there is the ignored label."""
    image, mask = blocks(80, 80)
    crop = RandomScaleCrop((80, 80), (1, 1), [0, 0, 0], 255, 'nearest', rotation=90)
    crop.rotation = 0
    same, _ = crop(image, mask)
    assert torch.equal(same, image)
    turned_image, turned_mask = F.rotate(image, 90), F.rotate(mask, 90)
    assert torch.equal(turned_mask, torch.rot90(mask.as_subclass(torch.Tensor), 1, (0, 1)))
    assert torch.equal(turned_image[0], (turned_mask * 2).to(torch.uint8))
    torch.manual_seed(0)
    _, mask = RandomScaleCrop((80, 80), (1, 1), [0, 0, 0], 255, 'nearest', rotation=45)(image, mask)
    assert 0.005 < (mask == 255).float().mean() < 0.2 and mask[40, 40] != 255


def test_displacement_is_smooth_and_in_pixels():
    """Measured on an image whose values are its columns, or its rows."""
    torch.manual_seed(0)
    rows, columns = torch.meshgrid(torch.arange(256.), torch.arange(256.), indexing='ij')
    image, mask = tv_tensors.Image(torch.stack([rows, columns])), tv_tensors.Mask(torch.zeros(256, 256).long())
    shifts = []
    for _ in range(30):
        moved, same = Elastic(3., [0, 0], 255, 'bilinear')(image, mask)
        inside = (same == 0)[40:-40, 40:-40]
        assert inside.all()
        shifts.append((moved - image).as_subclass(torch.Tensor)[:, 40:-40, 40:-40])
    shifts = torch.stack(shifts)
    assert 2 < shifts[:, 0].std() < 3.3 and 2 < shifts[:, 1].std() < 3.3
    assert shifts.diff(dim=-1).abs().max() < 0.6  # a pixel moves nearly as its neighbour does


def rare(size: int = 200, at: tuple[int, int] = (150, 30), number: int = 6) -> tuple[tv_tensors.Image, tv_tensors.Mask]:
    """A picture of class 0 with ignored pixels, a few pixels of class 1, and a third of class 2."""
    mask = torch.zeros(size, size, dtype=torch.int64)
    mask[:, size * 2 // 3:] = 2
    mask[:5] = 255
    mask[at[0]:at[0] + number, at[1]:at[1] + number] = 1
    return tv_tensors.Image((mask * 2).to(torch.uint8).expand(3, size, size).clone()), tv_tensors.Mask(mask)


@pytest.mark.parametrize('options', [{}, {'scale': (0.5, 2.0)}, {'rotation': 30.}])
def test_crops_look_for_rarer_classes(options):
    def share_with_rare(balanced_share: float) -> float:
        torch.manual_seed(0)
        transform = create_segmentation_transform(
            True, 40, **PLAIN, color_jitter=0, balanced_share=balanced_share, **{'scale': (1, 1), **options})
        found = [(transform(*rare())[1] == 1).any().item() for _ in range(100)]
        return sum(found) / len(found)

    usual, half, always = (share_with_rare(share) for share in (0., 0.5, 1.))
    # one of the two rarer classes is drawn, and class 2 is 40 times as large; a turned or shrunk crop may lose it
    assert usual < 0.15 and half > usual + 0.1 and 0.38 < always < 0.7


def test_a_crop_around_a_pixel_is_anywhere_around_it():
    torch.manual_seed(0)
    places = []
    for _ in range(300):
        image, mask = rare(at=(100, 60), number=1)
        mask = tv_tensors.Mask(torch.where(mask == 2, 0, mask.as_subclass(torch.Tensor)))
        image, mask = RandomScaleCrop((32, 32), (1, 1), [0, 0, 0], 255, 'nearest', balanced_share=1.)(image, mask)
        (place,) = (mask == 1).nonzero().tolist()
        assert image[0, place[0], place[1]] == 2
        places.append(place)
    places = torch.tensor(places).float()
    assert places.min() < 2 and places.max() > 29 and (places.mean(0) - 15.5).abs().max() < 2
    # an image that is smaller than the crop is wholly in it, and one without rarer classes is cut as ever
    image, mask = RandomScaleCrop((90, 260), (1, 1), [9, 9, 9], 255, 'nearest', balanced_share=1.)(*rare(80, (50, 20)))
    assert (mask == 1).sum() == 36 and (mask != 255).sum() == 75 * 80 and (image[0][:, 0] == 9).any()
    torch.manual_seed(3)
    blank = tv_tensors.Mask(torch.full((50, 50), 255))
    assert RandomScaleCrop((32, 32), (1, 1), [0] * 3, 255, balanced_share=1.)(rare(50)[0], blank)[1].eq(255).all()


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
