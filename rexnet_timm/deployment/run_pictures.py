"""Pictures of a run while it trains: what it predicts of the same few validation images, and its curves so far.

They follow from the weights and from summary.csv, so that a run that was stopped and went on has the same ones.
"""
import copy
import logging
import math
import os
import re
from contextlib import suppress
from typing import Any

import numpy as np
import torch
import torch.nn as nn
from PIL import Image
from torch.utils.data import Dataset

from ..data.description import DataDescription
from ..files import atomic_path, remove_parts
from ..seeds import seeded
from ..training.metrics import ConfusionMatrix, DepthErrors
from ..training.summary import SUMMARY, read_rows
from .curves import progress_picture
from .pictures import IGNORED_COLOR, MOST_NAMES, class_sheet, colorize, colorize_depth, worst_sheet
from .runners import FINEST, RUNNERS, Runner
from .samples import Samples, samples_of

__all__ = ['PREDICTIONS', 'PROGRESS', 'RunPictures', 'default_interval']

_logger = logging.getLogger(__name__)

PREDICTIONS, PROGRESS = 'predictions', 'progress.png'  # in the folder of the run
SHEETS = 30  # of a run, whatever its length, so that they need less space than a checkpoint or two
DENSE_IMAGES, CLASS_IMAGES = 4, 16  # on a sheet
TILE, CLASS_TILE = 200, 150  # pixels
_EPOCH = re.compile(r'epoch-(\d+)\.png')


def default_interval(epochs: int) -> int:
    """The epochs from one sheet to the next, with which a run has about `SHEETS` of them."""
    return max(1, math.ceil(epochs / SHEETS))


class RunPictures:
    """Draws the pictures of a run and writes them, in the one process that writes its folder.

    `predictions/epoch-N.png` has, for masks and depth, a row for each image: input, truth, prediction, and the coarse
    scales of a multi-scale network in their own resolution. For classes it has images with their truth and guess.
    `progress.png` has the curves of summary.csv. Neither the random states nor the weights of the run change.

    Args:
        folder: Of the run.
        dataset: The validation set, of which some samples are read again, without the transform that it has; a stream
            has no predictions drawn.
        description: What the model knows of its data.
        every: Epochs from one sheet of predictions to the next, from epoch 0 on; the last epoch has one too. 0 draws
            nothing.
        epochs: Epoch that the run stops before.
        start_epoch: The epoch that the run goes on with.
    """

    def __init__(
            self,
            folder: str | os.PathLike,
            dataset: Dataset,
            description: DataDescription,
            every: int,
            epochs: int,
            start_epoch: int = 0,
    ) -> None:
        self.folder, self.description, self.every, self.epochs = os.fspath(folder), description, every, epochs
        self.start_epoch = start_epoch
        self.dataset = _without_transform(dataset)

    def begin(self) -> None:
        """Remove the pictures of `start_epoch` and of later ones from the folder, and what a killed run half wrote."""
        if self.every and self.dataset is None:
            _logger.info('The validation images are a stream, and no pictures of predictions are drawn.')
        remove_parts(self.folder, re.escape(PROGRESS))
        if not self.start_epoch:
            with suppress(FileNotFoundError):
                os.unlink(os.path.join(self.folder, PROGRESS))
        sheets = os.path.join(self.folder, PREDICTIONS)
        if not os.path.isdir(sheets):
            return
        remove_parts(sheets, _EPOCH.pattern)
        for name in os.listdir(sheets):
            match = _EPOCH.fullmatch(name)
            if match and int(match[1]) >= self.start_epoch:
                os.unlink(os.path.join(sheets, name))

    def is_due(self, epoch: int) -> bool:
        """Whether the predictions of an epoch are drawn."""
        return self.every > 0 and (epoch % self.every == 0 or epoch == self.epochs - 1)

    def draw(self, epoch: int, model: nn.Module) -> dict[str, Image.Image]:
        """Draw and write what is due after an epoch.

        Args:
            epoch: Its number.
            model: The network that is validated, on its device.

        Returns:
            Where predictions are due, all pictures by what they show: 'predictions', 'progress'; else none.

        Raises:
            OSError: A picture cannot be written; those before it are whole.
            ValueError: A sample that cannot be used, or a summary.csv without a whole row.
        """
        if not self.every:
            return {}
        pictures = {}
        if self.is_due(epoch) and self.dataset is not None:
            with seeded(0), torch.no_grad():
                pictures['predictions'] = self._sheet(model.eval())
            with suppress(FileExistsError):
                os.mkdir(os.path.join(self.folder, PREDICTIONS))
            self._write(pictures['predictions'], os.path.join(PREDICTIONS, f'epoch-{epoch}.png'))
        progress = self._curves()
        self._write(progress, PROGRESS)
        return {**pictures, 'progress': progress} if self.is_due(epoch) else {}

    def _curves(self) -> Image.Image:
        path = os.path.join(self.folder, SUMMARY)
        rows, _ = read_rows(path)
        if not rows:
            raise ValueError(f'{path!r} must have the numbers of an epoch in each row, and none has: remove the file.')
        names = dict.fromkeys(name for row in rows for name in row if name != 'epoch')
        return progress_picture(
            [int(row['epoch']) for row in rows], {name: [row.get(name, math.nan) for row in rows] for name in names})

    def _write(self, picture: Image.Image, name: str) -> None:
        with atomic_path(os.path.join(self.folder, name)) as part:
            picture.save(part)

    def _sheet(self, model: nn.Module) -> Image.Image:
        samples = samples_of(model, self.description, self.dataset, split='')
        runner = RUNNERS[self.description.task](model, samples.description, False, (FINEST,), None)
        number = CLASS_IMAGES if self.description.task == 'classification' else DENSE_IMAGES
        indices = spread(len(samples), number)
        return {'segmentation': _masks, 'depth': _depths, 'classification': _classes}[self.description.task](
            runner, samples, indices)


def spread(length: int, number: int) -> list[int]:
    """Some of the indices below a length, in equal steps; all where there are not more."""
    number = min(length, number)
    return [(2 * place + 1) * length // (2 * number) for place in range(number)]


def _without_transform(dataset: Dataset) -> Dataset | None:
    """The data set with samples as they are read; None for a stream, which cannot be asked for one sample."""
    if not hasattr(dataset, '__len__') or isinstance(dataset, torch.utils.data.IterableDataset):
        return None
    plain = copy.copy(dataset)
    if hasattr(plain, 'transform'):
        plain.transform = None
    return plain


def _masks(runner: Runner, samples: Samples, indices: list[int]) -> Image.Image:
    names, colors = runner.legend()
    rows, seen = [], set()
    for index in indices:
        sample = samples.dataset[index]
        image, target = samples.prepare(*sample)
        maps = runner.at_scales(image)
        picture, truth, prediction, _ = runner.tiles(*sample, (maps[FINEST],))
        matrix = ConfusionMatrix(len(names), samples.description.ignore_label, maps[FINEST].device)
        matrix.update(maps[FINEST], target.to(maps[FINEST].device))
        caption = runner.caption({'image': samples.name(index), 'miou': 100 * matrix.iou().nanmean().item()})
        seen.update(target.unique().tolist())
        coarse = [_tile(colorize(maps[scale], colors), scale, image.shape[-2:]) for scale in runner.coarse_scales()]
        rows.append((caption, [picture, truth, prediction, *coarse]))
    # the same ones in every picture of a run, so that these can be leafed through
    listed = [index for index in range(len(names)) if len(names) <= MOST_NAMES or index in seen][:MOST_NAMES]
    names, colors = [names[index] for index in listed], colors[listed]
    if samples.description.ignore_label in seen:
        names, colors = [*names, 'ignored'], np.vstack([colors, np.array([IGNORED_COLOR], np.uint8)])
    return worst_sheet(_titles(runner), rows, names, colors, TILE)


def _depths(runner: Runner, samples: Samples, indices: list[int]) -> Image.Image:
    rows = []
    for index in indices:
        sample = samples.dataset[index]
        image, target = samples.prepare(*sample)
        maps = runner.at_scales(image)
        errors = DepthErrors(*runner.range, maps[FINEST].device)
        errors.update(maps[FINEST], target.to(maps[FINEST].device))
        limits = runner.limits(target)
        caption = runner.caption({'image': samples.name(index), **errors.summary()})
        caption += f'    {limits[0]:.3g} m (light) to {limits[1]:.3g} m (dark)'
        size = runner.description.input_size or image.shape[-2:]
        coarse = [_tile(colorize_depth(maps[scale], *limits), scale, size) for scale in runner.coarse_scales()]
        rows.append((caption, [*runner.tiles(*sample, (maps[FINEST],)), *coarse]))
    return worst_sheet(_titles(runner), rows, width=TILE)


def _classes(runner: Runner, samples: Samples, indices: list[int]) -> Image.Image:
    def name(index: int) -> str:
        return names[index] if index < len(names) else f'class {index}'  # a network may have more outputs than names

    names = runner.facts()['class_names']
    cells = []
    for index in indices:
        sample = samples.dataset[index]
        image, target = samples.prepare(*sample)
        (_, _, outputs), = runner.run([(index, image, target)])
        probabilities = outputs[FINEST][0]
        guess = int(probabilities.argmax())
        cells.append((runner.tiles(*sample, outputs[FINEST])[0], [
            (f'truth: {name(target)}', None), (f'guess: {name(guess)}', guess == target),
            (f'probability {probabilities[guess]:.2f}', None)]))
    return class_sheet(cells, width=CLASS_TILE)


def _titles(runner: Runner) -> list[str]:
    return ['input', 'truth', 'prediction', *(f'at 1/{2 ** scale}' for scale in runner.coarse_scales())]


def _tile(map_of_scale: Image.Image, scale: int, size: Any) -> Image.Image:
    """The map of a scale on a tile, each of its pixels on what it stands for of an image of a size (height, width)."""
    height, width = size
    box = 0, 0, width / 2 ** scale, height / 2 ** scale
    return map_of_scale.resize((TILE, max(1, round(TILE * height / width))), Image.Resampling.NEAREST, box)
