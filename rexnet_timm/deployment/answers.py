"""Answers of a model to uploaded images, as the page of `rexnet app` keeps and shows them.

Of a prediction only a picture of screen size stays in memory, from which opacity and choice of classes are painted
anew; the whole of it lies in a file.
"""
import os
import time
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

from ..data.headers import read_header
from ..errors import DatasetError
from .load import describe
from .predict import MAX_COLORS, Prediction, Predictor, read_any
from .runners import AtScale
from .samples import num_classes_of

__all__ = ['Answer', 'Answerer']

# What browsers and cameras write. Pillow knows more, and hands some of it (EPS) to other programs.
FORMATS = ('JPEG', 'MPO', 'PNG', 'WEBP', 'BMP', 'TIFF')
PREVIEW = 1280  # pixels of the longer side of what is shown
SHORT = 0.5  # seconds
ENDINGS = {'segmentation': '-mask.png', 'depth': '-depth.png', 'classification': '-classes.csv'}


@dataclass(frozen=True, eq=False)
class Answer:
    """What a model says of an uploaded image, as far as the page keeps it.

    Attributes:
        source: The uploaded file.
        scale: Of a multi-scale U-Net, the scale that answers; None of any other model.
        size: Height and width of the image.
        preview: The prediction, on a grid of at most `PREVIEW` pixels a side, without probabilities.
        shares: Segmentation: share of all pixels by class, of the classes that the mask has, largest first.
        seconds: Time by scale, of the scales that have answered for this image.
        file: The prediction in full, as `Prediction.save` writes it.
        folder: Holds the file, and removes it when nothing refers to the answer.
    """
    source: Path
    scale: int | None
    size: tuple[int, int]
    preview: Prediction
    shares: dict[int, float]
    seconds: dict[int | None, float]
    file: Path
    folder: TemporaryDirectory

    def paint(self, alpha: float, hidden: Collection[int] = ()) -> Image.Image:
        """The preview under the colours of its classes or depth; of a classifier the image itself.

        Args:
            alpha: Share of the colours, from 0 to 1.
            hidden: Classes that are left out.
        """
        if self.preview.scores is not None:
            return self.preview.picture()
        return self.preview.overlay(alpha, [index for index in self.shares if index not in hidden])

    @property
    def background(self) -> frozenset[int]:
        """The classes that are left out until they are asked for."""
        return self.preview.description.background(self.preview.num_classes)


class Answerer:
    """Answers for uploaded files.

    Args:
        predictor: Of the model; its tiles, flips and zooms hold at every scale.
        max_pixels: Of an image; larger ones are refused before they are decoded.
        folder: For the files of answers.

    Attributes:
        scales: Those of a multi-scale U-Net, finest first; empty for any other model.
        colors: RGB of each class, for segmentation.
    """

    def __init__(self, predictor: Predictor, max_pixels: int, folder: str | os.PathLike | None = None) -> None:
        self.description, self.task = predictor.description, predictor.task
        self.max_pixels, self.folder = max_pixels, folder
        self.colors: list[tuple[int, int, int]] = []
        if self.task == 'segmentation':
            number = num_classes_of(predictor.model, self.description)
            self.colors = self.description.palette(min(number, MAX_COLORS)).tolist()
        scales = getattr(predictor.model, 'scales', ())
        has_scales = self.task == 'segmentation' and hasattr(predictor.model, 'forward_scales') and len(scales) > 1
        self.scales: tuple[int, ...] = tuple(scales) if has_scales else ()
        self._predictors: dict[int | None, Predictor] = {None: predictor}
        for scale in self.scales:
            network = describe(AtScale(predictor.model, scale), self.description)
            self._predictors[scale] = Predictor(network, **predictor.views, keep_probabilities=False)

    def nearest_scale(self, scale: float | None) -> int | None:
        """The model's scale that is not coarser than the one asked for; None where the model has none."""
        return max((own for own in self.scales if own <= (scale or 0)), default=min(self.scales, default=None))

    def __call__(self, source: Path, scale: float | None = None, earlier: Answer | None = None) -> Answer:
        """Answer for a file.

        Args:
            source: The uploaded file.
            scale: Scale to answer at; see `nearest_scale`.
            earlier: The answer before; if it is of the same file, its times are kept.

        Raises:
            ValueError: A file that is no image that the model takes, or too large.
        """
        scale = self.nearest_scale(scale)
        self._check(source)
        prediction, seconds = self._timed(source, scale)
        folder = TemporaryDirectory(prefix='answer-', dir=self.folder)
        file = Path(folder.name) / f'{source.stem[:100]}{ENDINGS[self.task]}'
        prediction.save(file)
        times = dict(earlier.seconds) if earlier is not None and earlier.source == source else {}
        return Answer(
            source, scale, tuple(prediction.image.shape[-2:]), _preview(prediction), _shares(prediction),
            {**times, scale: seconds}, file, folder)

    def _check(self, source: Path) -> None:
        header = read_header(source, 'image')
        if header.format not in FORMATS:
            raise DatasetError(
                f'Images must be JPEG, PNG, WebP, BMP or TIFF: {source} is {header.format}; save it as PNG.')
        height, width = header.size
        if height * width > self.max_pixels:
            raise DatasetError(
                f'Images must have at most {self.max_pixels / 1e6:g} megapixels here: {source} has {width} x {height}, '
                f'{height * width / 1e6:.3g}; shrink it, or cut out a part.')

    def _timed(self, source: Path, scale: int | None) -> tuple[Prediction, float]:
        """The prediction of a file, and the seconds that it took from the decoded image on."""
        predictor = self._predictors[scale]
        image = tv_tensors.Image(read_any(source, **self.description.reading))  # which is not scaled again
        times = []
        # the first run at a new size prepares what the following ones find ready
        while not times or (len(times) == 1 and times[0] < SHORT):
            start = time.perf_counter()
            prediction = predictor(image)
            times.append(time.perf_counter() - start)
        return prediction, min(times)


def _preview(prediction: Prediction) -> Prediction:
    height, width = prediction.image.shape[-2:]
    factor = PREVIEW / max(height, width)
    if factor >= 1:
        return replace(prediction, probabilities=None)
    size = max(1, round(height * factor)), max(1, round(width * factor))
    # the pixels in the middle of those that one of the preview stands for
    rows, columns = np.arange(size[0]) + 0.5, np.arange(size[1]) + 0.5
    grid = np.ix_((rows * height / size[0]).astype(int), (columns * width / size[1]).astype(int))
    return replace(
        prediction, image=F.resize(prediction.image, list(size), antialias=True), probabilities=None,
        mask=None if prediction.mask is None else prediction.mask[grid],
        depth=None if prediction.depth is None else prediction.depth[grid])


def _shares(prediction: Prediction) -> dict[int, float]:
    if prediction.mask is None:
        return {}
    counts = np.bincount(prediction.mask.ravel(), minlength=prediction.num_classes)
    order = np.argsort(-counts, kind='stable')
    return {int(index): counts[index] / counts.sum() for index in order if counts[index]}
