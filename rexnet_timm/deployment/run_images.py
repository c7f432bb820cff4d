"""What a run's model makes of its validation images: scores, the best and the worst as pictures, class pixels."""
import base64
import io
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image

from ..data import DataDescription
from ..errors import is_told, sample_error_message
from ..plain_text import load_json
from .built_in import PARTS, SETS, built_in_set
from .evaluate import evaluate
from .load import description_of, load_model
from .results import RESULTS
from .run_facts import RunFacts
from .runners import FINEST, RUNNERS, Runner
from .samples import Samples, samples_of

__all__ = ['DEFAULT_SPLIT', 'Shown', 'Validation', 'data_uri', 'stored_validation', 'validated']

MOST_COUNTED = 200  # images whose labels are counted
WIDEST = 360  # pixels of a picture
DEFAULT_SPLIT = 'validation'


@dataclass(frozen=True)
class Shown:
    """An image of the validation.

    Attributes:
        caption: Its name and its score.
        tiles: (title, address of the data, whether its pixels are to be seen) of each picture.
    """
    caption: str
    tiles: Sequence[tuple[str, str, bool]]


@dataclass(frozen=True)
class Validation:
    """What is known of the validation images.

    Attributes:
        split: Their part of the data.
        results: As `evaluate` gives them; empty where there are none.
        best: The best images, the best first.
        worst: The worst images, the worst first.
        colors: RGB of each class.
        pixels: Labels of each class in the training and in the validation images, by 'training' and 'validation'.
        counted: How many images these were counted in, and of how many.
        is_stored: Whether the results are those of an earlier validation.
        problem: Why there are no images, as a sentence; empty where there are.
    """
    split: str = ''
    results: Mapping[str, Any] = field(default_factory=dict)
    best: Sequence[Shown] = ()
    worst: Sequence[Shown] = ()
    colors: Sequence[tuple[int, int, int]] = ()
    pixels: Mapping[str, Sequence[int]] = field(default_factory=dict)
    counted: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    is_stored: bool = False
    problem: str = ''


def validated(
        run: RunFacts,
        data: str | os.PathLike | None = None,
        split: str | None = None,
        *,
        num_images: int = 4,
        batch_size: int = 8,
        workers: int = 0,
        device: str | torch.device = 'cpu',
) -> Validation:
    """Validate the model of a run, and draw what it does best and worst.

    Args:
        run: The run.
        data: Folder of its data; None takes the place that the run had it in.
        split: Part of the data; None takes that on which the run was validated.
        num_images: Images of each kind that are drawn, fewer where there are not twice as many.
        batch_size: Images at once.
        workers: Loading processes.
        device: Where the model runs.

    Returns:
        The validation; where the images, or the checkpoint, cannot be had, `problem` says why. What an earlier
        validation left takes their place.

    Raises:
        ValueError: The given `data` or `split` do not fit the model; a DatasetError names the file.
    """
    is_given = data is not None or split is not None
    try:
        return _validated(run, data, split, num_images, batch_size, workers, device)
    except _NoImages as error:
        problem = str(error)
    except (ValueError, OSError) as error:
        if is_given or not (isinstance(error, OSError) or is_told(error)):
            raise
        problem = f'The validation images could not be used: {_first_line(error)}'
    return stored_validation(run, problem)


class _NoImages(ValueError):
    """There are no images that a report could look at; the text says why."""


def _first_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        return f'{os.fspath(error.filename)!r}: {error.strerror}.'
    return ' '.join(sample_error_message(error).split())


def _validated(
        run: RunFacts, data: Any, split: str | None, num_images: int, batch_size: int, workers: int, device: Any,
) -> Validation:
    if run.checkpoint is None:
        raise _NoImages('There is no checkpoint yet, so that no image can be shown.')
    parts = _Parts(run, data, split)
    model = load_model(run.checkpoint, device)
    description = description_of(model)
    source = parts.source(model, description)
    results = evaluate(model, source, parts.split, batch_size=batch_size, workers=workers)
    samples = samples_of(model, description, source, parts.split)
    scales = tuple(getattr(model, 'scales', ())) if description.task != 'classification' else ()
    runner = RUNNERS[description.task](
        model, samples.description, False, (FINEST, *(scales if len(scales) > 1 else ())), None)
    best, worst = _best_and_worst(runner, results, num_images)
    pixels, counted = {}, {}
    number = len(results.get('class_names', ()))
    for name, part in (('training', parts.training), ('validation', parts.split)) if number else ():
        try:
            of_part = samples if part == parts.split else samples_of(
                model, description, parts.source(model, description, part), part)
        except ValueError as error:  # such as a training split that is not there
            if not is_told(error):
                raise
            continue
        pixels[name], counted[name] = _counts(of_part, number)
    with torch.inference_mode():
        return Validation(
            parts.split, results, [_shown(runner, samples, results, index) for index in best],
            [_shown(runner, samples, results, index) for index in worst],
            [tuple(color) for color in description.palette(max(2, number)).tolist()] if number else (), pixels, counted)


class _Parts:
    """Where the data of a run are: the given place, or that of its training. `_NoImages` where there are none."""

    def __init__(self, run: RunFacts, data: Any, split: str | None) -> None:
        arguments = run.arguments
        self.built_in = arguments.get('dataset') if data is None else ''
        self.images, self.seed = (
            value if isinstance(value := arguments.get(name), int) else default
            for name, default in (('synthetic_images', 512), ('seed', 42)))
        named = {name: str(arguments.get(name) or '') for name in ('val_split', 'train_split')}
        self.split = split or (self.built_in not in SETS and named['val_split']) or DEFAULT_SPLIT
        self.training = (self.built_in not in SETS and named['train_split']) or 'train'
        self.folder = data
        if self.built_in in SETS:
            if self.split not in PARTS:
                raise ValueError(f'split of a built-in set must be one of {", ".join(PARTS)}, got {self.split!r}.')
            return
        if self.built_in:
            raise _NoImages(f'The images of {self.built_in} are read by another package, and are not looked at again.')
        if data is None:
            self.folder = _place(run)

    def source(self, model: Any, description: DataDescription, part: str | None = None) -> Any:
        """What `samples_of` takes."""
        if self.built_in in SETS:
            return built_in_set(part or self.split, self.images, self.seed, model, description)
        return self.folder


def _place(run: RunFacts) -> str:
    """The folder of the data of a run; of a relative one below the folder in which the run was started."""
    said = run.arguments.get('data_dir')
    if not isinstance(said, str) or not said:
        raise _NoImages('The run does not tell where its data are.')
    places = [said] if os.path.isabs(said) else [
        os.path.join(place, said) for place in (run.start.get('place'), os.curdir) if isinstance(place, str)]
    found = next(filter(os.path.exists, places), None)
    if found is None:
        raise _NoImages(f'The data are no longer where the run had them: there is no {said}.')
    return found


def _best_and_worst(runner: Runner, results: Mapping[str, Any], number: int) -> tuple[list[int], list[int]]:
    """Numbers of the images, of which none is in both."""
    scores = runner.scores()
    scores.rows = dict(enumerate(results['per_image']))
    order = scores.worst(len(scores.rows))
    number = min(number, max(1, len(order) // 2)) if number else 0
    worst = order[:number]
    return [index for index in order[::-1][:number] if index not in worst], worst


def _shown(runner: Runner, samples: Samples, results: Mapping[str, Any], index: int) -> Shown:
    image, target = samples.dataset[index]
    outputs = next(outputs for _, _, outputs in runner.run([samples[index]]))
    pictures = list(zip(runner.titles, runner.tiles(image, target, outputs[FINEST]), strict=True))
    if 'prediction' in runner.titles:
        place = runner.titles.index('prediction')
        scales = sorted(scale for scale in outputs if scale is not FINEST)
        pictures += [(f'scale {scale}', runner.tiles(image, target, outputs[scale])[place])
                     for scale in scales[1:]]  # the finest one is the prediction
    tiles = [(title, data_uri(picture, title == 'input'), title != 'input') for title, picture in pictures]
    return Shown(re.sub(' {2,}', ': ', runner.caption(results['per_image'][index])), tiles)


def data_uri(picture: Image.Image, is_photo: bool, widest: int | None = WIDEST) -> str:
    """A picture as an address that holds it: a photo as JPEG, another as PNG."""
    if widest is not None and max(picture.size) > widest:
        factor = widest / max(picture.size)
        size = [max(1, round(side * factor)) for side in picture.size]
        picture = picture.resize(size, Image.Resampling.LANCZOS if is_photo else Image.Resampling.BOX)
    file = io.BytesIO()
    if is_photo:
        picture.save(file, 'JPEG', quality=85)
    else:
        picture.quantize(256).save(file, 'PNG', optimize=True)
    kind = 'jpeg' if is_photo else 'png'
    return f'data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}'


def _counts(samples: Samples, number: int) -> tuple[list[int], tuple[int, int]]:
    """Labels of each class, in evenly spread samples; in how many, and of how many."""
    reader = getattr(samples.dataset, 'reader', None)
    if hasattr(reader, 'samples'):  # of classes, which are known without the images
        targets, seen = [target for _, target in reader.samples], len(samples)
    else:
        indices = range(0, len(samples), max(1, -(-len(samples) // MOST_COUNTED)))
        targets, seen = (samples.dataset[index][1] for index in indices), len(indices)
    counts = torch.zeros(number, dtype=torch.int64)
    ignored = samples.description.ignore_label
    for target in targets:
        labels = torch.as_tensor(target).as_subclass(torch.Tensor).flatten().long()
        valid = (labels >= 0) & (labels < number)
        if ignored is not None:
            valid &= labels != ignored
        counts += torch.bincount(labels[valid], minlength=number)
    return counts.tolist(), (seen, len(samples))


def stored_validation(run: RunFacts, problem: str = '') -> Validation:
    """What the newest validation in the folder of a run has left, without images."""
    found = []
    for entry in os.scandir(run.folder):
        path = os.path.join(entry.path, RESULTS)
        if entry.is_dir() and entry.name.startswith('validate-') and os.path.isfile(path):
            found.append((os.path.getmtime(path), path))
    for _, path in sorted(found, reverse=True):
        try:
            with open(path, encoding='utf-8') as file:
                results = load_json(file.read())
        except (OSError, ValueError):
            continue
        if isinstance(results, dict):
            return Validation(str(results.get('split', '')), results, is_stored=True, problem=problem)
    return Validation(problem=problem)
