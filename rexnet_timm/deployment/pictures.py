""" Pictures of predictions: input, truth and the prediction at every scale side by side, with a legend. """
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

__all__ = ['colorize', 'prediction_sheet']

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
