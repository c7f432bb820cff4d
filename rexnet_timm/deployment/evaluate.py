"""Validation of a trained model: every image of a split once, at its own size, by the metrics of the model's task."""
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
import torch.nn as nn
from PIL import Image
from timm.task import TrainingTask
from torch.utils.data import DataLoader, Dataset

from ..data.loader import EvaluationBatches
from ..training.engine import evaluate as evaluate_task
from .load import description_of
from .pictures import worst_sheet
from .results import EXAMPLE, FILES, write_results
from .runners import FINEST, RUNNERS, Runner, Size
from .samples import Samples, samples_of
from .scores import Scores

__all__ = ['evaluate']


def evaluate(
        model: nn.Module | TrainingTask,
        data: str | os.PathLike | Dataset | Iterable[tuple[torch.Tensor, torch.Tensor]],
        split: str = 'test',
        *,
        batch_size: int = 8,
        workers: int = 0,
        amp: bool = False,
        tile: Size | None = None,
        overlap: float = 0.25,
        flips: Sequence[str] = (),
        zooms: Sequence[float] = (1.,),
        scales: bool = False,
        results_dir: str | os.PathLike | None = None,
        num_worst: int = 8,
        overwrite: bool = True,
        tell: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Validate a model by the metrics of its task.

    Each image is taken at its own size, and padded at the right and the bottom only as far as the network needs it,
    which does not count; one of more pixels than Pillow takes in tiles, each of which counts as an image. In a process
    group, every process must call this; each image is counted once, and all processes get the same results. Rates are
    in percent, the expected calibration error too; a ratio without a pixel is NaN, and no mean includes it.

    Args:
        model: A model of `load_model`, on the device where it shall run; it is put into evaluation mode. Or a task in
            training, with a loader of its batches as `data`: it is measured as after an epoch, by
            `rexnet_timm.training.engine.evaluate`, and no other argument counts.
        data: Folder as for training, or a description of one, or a map-style data set. Samples are an image uint8
            (C, H, W), or `tv_tensors.Image` of floats from 0 to 1, which is prepared as the model's description says,
            or another float one, which is taken as it is, with labels or depth (H, W); for classification a picture or
            a tensor with the number of its class.
        split: Part of the folder.
        batch_size: Images at once in each process, all of one size.
        workers: Loading processes of each process.
        amp: Whether the network computes in mixed precision.
        tile: Height and width of a sliding window, None for the whole image. This and the following three are for
            segmentation, see `rexnet_timm.deployment.inference.infer`.
        overlap: Share of a tile that the next one covers too.
        flips: Of 'h', 'v', 'hv': mirrored images whose probabilities are averaged with those of the image.
        zooms: Factors at which the image is run.
        scales: Whether each scale of a multi-scale U-Net is measured too, enlarged to the image's size.
        results_dir: Folder for results.json, per_image.csv, confusion.png (where there are classes), worst.png and
            example.png, the image of the median score. None writes nothing.
        num_worst: Images on worst.png.
        overwrite: Whether files of these names may be replaced.
        tell: Called in the first process with the results before they are written, so that a full disk loses nothing.

    Returns:
        'task', 'split', 'images', 'class_names' (where there are classes), the scores (`SegmentationScores.summary`,
        `DepthScores.summary`, `ClassScores.summary`), 'per_image': a row of scores for each image, in the order of the
        data set, and with `scales` 'scales': {scale: the scores of it}.

    Raises:
        OSError: A file of the results cannot be written.
        ValueError: Data of another task or of other classes, options that the task does not have, nothing that
            counts, or results that exist and may not be replaced; a DatasetError names the file.
    """
    if isinstance(model, TrainingTask):
        batches: Any = data
        return evaluate_task(model, batches)
    description = description_of(model)
    if batch_size < 1:
        raise ValueError(f'batch_size must be at least 1, got {batch_size}.')
    uses_infer = tile is not None or bool(flips) or tuple(zooms) != (1.,)
    if description.task != 'segmentation' and (uses_infer or scales):
        raise ValueError(
            f'tile, flips, zooms and scales are for segmentation, and the model is for {description.task}: leave them '
            'out.')
    own_scales: Any = getattr(model, 'scales', ()) if hasattr(model, 'forward_scales') else ()
    if scales and len(own_scales) < 2:
        raise ValueError('scales needs a multi-scale U-Net with several scales, and the model has one: leave it out.')
    samples = samples_of(model, description, data, split)
    if results_dir is not None and not overwrite:
        _check_new(results_dir)
    options = dict(tile=tile, overlap=overlap, flips=tuple(flips), zooms=tuple(zooms)) if uses_infer else None
    keys = (FINEST, *(own_scales if scales else ()))
    runner = RUNNERS[description.task](model.eval(), samples.description, amp, keys, options)

    scores = {key: runner.scores() for key in keys}
    with torch.inference_mode():
        for batch in _batches(samples, batch_size, workers, runner.padded):
            for index, target, outputs in runner.run(batch):
                for key, output in outputs.items():
                    scores[key].update(index, samples.name(index), *output, target)
        for part in scores.values():
            part.gather()
        results = {
            'task': description.task, 'split': split, 'images': len(samples), **runner.facts(),
            **scores[FINEST].summary(), 'per_image': scores[FINEST].per_image()}
        if scales:
            results['scales'] = {scale: scores[scale].summary() for scale in own_scales}
        if _rank() == 0 and tell is not None:
            tell(results)
        if _rank() == 0 and results_dir is not None:
            write_results(results_dir, results, _pictures(runner, samples, scores[FINEST], num_worst))
    return results


def _check_new(folder: str | os.PathLike) -> None:
    there = [path for path in (os.path.join(folder, name) for name in FILES) if os.path.lexists(path)]
    if there:
        raise ValueError(f'{there[0]!r} exists: pass overwrite to replace it, or another results_dir.')


def _rank() -> int:
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def _batches(
        samples: Samples, batch_size: int, workers: int, padded: Callable[[Size], Size],
) -> Iterator[list[tuple[int, torch.Tensor, Any]]]:
    """Lists of samples that the network takes in one piece; over all processes each sample once."""
    world_size = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
    sizes = [padded(size) for size in samples.sizes() or [(1, 1)] * len(samples)]
    sampler = EvaluationBatches(sizes, batch_size, world_size, _rank())
    batches, number = [], 0
    for batch in sampler.batches:  # those after the valid samples are there to keep processes in step, and not needed
        if number < sampler.num_valid_samples:
            batches.append(batch)
        number += len(batch)
    for batch in DataLoader(samples, batch_sampler=batches, collate_fn=list, num_workers=workers):
        of_size: dict[Size, list[tuple[int, torch.Tensor, Any]]] = {}
        for sample in batch:
            of_size.setdefault(padded(tuple(sample[1].shape[-2:])), []).append(sample)
        yield from of_size.values()


def _pictures(runner: Runner, samples: Samples, scores: Scores, num_worst: int) -> dict[str, Image.Image]:
    """The sheet of the worst images, and the example, by the names of their files."""
    order = scores.worst(len(samples))
    if not order:
        return {}

    def tiles(index: int, draw: Callable[..., list[Image.Image]]) -> list[Image.Image]:
        _, output = next((target, outputs[FINEST]) for _, target, outputs in runner.run([samples[index]]))
        return draw(*samples.dataset[index], output)

    rows = [(runner.caption(scores.rows[index]), tiles(index, runner.tiles)) for index in order[:num_worst]]
    pictures = {'worst.png': worst_sheet(runner.titles, rows, *runner.legend())}
    if runner.example_titles:
        median = order[len(order) // 2]
        # it may be shown to others, whom the name of the file does not concern
        caption = runner.caption({**scores.rows[median], 'image': 'the image of the median score'})
        pictures[EXAMPLE] = worst_sheet(
            runner.example_titles, [(caption, tiles(median, runner.example))], *runner.legend(), width=320)
    return pictures
