"""How a network is run in a validation: from samples of one padded size to what the scores of its task take."""
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from PIL import Image
from torchvision import tv_tensors

from ..data import DataDescription
from ..data.bands import as_uint8
from ..disparity import disparity_to_depth, valid_depth
from ..grid import enlarge
from .inference import at_trained_size, depth_at
from .pictures import colorize, colorize_depth, depth_error_map, error_map, paint_over, to_picture
from .samples import num_classes_of
from .scores import ClassScores, DepthScores, Scores, SegmentationScores

__all__ = ['FINEST', 'RUNNERS', 'AtScale', 'Runner', 'Size']

MIN_SIZE = 32  # networks take nothing smaller
FINEST = None  # the key of the model's own output beside those of its scales

Size = tuple[int, int]


class Runner:
    """What the tasks share: from samples of one padded size to what the scores take.

    Args:
        model: The network, in evaluation mode.
        description: What it knows of its data.
        amp: Whether it computes in mixed precision.
        keys: `FINEST`, and scales.
        options: Those of `infer`, None to run the network as it is.
    """

    titles: Sequence[str]
    example_titles: Sequence[str] = ()  # none for a task without a picture to show

    def __init__(
            self,
            model: nn.Module,
            description: DataDescription,
            amp: bool,
            keys: Sequence[int | None],
            options: dict[str, Any] | None,
    ) -> None:
        self.model, self.description, self.amp, self.keys, self.options = model, description, amp, keys, options
        parameter = next(model.parameters(), None) if isinstance(model, nn.Module) else None
        self.device = torch.device('cpu') if parameter is None else parameter.device
        needs_multiple = getattr(model, 'requires_divisible_input_shape', False)
        self.fixed_size = getattr(model, 'size', None)  # of an exported network
        self.divisor = model.encoder.output_stride if needs_multiple else 1

    def scores(self) -> Scores:
        """Empty scores."""
        raise NotImplementedError

    def run(self, batch: Sequence[tuple[int, torch.Tensor, Any]]) -> Iterator[tuple[int, Any, dict[int | None, tuple]]]:
        """Number, target and what the scores take by key, of each sample."""
        raise NotImplementedError

    def tiles(self, image: Any, target: Any, output: tuple) -> list[Image.Image]:
        """The pictures of an image on the sheet, one for each of the titles."""
        raise NotImplementedError

    def example(self, image: Any, target: Any, output: tuple) -> list[Image.Image]:
        """The pictures of an image that is shown to others, one for each of `example_titles`."""
        return self.tiles(image, target, output)

    def caption(self, row: dict[str, Any]) -> str:
        """What stands above them."""
        raise NotImplementedError

    def coarse_scales(self) -> Sequence[int]:
        """The scales of a multi-scale network but the finest."""
        return tuple(getattr(self.model, 'scales', ()))[1:]

    def at_scales(self, image: torch.Tensor) -> dict[int | None, torch.Tensor]:
        """Predictions of a dense network, of an image (C, H, W) as it takes it.

        Returns:
            `FINEST` and the coarse scales with maps of classes or depth: (H, W), and of scale s (ceil(H / 2**s),
            ceil(W / 2**s)) of the size at which the network runs.
        """
        raise NotImplementedError

    def facts(self) -> dict[str, Any]:
        """What the results tell of the model."""
        return {}

    def legend(self) -> tuple[Sequence[str], np.ndarray | None]:
        """Names and colours of the classes, where the sheet shows them."""
        return (), None

    def padded(self, size: Size) -> Size:
        """What an image of a size is padded to. ValueError where the network takes only a smaller one."""
        if self.fixed_size is not None:
            if size[0] > self.fixed_size[0] or size[1] > self.fixed_size[1]:
                raise ValueError(
                    f'The network takes images of {self.fixed_size[0]} x {self.fixed_size[1]} only, got {size[0]} x '
                    f'{size[1]} (height x width): validate it in tiles of that size, or export it for any size.')
            return self.fixed_size
        height, width = (-(-max(side, MIN_SIZE) // self.divisor) * self.divisor for side in size)
        return height, width

    def stack(self, images: Sequence[torch.Tensor]) -> torch.Tensor:
        """A batch of images of one padded size, padded with the mean colour."""
        size = self.padded(tuple(images[0].shape[-2:]))
        fill = [0.] * len(images[0])
        if images[0].dtype == torch.uint8:
            low, high = self.description.value_range
            fill = [round(255 * (value - low) / (high - low)) for value in self.description.mean]
        batch = torch.stack([
            torch.stack([
                F.pad(plane, (0, size[1] - image.shape[-1], 0, size[0] - image.shape[-2]), value=value)
                for plane, value in zip(image, fill, strict=True)])
            for image in images])
        return batch.to(self.device)

    def autocast(self) -> torch.autocast:
        """float16, or bfloat16 on a CPU, where mixed precision is asked for."""
        return torch.autocast(self.device.type, enabled=self.amp)


class _Segmentation(Runner):
    titles = ('input', 'truth', 'prediction', 'errors')
    example_titles = ('input', 'truth', 'prediction')

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        number = num_classes_of(self.model, self.description)
        self.class_names = list(self.description.class_names) or [f'class {index}' for index in range(number)]
        if len(self.class_names) == 1:
            self.class_names = ['background', *self.class_names]

    def scores(self) -> SegmentationScores:
        return SegmentationScores(self.class_names, self.description.ignore_label)

    def facts(self) -> dict[str, Any]:
        return {'class_names': self.class_names}

    def padded(self, size: Size) -> Size:
        return size if self.options else super().padded(size)  # `infer` pads by itself

    def run(self, batch: Sequence[tuple[int, torch.Tensor, Any]]) -> Iterator[tuple[int, Any, dict[int | None, tuple]]]:
        images = self.stack([image for _, image, _ in batch])
        answers = self._inferred(images) if self.options else self._plain(images)
        for place, (index, image, target) in enumerate(batch):
            height, width = image.shape[-2:]
            yield index, target.to(self.device), {
                key: (prediction[place, :height, :width],
                      None if probability is None else probability[place, :height, :width])
                for key, (prediction, probability) in answers.items()}

    def _plain(self, images: torch.Tensor) -> dict[int | None, tuple[torch.Tensor, torch.Tensor | None]]:
        scales = [key for key in self.keys if key is not FINEST]
        size = (images.shape[-2], images.shape[-1])
        with self.autocast():
            if not scales:
                return {FINEST: self._decide(self.model(images))}
            logits = {key: enlarge(value.float(), key, size)
                      for key, value in self.model.forward_scales(images, scales).items()}
        answers = {key: self._decide(value) for key, value in logits.items()}
        return {FINEST: answers[min(answers)], **answers}

    def coarse_scales(self) -> Sequence[int]:
        return super().coarse_scales() if hasattr(self.model, 'forward_scales') else ()

    def at_scales(self, image: torch.Tensor) -> dict[int | None, torch.Tensor]:
        images = self.stack([image])
        with self.autocast():
            if not self.coarse_scales():
                outputs = {FINEST: self.model(images)}
            else:
                outputs = self.model.forward_scales(images)
                finest = min(outputs)
                outputs[FINEST] = enlarge(outputs.pop(finest).float(), finest, (images.shape[-2], images.shape[-1]))
        return {key: _of_image(self._decide(output)[0][0], image, key) for key, output in outputs.items()}

    def _decide(self, output: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Predicted classes (N, H, W) and their probabilities, of logits or of a map of classes."""
        number = len(self.class_names)
        if not output.is_floating_point():  # an exported network may choose the class itself
            return output.long().reshape(len(output), *output.shape[-2:]), None
        if output.shape[1] != number and (output.shape[1] != 1 or number != 2):
            raise ValueError(
                f'The model must have an output for each of its {number} classes, got {output.shape[1]}: its class '
                'names are not those of the network.')
        output = output.float()
        if output.shape[1] == 1:
            return (output[:, 0] > 0).long(), output[:, 0].abs().sigmoid()
        return output.argmax(1), output.softmax(1).amax(1)

    def _inferred(self, images: torch.Tensor) -> dict[int | None, tuple[torch.Tensor, torch.Tensor]]:
        from .inference import infer  # only where tiles, flips or zooms are asked for
        answers = {}
        for key in self.keys:
            network = self.model if key is FINEST else AtScale(self.model, key)
            with self.autocast():
                probabilities = infer(network, images, **self.options)
            answers[key] = probabilities.argmax(1), probabilities.amax(1)
        return answers

    def caption(self, row: dict[str, Any]) -> str:
        return f'{row["image"]}    mIoU {row["miou"]:.1f}'

    def legend(self) -> tuple[Sequence[str], np.ndarray | None]:
        return self.class_names, self.description.palette(len(self.class_names))

    def tiles(self, image: Any, target: Any, output: tuple) -> list[Image.Image]:
        palette, ignored = self.description.palette(len(self.class_names)), self.description.ignore_label
        prediction, target = output[0].cpu(), target.as_subclass(torch.Tensor).cpu().long()
        return [_picture(image), colorize(_shown(target, ignored), palette), colorize(prediction, palette),
                error_map(prediction, target, ignored)]

    def example(self, image: Any, target: Any, output: tuple) -> list[Image.Image]:
        palette, ignored = self.description.palette(len(self.class_names)), self.description.ignore_label
        picture, background = _picture(image), self.description.background(len(self.class_names))
        truth = _shown(target, ignored)
        return [picture, *(paint_over(picture, labels, palette, 0.5, background) for labels in (truth, output[0]))]


def _shown(target: torch.Tensor, ignored: int | None) -> torch.Tensor:
    """Labels (H, W) with -1 for those that do not count, whose number may be that of a class."""
    target = target.as_subclass(torch.Tensor).cpu().long()
    return target if ignored is None else target.masked_fill(target == ignored, -1)


def _of_image(values: torch.Tensor, image: torch.Tensor, scale: int | None) -> torch.Tensor:
    """The part of a map of a scale that is of the image (C, H, W), without what the image was padded by."""
    height, width = (-(-side // 2 ** (scale or 0)) for side in image.shape[-2:])
    return values[:height, :width]


class AtScale(nn.Module):
    """A multi-scale U-Net that answers from one of its scales, enlarged to the size of the image."""

    requires_divisible_input_shape = False

    def __init__(self, model: nn.Module, scale: int) -> None:
        super().__init__()
        self.model, self.scale = model, scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = self.model.forward_scales(x, (self.scale,))[self.scale]
        return enlarge(logits, self.scale, (x.shape[-2], x.shape[-1]))


class _Depth(Runner):
    titles = ('input', 'truth', 'prediction', 'errors')
    example_titles = ('input', 'truth', 'prediction')

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.range = self.description.min_depth or 0.1, self.description.max_depth or 100.

    def scores(self) -> DepthScores:
        return DepthScores(*self.range)

    def run(self, batch: Sequence[tuple[int, torch.Tensor, Any]]) -> Iterator[tuple[int, Any, dict[int | None, tuple]]]:
        images = self.stack([at_trained_size(image, self.description) for _, image, _ in batch])
        depths = self._depths(images)
        for place, (index, image, target) in enumerate(batch):
            height, width = self.description.input_size or tuple(image.shape[-2:])
            yield index, target.to(self.device), {
                key: (depth_at(depth[place:place + 1, :height, :width], tuple(image.shape[-2:]))[0],)
                for key, depth in depths.items()}

    def _disparities(self, images: torch.Tensor) -> dict[int | None, torch.Tensor]:
        """Disparity (N, h, w) by scale, and under `FINEST` that of the finest scale enlarged to the images' size."""
        with self.autocast():
            output = self.model(images)
        maps = {0: output} if isinstance(output, torch.Tensor) else {scale: map for (_, scale), map in output.items()}
        finest = min(maps)
        maps[FINEST] = enlarge(maps[finest].float(), finest, tuple(images.shape[-2:]))
        return {key: values.float()[:, 0] for key, values in maps.items()}

    def _depths(self, images: torch.Tensor) -> dict[int | None, torch.Tensor]:
        """Depth (N, H, W) by key, all at the images' size."""
        maps, size = self._disparities(images), tuple(images.shape[-2:])
        return {
            key: disparity_to_depth(
                maps[key] if key is FINEST else enlarge(maps[key][:, None], key, size)[:, 0], *self.range)
            for key in self.keys}

    def at_scales(self, image: torch.Tensor) -> dict[int | None, torch.Tensor]:
        resized = at_trained_size(image, self.description)
        maps = self._disparities(self.stack([resized]))
        if len(maps) > 1:
            del maps[min(key for key in maps if key is not FINEST)]  # which is that of the image's size
        found = {
            key: _of_image(disparity_to_depth(values, *self.range)[0], resized, key) for key, values in maps.items()}
        found[FINEST] = depth_at(found[FINEST][None], tuple(image.shape[-2:]))[0]
        return found

    def padded(self, size: Size) -> Size:
        # at the size of the training, whatever their own
        return super().padded(self.description.input_size or size)

    def caption(self, row: dict[str, Any]) -> str:
        return f'{row["image"]}    AbsRel {row["abs_rel"]:.3f}'

    def tiles(self, image: Any, target: Any, output: tuple) -> list[Image.Image]:
        target = target.as_subclass(torch.Tensor)
        limits = self.limits(target)
        errors = depth_error_map(output[0], target, valid_depth(target, *self.range).cpu())
        return [_picture(image), colorize_depth(target, *limits), colorize_depth(output[0], *limits), errors]

    def example(self, image: Any, target: Any, output: tuple) -> list[Image.Image]:
        return self.tiles(image, target, output)[:3]

    def limits(self, target: torch.Tensor) -> tuple[float, float]:
        """The depths between which an image is coloured: the nearest and the farthest that it truly has."""
        known = target[target > 0]
        return (float(known.min()), float(known.max())) if known.numel() else self.range


class _Classification(Runner):
    titles = ('input',)

    def scores(self) -> ClassScores:
        return ClassScores(self.facts()['class_names'])

    def facts(self) -> dict[str, Any]:
        number = num_classes_of(self.model, self.description)
        return {'class_names': list(self.description.class_names) or [f'class {index}' for index in range(number)]}

    def padded(self, size: Size) -> Size:
        return size  # what the transform makes

    def run(self, batch: Sequence[tuple[int, torch.Tensor, Any]]) -> Iterator[tuple[int, Any, dict[int | None, tuple]]]:
        with self.autocast():
            logits = self.model(self.stack([image for _, image, _ in batch]))
        probabilities = logits.float().softmax(1).cpu()
        for place, (index, _, target) in enumerate(batch):
            yield index, target, {FINEST: (probabilities[place],)}

    def caption(self, row: dict[str, Any]) -> str:
        return f'{row["image"]}    {row["class"]}, predicted {row["prediction"]} ({row["probability"]:.2f})'

    def tiles(self, image: Any, target: Any, output: tuple) -> list[Image.Image]:
        return [image.convert('RGB') if isinstance(image, Image.Image) else _picture(image)]


RUNNERS = {'segmentation': _Segmentation, 'depth': _Depth, 'classification': _Classification}


def _picture(image: torch.Tensor) -> Image.Image:
    """A tensor as a picture; of one that comes normalised the range that it has."""
    if isinstance(image, tv_tensors.Image):
        image = as_uint8(image)
    image = image.as_subclass(torch.Tensor)
    if image.dtype != torch.uint8:
        image = image.float()
        low, high = image.aminmax()
        image = ((image - low) / (high - low).clamp(min=1e-9) * 255).round().to(torch.uint8)
    return to_picture(image)
