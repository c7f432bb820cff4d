"""Pictures: predictions beside input and truth, confusion of classes, and measurements as bars and curves."""
import os
from collections.abc import Collection, Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont, ImageOps

__all__ = [
    'MOST_NAMES', 'class_sheet', 'colorize', 'colorize_depth', 'confusion_picture', 'depth_error_map', 'draw_bars',
    'draw_curve', 'error_map', 'paint_over', 'prediction_sheet', 'sample_sheet', 'to_picture', 'with_legend',
    'with_scale', 'worst_sheet']

IGNORED_COLOR = (60, 60, 60)
MARGIN = 8
TEXT_SIZE = 15
MOST_NAMES = 40  # of classes in a legend that has all of them


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
    _draw_legend(draw, legend, top, class_names, palette, font)
    return sheet


def _draw_legend(
        draw: ImageDraw.ImageDraw,
        places: Sequence[tuple[int, int]],
        top: int,
        names: Sequence[str],
        palette: np.ndarray,
        font: ImageFont.FreeTypeFont,
        size: int = TEXT_SIZE,
) -> None:
    for (x, y), name, color in zip(places, names, palette, strict=True):
        draw.rectangle((x, top + y, x + size, top + y + size), fill=tuple(color.tolist()), outline='black')
        draw.text((x + size + MARGIN, top + y), name, fill='black', font=font)


def _labels(logits: torch.Tensor) -> torch.Tensor:
    return (logits[0] > 0).long() if logits.shape[0] == 1 else logits.argmax(0)


def _legend_places(
        names: Sequence[str], font: ImageFont.FreeTypeFont, width: int, size: int = TEXT_SIZE) -> list[tuple[int, int]]:
    """Left upper corner of each entry, broken into lines of at most `width`."""
    places, x, y = [], MARGIN, MARGIN
    for name in names:
        entry = size + 3 * MARGIN + round(font.getlength(name))
        if x > MARGIN and x + entry > width:
            x, y = MARGIN, y + size + MARGIN
        places.append((x, y))
        x += entry + MARGIN
    return places


def paint_over(
        picture: Image.Image,
        labels: torch.Tensor | np.ndarray,
        palette: np.ndarray,
        alpha: float = 0.5,
        unpainted: Collection[int] = (),
) -> Image.Image:
    """Lay the colours of classes over a picture.

    Args:
        picture: RGB.
        labels: (H, W) integer labels of its pixels; labels outside the palette are painted dark grey.
        palette: (num_classes, 3) uint8 RGB colours.
        alpha: Share of the colours, 0 (only the picture) to 1 (only colours).
        unpainted: Classes whose pixels stay as they are.

    Returns:
        RGB picture of the same size.
    """
    labels = torch.as_tensor(labels)
    painted = Image.blend(picture, colorize(labels, palette), alpha)
    if not unpainted:
        return painted
    stay = torch.isin(labels.cpu(), torch.tensor(sorted(unpainted), dtype=labels.dtype))
    return Image.composite(picture, painted, Image.fromarray(stay.numpy()))


def with_legend(picture: Image.Image, class_names: Sequence[str], palette: np.ndarray) -> Image.Image:
    """A picture above the names of classes beside their colours, in letters that fit its width.

    Args:
        picture: RGB; where it is narrower than a name, white is added at its right.
        class_names: The names; without one the picture comes back.
        palette: (len(class_names), 3) uint8 RGB colours.
    """
    if not class_names:
        return picture
    size = _text_size(picture)
    font = ImageFont.load_default(size)
    width = max(picture.width, *(size + 4 * MARGIN + round(font.getlength(name)) for name in class_names))
    places = _legend_places(class_names, font, width, size)
    result = Image.new('RGB', (width, picture.height + places[-1][1] + size + 2 * MARGIN), 'white')
    result.paste(picture)
    _draw_legend(ImageDraw.Draw(result), places, picture.height, class_names, palette, font, size)
    return result


def with_scale(picture: Image.Image, colors: np.ndarray, low: str, high: str) -> Image.Image:
    """A picture above a bar of colours with what its ends stand for.

    Args:
        picture: RGB.
        colors: (number, 3) uint8 RGB colours from the left to the right end of the bar.
        low: Text left of it.
        high: Text right of it.
    """
    size = _text_size(picture)
    font = ImageFont.load_default(size)
    left, right = (round(font.getlength(text)) + 2 * MARGIN for text in (low, high))
    width = max(picture.width, left + right + 3 * size)
    result = Image.new('RGB', (width, picture.height + size + 2 * MARGIN), 'white')
    result.paste(picture)
    top = picture.height + MARGIN
    bar = Image.fromarray(colors[None]).resize((width - left - right, size), Image.Resampling.BILINEAR)
    result.paste(bar, (left, top))
    draw = ImageDraw.Draw(result)
    draw.text((MARGIN, top), low, fill='black', font=font)
    draw.text((width - right + MARGIN, top), high, fill='black', font=font)
    return result


def _text_size(picture: Image.Image) -> int:
    """Height of letters that are as easily read on a picture of any width, once it is shown whole."""
    return min(96, max(11, picture.width // 45))


def to_picture(image: torch.Tensor) -> Image.Image:
    """An RGB picture of a uint8 image (C, H, W): of its first three channels, or of the first where it has fewer."""
    image = image[:3] if image.shape[0] >= 3 else image[:1].expand(3, -1, -1)
    return Image.fromarray(image.permute(1, 2, 0).cpu().contiguous().numpy())


def error_map(prediction: torch.Tensor, target: torch.Tensor, ignore_index: int | None) -> Image.Image:
    """Where a prediction (H, W) is wrong: red, what is right light, what is not labelled dark grey."""
    kind = (prediction != target).long()
    if ignore_index is not None:
        kind[target == ignore_index] = 2
    return colorize(kind, np.array([(236, 236, 236), (214, 40, 40)], dtype=np.uint8))


def depth_error_map(prediction: torch.Tensor, target: torch.Tensor, known: torch.Tensor) -> Image.Image:
    """Where a depth (H, W) is wrong: from light to red at 50 % of the true depth; dark grey where that is not known."""
    target = target.cpu().double()
    share = ((prediction.cpu().double() - target).abs() / target.where(known, 1.) / 0.5).clamp(0, 1)[..., None]
    right, wrong, none = (torch.tensor(color).double() for color in ((236, 236, 236), (214, 40, 40), IGNORED_COLOR))
    colors = torch.where(known[..., None], right + (wrong - right) * share.nan_to_num(1.), none)
    return Image.fromarray(colors.round().to(torch.uint8).numpy())


def colorize_depth(depth: torch.Tensor, low: float, high: float) -> Image.Image:
    """Depth (H, W) from `low`, light, to `high`, dark, in equal steps of 1 / depth; what has none is dark red."""
    depth = depth.cpu().double()
    known = (depth > 0) & depth.isfinite()
    near = (1 / depth.where(known, high) - 1 / high) / max(1 / low - 1 / high, 1e-9)
    grey = (255 * near.clamp(0, 1).sqrt()).round().to(torch.uint8)
    none = torch.tensor((90, 0, 0), dtype=torch.uint8)
    return Image.fromarray(torch.where(known[..., None], grey[..., None].expand(-1, -1, 3), none).numpy())


def worst_sheet(
        titles: Sequence[str],
        rows: Sequence[tuple[str, Sequence[Image.Image]]],
        class_names: Sequence[str] = (),
        palette: np.ndarray | None = None,
        width: int = 240,
) -> Image.Image:
    """A caption and tiles for each image, below titles of the columns, above the legend of the classes.

    Args:
        titles: One a column.
        rows: Caption and tiles of each image; the tiles of a row have one size.
        class_names: Names for the legend, none for no legend.
        palette: (len(class_names), 3) uint8 RGB colours.
        width: Width of a tile in pixels.

    Returns:
        RGB picture.
    """
    font = ImageFont.load_default(TEXT_SIZE)
    line = TEXT_SIZE + 2 * MARGIN
    sheet_width = len(titles) * (width + MARGIN) + MARGIN
    heights = [max(1, round(width * tiles[0].height / tiles[0].width)) for _, tiles in rows]
    legend = _legend_places(class_names, font, sheet_width) if class_names else []
    legend_height = legend[-1][1] + line if legend else 0
    top = line + sum(heights) + line * len(rows)
    sheet = Image.new('RGB', (sheet_width, top + legend_height), 'white')
    draw = ImageDraw.Draw(sheet)
    for column, title in enumerate(titles):
        draw.text((MARGIN + column * (width + MARGIN), MARGIN), title, fill='black', font=font)
    y = line
    for (caption, tiles), height in zip(rows, heights, strict=True):
        draw.text((MARGIN, y + MARGIN), caption, fill='black', font=font)
        y += line
        for column, tile in enumerate(tiles):
            # nearest keeps thin errors where a map is enlarged, and the average keeps them where it is shrunk
            resample = Image.Resampling.BOX if tile.width > width else Image.Resampling.NEAREST
            x = MARGIN + column * (width + MARGIN)
            draw.rectangle((x - 1, y - 1, x + width, y + height), outline='#d0d0d0')  # tiles may be white
            sheet.paste(tile.resize((width, height), resample), (x, y))
        y += height
    if legend:
        _draw_legend(draw, legend, top, class_names, palette, font)
    return sheet


def class_sheet(
        cells: Sequence[tuple[Image.Image, Sequence[tuple[str, bool | None]]]],
        columns: int = 4,
        width: int = 200,
) -> Image.Image:
    """Pictures in rows, each above its lines of text.

    Args:
        cells: Picture and lines of each; a line is a text and whether it is right (green), wrong (red) or neither.
        columns: Pictures in a row.
        width: Of a picture, into which it is fitted; texts that are wider are cut.

    Returns:
        RGB picture.
    """
    font, line = ImageFont.load_default(TEXT_SIZE), TEXT_SIZE + 4
    lines = max(len(texts) for _, texts in cells)
    step = width + MARGIN, width + lines * line + 2 * MARGIN
    rows = -(-len(cells) // columns)
    sheet = Image.new('RGB', (min(columns, len(cells)) * step[0] + MARGIN, rows * step[1] + MARGIN), 'white')
    draw = ImageDraw.Draw(sheet)
    for index, (picture, texts) in enumerate(cells):
        x, y = MARGIN + index % columns * step[0], MARGIN + index // columns * step[1]
        shown = ImageOps.contain(picture, (width, width))
        sheet.paste(shown, (x + (width - shown.width) // 2, y + width - shown.height))
        for place, (text, is_right) in enumerate(texts):
            color = {None: 'black', True: '#1a7f37', False: '#b42318'}[is_right]
            draw.text((x, y + width + 2 + place * line), _cut(text, font, width), fill=color, font=font)
    return sheet


def _cut(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f'{text}...') > width:
        text = text[:-1]
    return f'{text}...'


def sample_sheet(
        samples: Sequence[tuple[str, torch.Tensor, torch.Tensor]],
        class_names: Sequence[str],
        palette: np.ndarray,
        width: int = 240,
) -> Image.Image:
    """Samples of a data set: a row for each with the image, its mask, and the mask laid over the image.

    Args:
        samples: Caption, image (C, H, W) and labels (H, W) of each. Images that are not uint8 are shown from their
            lowest to their highest value. Labels outside the classes are painted dark grey.
        class_names: Names for the legend, which has those that are seen.
        palette: (len(class_names), 3) uint8 RGB colours.
        width: Width of a tile in pixels.

    Returns:
        RGB picture.
    """
    rows, seen = [], set()
    for caption, image, labels in samples:
        mask, picture = colorize(labels, palette), to_picture(_as_bytes(image))
        seen.update(np.unique(labels.cpu().numpy()).tolist())
        rows.append((caption, [picture, mask, Image.blend(picture, mask, 0.5)]))
    classes = [index for index in range(len(class_names)) if index in seen]
    names, colors = [class_names[index] for index in classes], palette[classes]
    if seen - set(classes):
        names, colors = [*names, 'ignored'], np.vstack([colors, np.array([IGNORED_COLOR], np.uint8)])
    return worst_sheet(('image', 'mask', 'both'), rows, names, colors, width)


def _as_bytes(image: torch.Tensor) -> torch.Tensor:
    if image.dtype == torch.uint8:
        return image
    low, high = image.amin(), image.amax()
    return ((image - low) * (255 / (high - low).clamp(min=1e-9))).to(torch.uint8)


def confusion_picture(counts: np.ndarray, class_names: Sequence[str]) -> Image.Image:
    """A confusion matrix, each row in percent of the true class: the darker, the more.

    Args:
        counts: (K, K) numbers of true class (rows) and predicted class (columns).
        class_names: K names.

    Returns:
        RGB picture; names and numbers are left out where there are too many classes to read them.
    """
    counts = np.asarray(counts, dtype=np.float64)
    number = len(counts)
    cell = max(2, min(52, 1200 // number))
    is_labelled, has_numbers = cell >= TEXT_SIZE, cell >= 40
    font, small = ImageFont.load_default(TEXT_SIZE), ImageFont.load_default(12)
    names = list(class_names) if is_labelled else []
    left = 2 * MARGIN + TEXT_SIZE + max((round(font.getlength(name)) for name in names), default=0)
    picture = Image.new('RGB', (left + number * cell + MARGIN,) * 2, 'white')
    draw = ImageDraw.Draw(picture)
    shares = 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)
    for row, column in np.ndindex(*counts.shape):
        x, y, share = left + column * cell, left + row * cell, shares[row, column]
        low, high = np.array([247, 251, 255]), np.array([8, 48, 107] if row == column else [150, 20, 30])
        color = tuple(np.round(low + (high - low) * share / 100).astype(int).tolist())
        draw.rectangle((x, y, x + cell - 1, y + cell - 1), fill=color, outline='#dddddd' if is_labelled else None)
        if has_numbers and counts[row].sum():
            text = f'{share:.1f}' if share < 99.95 else '100'
            place = (x + (cell - small.getlength(text)) / 2, y + cell / 2 - 8)
            draw.text(place, text, fill='white' if share > 50 else 'black', font=small)
    for index, name in enumerate(names):
        draw.text((left - MARGIN - font.getlength(name), left + index * cell + cell / 2 - 9), name, 'black', font=font)
        upright = Image.new('RGB', (left - TEXT_SIZE - MARGIN, TEXT_SIZE + 4), 'white')
        ImageDraw.Draw(upright).text((0, 0), name, fill='black', font=font)
        upright = upright.rotate(90, expand=True)
        picture.paste(upright, (left + index * cell + (cell - upright.width) // 2, TEXT_SIZE))
    if names:
        draw.text((MARGIN, 2), 'rows: true class, columns: predicted; percent of the true class', 'black', font=small)
    return picture


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
