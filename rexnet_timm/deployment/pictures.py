"""Pictures: predictions beside input and truth, and measurements as bars and curves."""
import os
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

__all__ = ['colorize', 'draw_bars', 'draw_curve', 'prediction_sheet']

IGNORED_COLOR = (60, 60, 60)
MARGIN = 8
TEXT_SIZE = 15


def colorize(labels: torch.Tensor, palette: np.ndarray) -> Image.Image:
    """Paint a label map.

    Args:
        labels: (H, W) integer labels; labels outside the palette are painted dark grey.
        palette: (num_classes, 3) uint8 RGB colours.

    Returns:
        RGB image of the same size.
    """
    labels = labels.cpu().numpy()
    colors = np.vstack([palette, np.array([IGNORED_COLOR], dtype=np.uint8)])
    known = (labels >= 0) & (labels < len(palette))
    return Image.fromarray(colors[np.where(known, labels, len(palette))])


def prediction_sheet(
        images: Sequence[torch.Tensor],
        targets: Sequence[torch.Tensor],
        logits: Sequence[dict[int, torch.Tensor]],
        class_names: Sequence[str],
        palette: np.ndarray,
        width: int = 192,
) -> Image.Image:
    """A row for each image: the input, the truth, and the prediction at each scale in its own resolution.

    Args:
        images: (3 or 1, H, W) uint8 images, all of one size.
        targets: (H, W) labels of each image.
        logits: {scale: (C, h, w)} of each image, as `MultiScaleUnet.forward_scales` gives them for a batch.
        class_names: Names for the legend.
        palette: (num_classes, 3) uint8 RGB colours.
        width: Width of a tile in pixels.

    Returns:
        RGB picture.
    """
    scales = sorted(logits[0])
    height = round(width * images[0].shape[-2] / images[0].shape[-1])
    titles = ['input', 'truth'] + ['prediction' if scale == 0 else f'at 1/{2 ** scale}' for scale in scales]
    columns, rows = len(titles), len(images)
    font = ImageFont.load_default(TEXT_SIZE)
    header = TEXT_SIZE + 2 * MARGIN
    sheet_width = columns * (width + MARGIN) + MARGIN
    legend = _legend_places(class_names, font, sheet_width)
    legend_height = legend[-1][1] + TEXT_SIZE + 2 * MARGIN
    sheet = Image.new('RGB', (sheet_width, header + rows * (height + MARGIN) + legend_height), 'white')
    draw = ImageDraw.Draw(sheet)

    for column, title in enumerate(titles):
        draw.text((MARGIN + column * (width + MARGIN), MARGIN), title, fill='black', font=font)
    for row, (image, target, predictions) in enumerate(zip(images, targets, logits, strict=True)):
        tiles = [Image.fromarray(image.expand(3, -1, -1).permute(1, 2, 0).cpu().numpy()), colorize(target, palette)]
        # nearest, so that each scale's own pixels can be seen
        tiles += [colorize(_labels(predictions[scale]), palette) for scale in scales]
        for column, tile in enumerate(tiles):
            resample = Image.Resampling.BILINEAR if column == 0 else Image.Resampling.NEAREST
            place = (MARGIN + column * (width + MARGIN), header + row * (height + MARGIN))
            sheet.paste(tile.resize((width, height), resample), place)
    top = header + rows * (height + MARGIN)
    for (x, y), name, color in zip(legend, class_names, palette, strict=True):
        draw.rectangle((x, top + y, x + TEXT_SIZE, top + y + TEXT_SIZE), fill=tuple(color.tolist()), outline='black')
        draw.text((x + TEXT_SIZE + MARGIN, top + y), name, fill='black', font=font)
    return sheet


def _labels(logits: torch.Tensor) -> torch.Tensor:
    return (logits[0] > 0).long() if logits.shape[0] == 1 else logits.argmax(0)


def _legend_places(names: Sequence[str], font: ImageFont.FreeTypeFont, width: int) -> list[tuple[int, int]]:
    """Left upper corner of each entry, broken into lines of at most `width`."""
    places, x, y = [], MARGIN, MARGIN
    for name in names:
        entry = TEXT_SIZE + 3 * MARGIN + round(font.getlength(name))
        if x > MARGIN and x + entry > width:
            x, y = MARGIN, y + TEXT_SIZE + MARGIN
        places.append((x, y))
        x += entry + MARGIN
    return places


def draw_bars(rows: Sequence[dict[str, float | str]], path: str | os.PathLike) -> None:
    """Bars of training and inference time, one group for each model, of one size."""
    font, width, label, line = ImageFont.load_default(14), 900, 300, 46
    picture = Image.new('RGB', (width, line * len(rows) + 70), 'white')
    draw = ImageDraw.Draw(picture)
    title = f'{rows[0]["size"]} x {rows[0]["size"]}, batch {rows[0]["batch_size"]}: ms'
    draw.text((10, 10), title, fill='black', font=font)
    longest = max(float(row[kind]) for row in rows for kind in ('training_ms', 'inference_ms') if kind in row)
    for index, row in enumerate(rows):
        top = 40 + line * index
        draw.text((10, top + 8), str(row['model']), fill='black', font=font)
        for offset, kind, color in ((0, 'training_ms', '#4296ea'), (19, 'inference_ms', '#f4bd3c')):
            if kind not in row:
                continue
            end = label + float(row[kind]) / longest * (width - label - 70)
            draw.rectangle((label, top + offset, end, top + offset + 16), fill=color)
            draw.text((end + 6, top + offset), f'{row[kind]:.0f}', fill='black', font=font)
    draw.text((label, picture.height - 24), 'blue: training step    yellow: inference', fill='black', font=font)
    picture.save(path)


def draw_curve(rows: Sequence[dict[str, float | str]], path: str | os.PathLike) -> None:
    """mIoU against milliseconds: the scales and the thresholds as two lines."""
    font, width, height, margin = ImageFont.load_default(14), 760, 460, 60
    picture = Image.new('RGB', (width, height), 'white')
    draw = ImageDraw.Draw(picture)
    times, scores = ([float(row[key]) for row in rows] for key in ('ms', 'miou'))
    low, high = (min(times), min(scores)), (max(times), max(scores))

    def place(row: dict[str, float | str]) -> tuple[float, float]:
        x, y = ((float(row[key]) - low[i]) / max(high[i] - low[i], 1e-9) for i, key in enumerate(('ms', 'miou')))
        return margin + x * (width - 3 * margin), height - margin - y * (height - 2 * margin)

    draw.rectangle((margin - 10, margin - 10, width - 2 * margin + 10, height - margin + 10), outline='#bbbbbb')
    for kind, color, shift in (('cut', '#4296ea', 6), ('confidence', '#e07b39', -20)):
        points = sorted((row for row in rows if str(row['prediction']).startswith(kind)), key=lambda row: row['ms'])
        if len(points) > 1:
            draw.line([place(row) for row in points], fill=color, width=2)
        for row in points:
            x, y = place(row)
            draw.ellipse((x - 4, y - 4, x + 4, y + 4), fill=color)
            draw.text((x + 6, y + shift), str(row['prediction']).rsplit(' ', 1)[1], fill=color, font=font)
    draw.text((margin, 12), 'mIoU against ms an image; blue: cut at a scale, orange: confidence threshold',
              fill='black', font=font)
    for (x, y), text in (
            ((margin - 10, height - margin + 16), f'{low[0]:.1f} ms'),
            ((width - 3 * margin, height - margin + 16), f'{high[0]:.1f} ms'),
            ((6, height - margin - 8), f'{low[1]:.1f}'), ((6, margin - 8), f'{high[1]:.1f}')):
        draw.text((x, y), text, fill='black', font=font)
    picture.save(path)
