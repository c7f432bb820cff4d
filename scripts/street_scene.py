#!/usr/bin/env python3
"""The picture at the head of the README: validation images beside their truth and a model's prediction of them.

    python scripts/street_scene.py CAMVID --checkpoint output/train/RUN --output docs/street.png

Unless images are named, the split is cut into as many parts as images are drawn, and of each part the image is taken
whose truth shows the most classes; what the model makes of them has no say. The file stays below 400 kB.
"""
import argparse
import io
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

import rexnet_timm
from rexnet_timm.cli.mistakes import report_errors
from rexnet_timm.data import Layout, SegmentationFolder, describe_data
from rexnet_timm.deployment.pictures import paint_over, to_picture
from rexnet_timm.deployment.predict import Predictor
from rexnet_timm.files import atomic_path

TITLES = ('image', 'truth', 'prediction')
ALPHA, GAP, MARGIN, TEXT = 0.62, 8, 12, 15
MOST_BYTES = 400_000
SEEN = 0.002  # share of the pixels from which on a class is seen in an image
INK = '#1f2937'
# Those of Cityscapes where it has the class, lightened where they would hide what they are laid on
COLORS = {
    'sky': (70, 160, 220), 'building': (225, 140, 80), 'pole': (240, 240, 245), 'road': (128, 64, 148),
    'pavement': (244, 80, 222), 'tree': (90, 160, 50), 'sign symbol': (250, 215, 20), 'fence': (190, 165, 150),
    'car': (40, 70, 230), 'pedestrian': (225, 25, 60), 'bicyclist': (20, 215, 200)}


def dataset_of(folder: Path, data_format: str, split: str) -> SegmentationFolder:
    """The images and masks of a split, with the names of their classes."""
    return SegmentationFolder(describe_data(folder, Layout(data_format=data_format)), split)


def chosen(dataset: SegmentationFolder, number: int, names: Sequence[str]) -> list[int]:
    """Indices of the images that are drawn. ValueError for a name that the split does not have."""
    stems = [Path(dataset.paths(index)[0]).stem for index in range(len(dataset))]
    missing = [name for name in names if name not in stems]
    if missing:
        raise ValueError(f'The split has no image {missing[0]!r}: its images are {stems[0]!r} to {stems[-1]!r}.')
    if names:
        return [stems.index(name) for name in names]
    bounds = np.linspace(0, len(dataset), min(number, len(dataset)) + 1).astype(int)
    richness = [classes_of(dataset[index][1], dataset.num_classes) for index in range(len(dataset))]
    return [begin + int(np.argmax(richness[begin:end])) for begin, end in zip(bounds[:-1], bounds[1:], strict=True)]


def classes_of(mask: torch.Tensor, number: int) -> int:
    """How many classes a mask shows."""
    counts = torch.bincount(mask.as_subclass(torch.Tensor).flatten(), minlength=number)[:number]
    return int((counts > SEEN * mask.numel()).sum())


def overlay(picture: Image.Image, labels: np.ndarray, palette: np.ndarray) -> Image.Image:
    """The colours of the classes over a picture, with their outlines; unlabelled pixels stay as they are."""
    unlabelled = np.unique(labels[labels >= len(palette)]).tolist()
    painted = np.array(paint_over(picture, labels.astype(np.int64), palette, ALPHA, unlabelled)).astype(float)
    edges = np.zeros(labels.shape, bool)
    edges[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    edges[1:] |= labels[1:] != labels[:-1]
    painted[edges] = 0.45 * painted[edges] + 0.55 * 255
    return Image.fromarray(painted.round().astype(np.uint8))


def sheet(
        rows: Sequence[Sequence[Image.Image]],
        names: Sequence[str],
        colors: Sequence[tuple[int, int, int]],
        width: int,
) -> Image.Image:
    """Rows of `TITLES` on a white card, above the legend in the middle."""
    tile = (width - 2 * MARGIN - 2 * GAP) // 3
    heights = [round(tile * row[0].height / row[0].width) for row in rows]
    font = ImageFont.load_default(TEXT)
    lines = legend_lines(names, font, width - 2 * MARGIN)
    top = MARGIN + TEXT + 10
    total = top + sum(heights) + GAP * len(rows) + len(lines) * (TEXT + 9) + MARGIN
    result = Image.new('RGB', (width, total), 'white')
    draw = ImageDraw.Draw(result)
    left = (width - 3 * tile - 2 * GAP) // 2
    for column, title in enumerate(TITLES):
        draw.text((left + column * (tile + GAP) + (tile - font.getlength(title)) / 2, MARGIN), title, INK, font)
    for row, height in zip(rows, heights, strict=True):
        for column, picture in enumerate(row):
            shown = picture.resize((tile, height), Image.Resampling.LANCZOS)
            result.paste(shown, (left + column * (tile + GAP), top), rounded(shown.size))
        top += height + GAP
    of_name = dict(zip(names, colors, strict=True))
    for line in lines:
        x = (width - sum(entry_width(name, font) for name in line)) / 2
        for name in line:
            draw.rounded_rectangle((x, top + 4, x + TEXT, top + 4 + TEXT), 3, of_name[name], outline='#9ca3af')
            draw.text((x + TEXT + 6, top + 3), name, INK, font)
            x += entry_width(name, font)
        top += TEXT + 9
    return result


def entry_width(name: str, font: ImageFont.FreeTypeFont) -> float:
    return TEXT + 6 + font.getlength(name) + 18


def legend_lines(names: Sequence[str], font: ImageFont.FreeTypeFont, width: int) -> list[list[str]]:
    """Lines that are about equally long, as few as fit."""
    total = sum(entry_width(name, font) for name in names)
    limit, lines = total / max(1, -(-total // width)) + 40, [[]]
    for name in names:
        if lines[-1] and sum(entry_width(other, font) for other in [*lines[-1], name]) > min(limit, width):
            lines.append([])
        lines[-1].append(name)
    return lines


def rounded(size: tuple[int, int], radius: int = 6) -> Image.Image:
    """A mask of a rectangle with round corners."""
    mask = Image.new('L', (4 * size[0], 4 * size[1]), 0)
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, 4 * size[0] - 1, 4 * size[1] - 1), 4 * radius, 255)
    return mask.resize(size, Image.Resampling.BOX)


def encoded(picture: Image.Image, exact: Sequence[tuple[int, int, int]]) -> bytes:
    """A PNG file of at most `MOST_BYTES`: in all colours, or else in as many as fit, some of them exact."""
    for number in (None, 256, 128, 64):
        buffer = io.BytesIO()
        (picture if number is None else reduced(picture, number, exact)).save(buffer, 'PNG', optimize=True)
        if buffer.tell() <= MOST_BYTES:
            return buffer.getvalue()
    raise ValueError(f'The picture takes more than {MOST_BYTES} bytes: pass a smaller --width, or fewer images.')


def reduced(picture: Image.Image, number: int, exact: Sequence[tuple[int, int, int]]) -> Image.Image:
    """A picture in a number of colours; those of small parts, as a legend has them, would get lost unless told."""
    others = picture.quantize(number - len(exact), Image.Quantize.FASTOCTREE).getpalette()[:3 * (number - len(exact))]
    palette = Image.new('P', (1, 1))
    palette.putpalette([*others, *(channel for color in exact for channel in color)])
    return picture.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG)


def draw_scene(args: argparse.Namespace) -> None:
    """Draw as the arguments say. ValueError for data and a model that do not fit each other."""
    dataset = dataset_of(args.data, args.data_format, args.split)
    predictor = Predictor(rexnet_timm.load_model(args.checkpoint), keep_probabilities=False)
    names = list(dataset.class_names)
    palette = np.array([COLORS.get(name, tuple(color)) for name, color in zip(
        names, dataset.description.palette(len(names)).tolist(), strict=True)], np.uint8)
    rows, seen = [], set()
    for index in chosen(dataset, args.number, args.images or ()):
        image, mask = dataset[index]
        prediction = predictor(image.as_subclass(torch.Tensor))
        if prediction.num_classes != max(2, len(names)):
            raise ValueError(
                f'The data have {len(names)} classes, and the model {prediction.num_classes}: take a model of them.')
        labels = mask.as_subclass(torch.Tensor).numpy()
        picture = to_picture(image.as_subclass(torch.Tensor))
        rows.append([picture, overlay(picture, labels, palette), overlay(picture, prediction.mask, palette)])
        seen.update(*(np.unique(part).tolist() for part in (labels, prediction.mask)))
    listed = [index for index in range(len(names)) if index in seen]
    colors = [tuple(palette[index].tolist()) for index in listed]
    content = encoded(sheet(rows, [names[index] for index in listed], colors, args.width), colors)
    with atomic_path(args.output) as part:
        Path(part).write_bytes(content)
    print(f'{args.output}: {len(rows)} images, {len(content) / 1000:.0f} kB')


def main(argv: Sequence[str] | None = None) -> int:
    """Draw from a command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__.split('\n')[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument('data', type=Path, help='folder of the data')
    parser.add_argument('--checkpoint', required=True, help='a run, or another model of masks')
    parser.add_argument('--output', type=Path, default=Path('docs', 'street.png'), help='the picture')
    parser.add_argument('--data-format', default='camvid', help='format of the data')
    parser.add_argument('--split', default='val', help='part of the data')
    parser.add_argument('--number', type=int, default=2, help='images that are drawn')
    parser.add_argument('--images', nargs='+', metavar='NAME', help='these images instead, without the endings')
    parser.add_argument('--width', type=int, default=900, help='of the picture in pixels')
    args = parser.parse_args(argv)
    return report_errors(parser.prog, lambda: draw_scene(args))


if __name__ == '__main__':
    sys.exit(main())
