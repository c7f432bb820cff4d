"""Predictions of scenes: TIFF files read and written by windows, see `Predictor.write`."""
import os
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..data.geo import TIFF_EXTENSIONS, Scene
from ..files import atomic_path
from .inference import count_windows
from .tiff import TiffWriter

if TYPE_CHECKING:
    from .predict import Prediction, Predictor

__all__ = ['write_scene']


@dataclass(frozen=True)
class _Layer:
    """What is written of each prediction: bands of a type, the value without data, and options of `TiffWriter`."""
    count: int
    dtype: str
    gap: float | None
    values: Callable[['Prediction', np.ndarray | None], np.ndarray]  # of a part and where it has data, (count, h, w)
    options: dict[str, Any]


def write_scene(
        predictor: 'Predictor',
        source: str | os.PathLike,
        target: str | os.PathLike,
        output: str,
        progress: Callable[[int, int], None] | None,
) -> None:
    """What `Predictor.write` does; see there for the arguments and errors."""
    _check(predictor, source, target, output)
    with ExitStack() as stack:
        scene = stack.enter_context(Scene(source, **predictor.description.reading))
        part = stack.enter_context(atomic_path(target))
        views = predictor.views_of(scene)
        number = count_windows(scene.size, predictor.model, views['tile'], views['overlap'])
        pieces = stack.enter_context(closing(predictor.pieces(scene, keep_probabilities=output == 'prob')))
        layer = writer = None
        for done, (top, left, prediction, known) in enumerate(pieces, 1):
            if writer is None:
                layer = _layer(prediction, output, scene.has_gaps)
                writer = stack.enter_context(TiffWriter(
                    part, os.fspath(target), scene.size, layer.count, layer.dtype, scene.place(), layer.gap,
                    **layer.options))
            writer.write(top, left, layer.values(prediction, known))
            if progress is not None:
                progress(done, number)


def _check(predictor: 'Predictor', source: str | os.PathLike, target: str | os.PathLike, output: str) -> None:
    outputs = {
        'segmentation': ('mask', 'labels', 'prob', 'overlay'), 'depth': ('mask',), 'classification': ()}[predictor.task]
    if not outputs:
        raise ValueError('Images of a classifier are not read by windows, since it sees each as a whole: call it.')
    if output not in outputs:
        reason = ''
        if (predictor.task, output) == ('depth', 'overlay'):
            reason = ', since the colours of depth depend on the nearest and farthest of the whole image'
        raise ValueError(
            f'Of a model of {predictor.task} by windows the output must be {" or ".join(outputs)}{reason}; got '
            f'{output!r}.')
    if output == 'prob' and predictor.returns_classes:
        raise ValueError('Probabilities need logits, and this file returns classes: export it with logits.')
    if Path(target).suffix.lower() not in TIFF_EXTENSIONS:
        raise ValueError(
            f'What is predicted by windows is written to a file that ends in {" or ".join(TIFF_EXTENSIONS)}, got '
            f'{os.fspath(target)!r}.')
    if os.path.realpath(source) == os.path.realpath(target):
        raise ValueError(f'No result may replace its image, and {os.fspath(target)!r} is one: name another file.')


def _layer(prediction: 'Prediction', output: str, has_gaps: bool) -> _Layer:
    """What is written of predictions like this first one."""
    if output == 'labels':
        return _label_layer(prediction, has_gaps)
    if output == 'overlay':
        return _Layer(4 if has_gaps else 3, 'uint8', None, _overlay, {})
    names = [prediction.class_name(index) for index in range(prediction.num_classes)]
    if output == 'prob' or prediction.depth is not None:
        bands = len(names) or 1
        return _Layer(bands, 'float32', np.nan if has_gaps else None, _floats, {'names': names})
    return _mask_layer(prediction, names, has_gaps)


def _mask_layer(prediction: 'Prediction', names: list[str], has_gaps: bool) -> _Layer:
    classes = prediction.num_classes
    values = classes + has_gaps  # as few as the type must tell apart
    if values > 2 ** 16:
        raise ValueError(f'A mask in a TIFF has at most {2 ** 16 - has_gaps} classes, got {classes}.')
    dtype = 'uint8' if values <= 2 ** 8 else 'uint16'
    gap = _gap_label(prediction.description.ignore_label, classes, dtype) if has_gaps else None

    def mask(part: 'Prediction', known: np.ndarray | None) -> np.ndarray:
        labels = part.mask.astype(dtype)
        if known is not None:
            labels[~known] = gap
        return labels[None]

    colors = prediction.description.palette(classes) if classes <= 2 ** 8 else None
    return _Layer(1, dtype, gap, mask, {'colors': colors, 'names': names})


def _label_layer(prediction: 'Prediction', has_gaps: bool) -> _Layer:
    """Labels, or colours, as the masks of the training data have them."""
    description = prediction.description
    labels = description.in_files(np.arange(prediction.num_classes)[None])
    if description.color_map:
        def colors(part: 'Prediction', known: np.ndarray | None) -> np.ndarray:
            return _with_alpha(np.moveaxis(description.in_files(part.mask), -1, 0), known)

        return _Layer(4 if has_gaps else 3, 'uint8', None, colors, {})
    used, gap = set(labels.ravel().tolist()), None
    if has_gaps:
        candidates = (description.ignore_index, 255, *range(2 ** 16 - 1, -1, -1))
        gap = next(value for value in candidates if value is not None and 0 <= value < 2 ** 16 and value not in used)
    dtype = 'uint8' if max((*used, gap or 0)) < 2 ** 8 else 'uint16'

    def mask(part: 'Prediction', known: np.ndarray | None) -> np.ndarray:
        values = description.in_files(part.mask).astype(dtype)
        if known is not None:
            values[~known] = gap
        return values[None]

    palette, names = None, {int(label): prediction.class_name(index) for index, label in enumerate(labels[0])}
    if dtype == 'uint8':
        palette = np.zeros((2 ** 8, 3), np.uint8)
        palette[labels[0]] = description.palette(prediction.num_classes)
    ordered = [names.get(label, '') for label in range(max(names) + 1)] if dtype == 'uint8' else ()
    return _Layer(1, dtype, gap, mask, {'colors': palette, 'names': ordered})


def _gap_label(ignored: int | None, classes: int, dtype: str) -> int:
    """The label of pixels without data: the ignored one, where it is no class and fits, or else the largest."""
    largest = np.iinfo(dtype).max
    return ignored if ignored is not None and classes <= ignored <= largest else int(largest)


def _floats(part: 'Prediction', known: np.ndarray | None) -> np.ndarray:
    values = part.depth[None] if part.depth is not None else part.probabilities
    return values if known is None else np.where(known, values, np.float32(np.nan))


def _overlay(part: 'Prediction', known: np.ndarray | None) -> np.ndarray:
    return _with_alpha(np.moveaxis(np.asarray(part.overlay()), -1, 0), known)


def _with_alpha(colors: np.ndarray, known: np.ndarray | None) -> np.ndarray:
    """Colours (3, h, w), with a fourth band of 0 where there is no data."""
    return colors if known is None else np.concatenate([colors, known[None] * np.uint8(255)])
