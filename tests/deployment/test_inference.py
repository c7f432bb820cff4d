"""Padding, tiles, mirrored and zoomed copies, on networks whose results are known."""
import threading

import pytest
import torch
import torch.nn.functional as F
from networks import image
from torch import nn

from rexnet_timm.data.description import DataDescription
from rexnet_timm.deployment.inference import (
    AHEAD,
    _weights,
    count_windows,
    infer,
    infer_pieces,
    normalize,
    windows,
)


class Local(nn.Module):
    """Three convolutions, and two more at half the size: sees 13 pixels each way; counts what it is given."""

    def __init__(self, classes: int = 4):
        super().__init__()
        torch.manual_seed(0)
        self.fine = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, classes, 3, padding=1))
        self.coarse = nn.Sequential(
            nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(6, classes, 3, padding=1),
            nn.Upsample(scale_factor=2))
        self.sizes = []

    def forward(self, x):
        self.sizes.append(tuple(x.shape[-2:]))
        return self.fine(x) + self.coarse(x)


def test_the_whole_image_is_the_softmax_of_the_logits():
    network, x = Local(), image(2, 3, 40, 64)
    torch.testing.assert_close(infer(network, x), network(x).softmax(1))


def test_one_channel_is_background_and_foreground():
    network, x = Local(1), image(2, 3, 40, 64)
    foreground = network(x).sigmoid()
    torch.testing.assert_close(infer(network, x), torch.cat([1 - foreground, foreground], 1))


@pytest.mark.parametrize('size', [(96, 160), (97, 131), (64, 300), (200, 40)])
def test_tiles_give_what_the_whole_image_gives(size):
    network, x = Local(), image(1, 3, *size)
    x = x[..., :size[0] // 2 * 2, :size[1] // 2 * 2]  # the network's own need
    tiled = infer(network, x, tile=64, overlap=0.5)
    torch.testing.assert_close(tiled, infer(network, x), rtol=0, atol=2e-6)
    torch.testing.assert_close(tiled.sum(1), torch.ones_like(tiled[:, 0]))


def test_tiles_without_overlap_differ_at_the_seams():
    network, x = Local(), image(1, 3, 128, 128)
    difference = (infer(network, x, tile=64, overlap=0) - infer(network, x)).abs().amax(1)[0]
    assert difference[60:68].max() > 1e-3
    assert difference[16:48, 16:48].max() < 2e-6


@pytest.mark.parametrize('tile', [1, 7, 32, 96, 512])
@pytest.mark.parametrize('overlap', [0, 0.1, 0.25, 0.5, 0.75])
def test_windows_cover_the_side_as_often_as_the_overlap_asks(tile, overlap):
    stride = max(1, tile - round(tile * overlap))
    for length in (1, tile, tile + 1, 2 * tile, 3 * tile + 5, 1000, 1537):
        spans = windows(length, tile, overlap)
        number = 1 if length <= tile else -(-(length - tile) // stride) + 1
        assert len(spans) == number
        counts = torch.zeros(length, dtype=torch.long)
        for begin, end in spans:
            assert 0 <= begin < end <= length and end - begin <= tile
            counts[begin:end] += 1
        assert counts.min() == 1 or overlap > 0.5
        assert 1 <= counts.max() <= -(-tile // stride)
        assert counts.sum() <= length + (number - 1) * (tile - stride)


def test_windows_begin_on_the_grid_of_the_network():
    spans = windows(3001, 512, 0.25)
    assert all(begin % 32 == 0 for begin, _ in spans) and all(end % 32 == 0 for _, end in spans[:-1])
    assert windows(900, 512, 0.25) == [(0, 384), (288, 640), (544, 900)]


def test_windows_of_one_size_only():
    assert windows(900, 512, 0.25, fixed=True) == [(0, 512), (384, 896), (388, 900)]
    network, x = Local(), image(1, 3, 100, 150)
    whole = infer(network, x)
    network.size = (64, 64)
    network.sizes.clear()
    torch.testing.assert_close(infer(network, x, tile=64, overlap=0.5), whole, rtol=0, atol=2e-6)
    assert set(network.sizes) == {(64, 64)}


def test_tiles_are_run_once_each():
    network = Local()
    infer(network, image(1, 3, 200, 100), tile=(64, 100), overlap=0.25)
    assert len(network.sizes) == 4  # 1 + ceil((200 - 64) / 48)
    assert sum(height * width for height, width in network.sizes) <= (200 + 3 * 16) * 100


class Ramp(nn.Module):
    """Sees where a window begins and ends, so that every window says something else of the pixels that it shares."""

    def forward(self, x):
        ramp = torch.linspace(0, 1, x.shape[-1]) + torch.linspace(0, 2, x.shape[-2])[:, None]
        return torch.stack([x[:, 0] * ramp, x[:, 1]], 1)


@pytest.mark.parametrize('overlap', [0, 0.25, 0.5, 0.8])
@pytest.mark.parametrize('fixed', [False, True])
def test_pieces_are_given_out_as_soon_as_they_are_final(overlap, fixed):
    network, x = Ramp(), image(1, 3, 300, 190)
    if fixed:
        network.size = (64, 64)
    whole = infer(network, x, tile=64, overlap=overlap)
    pieces = list(infer_pieces(network, x, tile=64, overlap=overlap))
    assert len(pieces) == count_windows((300, 190), network, 64, overlap)
    covered = torch.zeros(300, 190, dtype=torch.long)
    for piece in pieces:
        rows, columns = piece.maps.shape[-2:]
        place = (..., slice(piece.top, piece.top + rows), slice(piece.left, piece.left + columns))
        covered[place] += 1
        assert rows <= 64 and columns <= 64
        assert torch.equal(piece.maps, whole[place])
        assert torch.equal(piece.window[..., :rows, :columns], x[place])
    assert (covered == 1).all()


@pytest.mark.parametrize('overlap', [0, 0.3, 0.6, 0.8])
def test_blending_is_the_weighted_sum_over_all_windows(overlap):
    """Against the plain sum over the whole image."""
    network, x = Ramp(), image(2, 3, 300, 190)
    rows, columns = (windows(side, 96, overlap) for side in (300, 190))
    expected = torch.zeros(2, 2, 300, 190, dtype=torch.float64)
    for (top, bottom), down in zip(rows, _weights(rows), strict=True):
        for (left, right), across in zip(columns, _weights(columns), strict=True):
            part = network(x[..., top:bottom, left:right]).softmax(1)
            expected[..., top:bottom, left:right] += part * down[:, None] * across
    torch.testing.assert_close(infer(network, x, tile=96, overlap=overlap), expected.float(), rtol=0, atol=1e-6)


class Recorded:
    """A source that says when the reading of each window begins; it may fail at one of them."""
    size = (64, 320)

    def __init__(self, fails_at: int | None = None):
        self.begun = [threading.Event() for _ in range(10)]
        self.fails_at = fails_at
        self.threads = set()

    def read(self, rows, columns):
        number = next(index for index, event in enumerate(self.begun) if not event.is_set())
        self.threads.add(threading.current_thread())
        self.begun[number].set()
        if number == self.fails_at:
            raise ValueError('damaged')
        return torch.zeros(1, 3, rows[1] - rows[0], columns[1] - columns[0])


def test_the_next_windows_are_read_while_the_network_runs():
    source, number = Recorded(), count_windows(Recorded.size, None, (64, 32), 0)
    assert number == 10
    run = []

    def network(x):
        """Ends with a window only when the reading of the next one has begun."""
        if len(run) + 1 < number:
            assert source.begun[len(run) + 1].wait(timeout=60)
        assert not any(event.is_set() for event in source.begun[len(run) + 1 + AHEAD:])  # the queue is bounded
        run.append(x.shape)
        return x

    pieces = list(infer_pieces(network, source, tile=(64, 32), overlap=0))
    assert len(pieces) == len(run) == number
    assert len(source.threads) == 1 and threading.current_thread() not in source.threads
    assert not next(iter(source.threads)).is_alive()


def test_an_error_of_reading_comes_in_its_place_and_ends_the_thread():
    source, run = Recorded(fails_at=3), []
    pieces = infer_pieces(lambda x: run.append(x) or x, source, tile=(64, 32), overlap=0)
    with pytest.raises(ValueError, match='damaged'):
        list(pieces)
    assert len(run) == 3 and not any(thread.is_alive() for thread in source.threads)


def test_whoever_stops_early_ends_the_thread():
    source = Recorded()
    pieces = infer_pieces(lambda x: x, source, tile=(64, 32), overlap=0)
    next(pieces)
    pieces.close()
    assert not any(thread.is_alive() for thread in source.threads)
    assert not source.begun[-1].is_set()


class Symmetric(nn.Module):
    """Does the same to a mirrored image: averages around each pixel, and mixes channels."""

    def forward(self, x):
        x = F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
        return torch.stack([x[:, 0] - x[:, 1], x[:, 1] * x[:, 2], x[:, 2]], dim=1)


def test_flips_change_nothing_where_the_network_is_symmetric():
    network, x = Symmetric(), image(1, 3, 40, 56)
    torch.testing.assert_close(infer(network, x, flips=('h', 'v', 'hv')), infer(network, x))


@pytest.mark.parametrize('flips, dims', [(('h',), [(3,)]), (('v',), [(2,)]), (('h', 'hv'), [(3,), (2, 3)])])
def test_flips_are_the_mean_over_mirrored_copies(flips, dims):
    network, x = Local(), image(1, 3, 40, 56)
    copies = [network(x).softmax(1), *(network(x.flip(dim)).softmax(1).flip(dim) for dim in dims)]
    torch.testing.assert_close(infer(network, x, flips=flips), torch.stack(copies).mean(0))


def test_zooms_are_the_mean_over_sizes():
    network, x = Local(), image(1, 3, 40, 56)
    larger = F.interpolate(x, (80, 112), mode='bilinear', align_corners=False)
    larger = F.interpolate(network(larger).softmax(1), (40, 56), mode='bilinear', antialias=True)
    expected = (network(x).softmax(1) + larger) / 2
    torch.testing.assert_close(infer(network, x, zooms=(1., 2.)), expected)


def test_a_batch_is_its_images():
    network, x = Local(), image(3, 3, 96, 96)
    views = dict(tile=64, flips=('h',), zooms=(1., 1.5))
    together = infer(network, x, **views)
    torch.testing.assert_close(together, torch.cat([infer(network, one[None], **views) for one in x]))


@pytest.mark.parametrize('size', [(1, 1), (31, 33), (50, 70)])
def test_images_are_padded_to_what_the_network_takes(size):
    network = Local()
    network.requires_divisible_input_shape = True
    network.encoder = nn.Module()
    network.encoder.output_stride = 16
    probabilities = infer(network, image(1, 3, *size))
    assert probabilities.shape == (1, 4, *size)
    assert network.sizes == [tuple(max(32, -(-side // 16) * 16) for side in size)]


def test_uint8_is_padded_with_the_mean_colour():
    seen = []

    class Takes(nn.Module):
        description = DataDescription(mean=(0.2, 0.4, 0.6))

        def forward(self, x):
            seen.append(x)
            return x.float()

    infer(Takes(), torch.full((1, 3, 2, 2), 7, dtype=torch.uint8))
    assert seen[0].dtype == torch.uint8
    assert seen[0][0, :, 0, 0].tolist() == [7, 7, 7] and seen[0][0, :, 31, 31].tolist() == [51, 102, 153]


def test_normalize_by_hand():
    pixels = torch.tensor([0, 51, 255], dtype=torch.uint8)[:, None, None]
    description = DataDescription(mean=(0.5, 0.1, 0.), std=(0.5, 0.2, 2.), value_range=(-1., 1.))
    values = normalize(pixels, description).flatten()
    torch.testing.assert_close(values, torch.tensor([(-1 - 0.5) / 0.5, (-0.6 - 0.1) / 0.2, 1 / 2.]))


@pytest.mark.parametrize('arguments, text', [
    (dict(tile=0), 'tile must be'), (dict(tile=(4, 4, 4)), 'tile must be'), (dict(overlap=1), 'overlap must be'),
    (dict(flips='hv'), 'flips must be'), (dict(flips=('x',)), 'flips must be'), (dict(zooms=()), 'zooms must be'),
    (dict(zooms=(0,)), 'zooms must be')])
def test_arguments_out_of_range(arguments, text):
    with pytest.raises(ValueError, match=text):
        infer(Local(), image(1, 3, 32, 32), **arguments)


def test_a_network_of_another_kind_is_refused():
    with pytest.raises(ValueError, match=r'logits \(N, C, 32, 32\)'):
        infer(lambda x: [x, x], image(1, 3, 32, 32))
    with pytest.raises(ValueError, match=r'got \(1, 3, 16, 32\)'):
        infer(lambda x: x[..., ::2, :], image(1, 3, 32, 32))
