"""Predictions of single images: any image in, and a mask, depth or scores of it out."""
import csv
import io
import os
import shlex
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn as nn
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from timm.data import create_transform
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

from ..data.bands import EIGHT_BITS, Scale, as_channels, as_uint8, scaled
from ..data.description import DataDescription
from ..data.geo import Scene, Window, is_scene
from ..data.headers import TooLargeError, max_pixels
from ..data.images import IMAGE_MODES, convert, read_image, upright
from ..disparity import disparity_to_depth
from ..errors import DatasetError
from ..files import atomic_path
from .inference import (
    FLIPS,
    at_trained_size,
    check_views,
    class_probabilities,
    class_votes,
    depth_at,
    disparities,
    infer_pieces,
    normalize,
    only_size,
)
from .load import description_of
from .pictures import MOST_NAMES, paint_over, with_legend, with_scale
from .scenes import write_scene

__all__ = ['Prediction', 'Predictor', 'predict', 'read_any']

MAX_COLORS = 1024  # of `palette`
MILLIMETRES = 1000
TILE = 512  # of images that are too large to be run whole, and that ask for no other
MAX_WHOLE = 4096 * 4096  # pixels
DEPTH_RANGE = (0.1, 100.)  # metres, of `disparity_to_depth`, where the model does not say
# From far to near, as even steps of brightness
_DEPTH_COLORS = np.array(
    [(12, 8, 40), (62, 18, 112), (138, 36, 128), (212, 66, 98), (250, 136, 86), (252, 214, 142), (252, 252, 210)])


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a model says of one image of height H and width W. Of a task, the attributes of the others are None.

    Attributes:
        image: uint8 (channels, H, W) on the CPU, the image as displayed; of other bits, its scaled values to look at.
        description: What the model knows of its data.
        num_classes: K, the number of classes; of a binary mask 2, background and foreground.
        mask: Segmentation: (H, W) class of each pixel, uint8; above 256 classes uint16, above 65536 int64.
        probabilities: Segmentation: float32 (K, H, W), unless they were not to be kept, or an exported
            file returns classes only.
        depth: Depth: float32 (H, W) in metres.
        scores: Classification: float32 (K,) probability of each class.
    """
    image: torch.Tensor
    description: DataDescription
    num_classes: int = 0
    mask: np.ndarray | None = None
    probabilities: np.ndarray | None = None
    depth: np.ndarray | None = None
    scores: np.ndarray | None = None

    def __repr__(self) -> str:
        height, width = self.image.shape[-2:]
        best = f', {", ".join(f"{name} {score:.2f}" for name, score in self.top(3))}' if self.scores is not None else ''
        return f'<Prediction of {self.description.task}, {width} x {height}{best}>'

    def _repr_png_(self) -> bytes | None:
        """What a notebook shows: the overlay; of a classifier, which has none, it shows the text."""
        if self.scores is not None:
            return None
        file = io.BytesIO()
        self.overlay().save(file, 'png')
        return file.getvalue()

    def class_name(self, index: int) -> str:
        """The name of a class, or its number where there are no names."""
        names = self.description.class_names
        return names[index] if len(names) == self.num_classes else str(index)

    def top(self, number: int = 5) -> list[tuple[str, float]]:
        """Names and scores of the classes with the highest scores, the highest first, for classification."""
        if self.scores is None:
            raise ValueError(f'top needs the scores of a classifier, got a prediction of {self.description.task}.')
        order = np.argsort(-self.scores, kind='stable')[:number]
        return [(self.class_name(int(index)), float(self.scores[index])) for index in order]

    def overlay(
            self, alpha: float = 0.5, classes: Collection[int] | None = None, legend: bool = False) -> Image.Image:
        """The image, painted over with the colours of its classes, or of its depth, near ones light.

        Args:
            alpha: Share of the colours, 0 (only the image) to 1 (only colours).
            classes: The classes that are painted; None paints all but the background, see
                `DataDescription.background`.
            legend: Whether names and colours of the painted classes stand below the image, or the range of its depth.

        Returns:
            RGB picture of the size of the image, or with a legend higher.
        """
        if not 0 <= alpha <= 1:
            raise ValueError(f'alpha must be from 0 to 1, got {alpha}.')
        if self.depth is not None:
            painted = Image.blend(self.picture(), Image.fromarray(_paint_depth(self.depth)), alpha)
            return _with_range(painted, self.depth) if legend else painted
        if self.mask is None:
            raise ValueError('overlay needs a mask or depth, and a classifier gives neither: take scores or top().')
        every = range(self.num_classes)
        colors = self.description.palette(min(self.num_classes, MAX_COLORS))
        colors = colors[np.arange(self.num_classes) % len(colors)]
        unpainted = self.description.background(self.num_classes) if classes is None else set(every).difference(classes)
        painted = paint_over(self.picture(), self.mask.astype(np.int64), colors, alpha, unpainted)
        if not legend:
            return painted
        listed = [index for index in every if index not in unpainted]
        if len(listed) > MOST_NAMES:  # those that can be seen, the largest first
            counts = np.bincount(self.mask.ravel(), minlength=self.num_classes)
            seen = [index for index in listed if counts[index]]
            listed = sorted(seen, key=lambda index: -counts[index])[:MOST_NAMES]
        return with_legend(painted, [self.class_name(index) for index in listed], colors[listed])

    def picture(self) -> Image.Image:
        """The image in RGB: its first three channels, or its first as grey where it has no three."""
        image = self.image if self.image.shape[0] in (3, 4) else self.image[:1].expand(3, -1, -1)
        return Image.fromarray(image[:3].permute(1, 2, 0).contiguous().numpy())

    def save(self, path: str | os.PathLike, original_labels: bool = False) -> None:
        """Write the prediction, whole or not at all, in the format that the ending of the name tells.

        None of them tells where on the earth the image lies: `Predictor.write` gives a TIFF that does.

        * Segmentation: `.png` has the classes as an index image with their colours, of 8 bits, or of 16 bits and
          without colours above 256 classes; `.npy` has the probabilities, float32 (K, H, W).
        * Depth: `.png` has whole millimetres in 16 bits, in which 65535 is 65.535 m and everything beyond; `.tif` and
          `.tiff` have metres in float32, and `.npy` has them too.
        * Classification: `.csv` has a class and its score in each line, the highest first; `.npy` has the scores.

        Args:
            path: The file.
            original_labels: Whether a mask in PNG has the labels, or colours, that the masks of the training data had,
                instead of the classes.

        Raises:
            FileNotFoundError: The folder does not exist.
            ValueError: Another ending, or something that was not kept or does not fit the format.
        """
        ending = Path(path).suffix.lower()
        endings = {
            'segmentation': ('.png', '.npy'), 'depth': ('.png', '.tif', '.tiff', '.npy'),
            'classification': ('.csv', '.npy')}[self.description.task]
        if ending not in endings:
            by_windows = '; Predictor.write makes a GeoTIFF of a GeoTIFF' if ending in ('.tif', '.tiff') else ''
            raise ValueError(
                f'A prediction of {self.description.task} is written to a file that ends in {", ".join(endings)}, got '
                f'{os.fspath(path)!r}{by_windows}.')
        if ending == '.npy':
            values = next((x for x in (self.probabilities, self.depth, self.scores) if x is not None), None)
            if values is None:
                raise ValueError(
                    'There are no probabilities: predict with keep_probabilities=True, and with a model that returns '
                    'logits.')
            with atomic_path(path) as part:
                np.save(part, values)
        elif ending == '.csv':
            with atomic_path(path) as part, open(part, 'w', newline='', encoding='utf-8') as file:
                csv.writer(file).writerows([('class', 'score'), *self.top(self.num_classes)])
        else:
            picture, options = self._original() if original_labels else self._picture(ending)
            with atomic_path(path) as part:
                picture.save(part, **options)

    def _original(self) -> tuple[Image.Image, dict[str, Any]]:
        """The picture of a mask as the training data had it. ValueError for labels that no picture holds."""
        if self.mask is None:
            raise ValueError(f'original_labels is for masks, and this is a prediction of {self.description.task}.')
        labels = self.description.in_files(self.mask)
        picture = Image.fromarray(labels)
        if picture.mode == 'L':
            colors = np.zeros((256, 3), np.uint8)
            of_class = self.description.palette(min(self.num_classes, MAX_COLORS))
            places = self.description.in_files(np.arange(len(of_class))[None])[0]
            colors[places] = of_class
            picture.putpalette(colors.tobytes())
        return picture, {}

    def _picture(self, ending: str) -> tuple[Image.Image, dict[str, Any]]:
        """The picture of a mask or depth, and options of Pillow to save it."""
        if self.depth is not None:
            if ending != '.png':
                return Image.fromarray(self.depth), {'description': 'depth in metres'}
            info = PngInfo()
            info.add_text('Description', 'depth in millimetres')
            limits = np.iinfo(np.uint16)
            pixels = np.rint(self.depth.astype(np.float64) * MILLIMETRES).clip(limits.min, limits.max)
            return Image.fromarray(pixels.astype(np.uint16)), {'pnginfo': info}
        assert self.mask is not None
        if self.mask.dtype == np.int64:
            raise ValueError(
                f'A mask in PNG has at most 65536 classes, got {self.num_classes}: save the array mask itself.')
        picture = Image.fromarray(self.mask)
        if self.mask.dtype == np.uint8:
            picture.putpalette(self.description.palette(self.num_classes).tobytes())
        return picture, {}


class Predictor:
    """Predicts single images with a trained model.

    Images are given to the model as in training: with its mean, standard deviation, range of values and channels, at
    their own size for masks, at the size of the training for depth, whose map is enlarged again (in tiles, and where
    the model does not know that size: at their own), and resized and cropped by timm's rule for classes.

    Args:
        model: A network of `load_model`, or any other of which `description_of` finds what it needs. It is set to
            evaluation mode.
        tile: Height and width of the largest window that is run at once, or one number for both. None runs the whole
            image, and 512 where it has more than 4096 x 4096 pixels or is read by windows. Not for classification.
        overlap: Share of a window that it has in common with the next.
        flips: Mirrored copies whose mean is taken with the image: 'h', 'v', 'hv'; for depth only 'h'.
        zooms: Factors of the size at which masks are predicted, of which the mean is taken.
        device: Device to move the model to; None leaves it where it is.
        keep_probabilities: Whether predictions have the probabilities of masks, which take four bytes a pixel and
            class. Without them, huge images need little more memory than for themselves and their mask.

    Raises:
        ValueError: An argument out of range, or one that the model's task does not have.
    """

    def __init__(
            self,
            model: nn.Module,
            tile: int | tuple[int, int] | None = None,
            overlap: float = 0.25,
            flips: Sequence[str] = (),
            zooms: Sequence[float] = (1.,),
            device: str | torch.device | None = None,
            keep_probabilities: bool = True,
    ) -> None:
        self.description = description_of(model)
        self.description.require_known_task()
        self.task = self.description.task
        check_views(tile, overlap, flips, zooms)
        if self.task == 'classification' and tile is not None:
            raise ValueError(
                f'tile is for masks and depth, and a classifier sees a whole image, got {tile}: leave it out.')
        if self.task != 'segmentation' and tuple(zooms) != (1.,):
            raise ValueError(
                f'zooms are for masks, and this is a model of {self.task}, got {tuple(zooms)}: leave them out.')
        if self.task == 'depth' and not set(flips) <= {'h'}:
            raise ValueError(f"flips may only be 'h' for depth, which depends on which way is down, got {flips!r}.")
        self.model = model
        if device is not None:
            self.model = model.to(device)
        if getattr(self.model, 'training', False):
            self.model.eval()
        if device is None:
            parameter = next(iter(model.parameters()), None) if hasattr(model, 'parameters') else None
            device = 'cpu' if parameter is None else parameter.device
        self.device = torch.device(device)
        size = only_size(model)
        self.returns_classes = getattr(model, 'returns_classes', False)
        if self.returns_classes and self.task == 'classification':
            raise ValueError('A classifier must return logits, and this file returns the class: export it with logits.')
        if tile is None and self.task != 'classification':
            tile = size
        self.sees_whole = self.task == 'depth' and tile in (None, size)
        self.views: dict[str, Any] = dict(tile=tile, overlap=overlap, flips=tuple(flips), zooms=tuple(zooms))
        self.keep_probabilities = keep_probabilities
        self.transform = None
        if self.task == 'classification':
            size = size or self.description.input_size or _own_size(model)
            self.transform = create_transform(
                (self.description.in_chans, *size), use_prefetcher=True,  # which leaves the values to `_prepare`
                interpolation=self.description.interpolation, crop_pct=self.description.crop_pct)

    def __call__(self, image: str | os.PathLike | Image.Image | np.ndarray | torch.Tensor) -> Prediction:
        """Predict one image, in memory. Pixels of a file that have no data are predicted like the others; see `write`.

        Args:
            image: A path, a PIL image, array (H, W) or (H, W, channels), or tensor (channels, H, W), with values as
                the files of the training have them; see :func:`read_any`.

        Raises:
            DatasetError: A file that cannot be used.
            ValueError: An image that the model does not take.
        """
        image = read_any(image, **self.description.reading)
        return self._classification(image) if self.task == 'classification' else self._dense(image)

    def write(
            self,
            source: str | os.PathLike,
            target: str | os.PathLike,
            output: str = 'mask',
            progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Predict a TIFF file of any size by windows, into a TIFF file that lies where it lies on the earth.

        Neither of the two is ever in memory as a whole: beyond the model it takes what one window and one row of
        overlaps take. CRS, transform, ground control points and RPCs are kept. Pixels without data in the source (its
        nodata value, mask or alpha band) have none in the result. They are given to the network as they are stored.

        * 'mask' of classes: one band of uint8, above 256 classes of uint16, with the colours of the classes as its
          palette and their names as its tags; without data it is the ignored label, or the largest value of the type
          where that is a class or does not fit.
        * 'labels': the same with the labels, or RGB colours, that the masks of the training data had; without data the
          ignored label of these, or the largest that is no other, or alpha of 0.
        * 'mask' of depth: one band of float32, in metres; NaN without data.
        * 'prob': one float32 band for each class, with its name; NaN without data.
        * 'overlay' of classes: RGB, and alpha of 0 without data where the source may lack it.

        Args:
            source: A TIFF, with or without a georeference; see `data.geo.Scene` for what is read.
            target: Ends in .tif or .tiff. It is written whole or not at all, and replaces a file of that name.
            output: What is written: 'mask', 'labels', 'prob' or 'overlay'.
            progress: Called after each window with the number of those that are done, and of all.

        Raises:
            DatasetError: A source that cannot be used.
            FileNotFoundError: No such source, or no folder for the target.
            OSError: A target that cannot be written whole.
            ValueError: Another ending, an output that the model does not have, or no rasterio, the extra [geo].
        """
        write_scene(self, source, target, output, progress)

    def pieces(
            self, image: torch.Tensor | Scene, keep_probabilities: bool,
    ) -> Iterator[tuple[int, int, Prediction, np.ndarray | None]]:
        """Predictions of the parts of an image, row after row, as soon as each is final. Not for classification.

        Args:
            image: (in_chans, H, W) as `read_any` gives it, or an open scene.
            keep_probabilities: Whether they have the probabilities of masks.

        Yields:
            Top, left, prediction, and of a scene bool (rows, columns), False where there is no data, None for nowhere.
        """
        source = image if isinstance(image, Scene) else image[None]
        with closing(infer_pieces(self.model, source, self._maps(), self._prepare, **self.views_of(image))) as pieces:
            for piece in pieces:
                rows, columns = piece.maps.shape[-2:]
                pixels, known = piece.window if isinstance(piece.window, Window) else (piece.window[0], None)
                known = None if known is None else known[:rows, :columns]
                prediction = self._prediction(pixels[:, :rows, :columns], piece.maps[0], keep_probabilities)
                yield piece.top, piece.left, prediction, known

    def views_of(self, image: torch.Tensor | Scene) -> dict[str, Any]:
        """The options of `infer_pieces` for an image, as `pieces` takes it."""
        tile = self.views['tile']
        if tile is None and (isinstance(image, Scene) or image.shape[-2] * image.shape[-1] > MAX_WHOLE):
            tile = TILE
        return {**self.views, 'tile': tile}

    def _prepare(self, images: torch.Tensor | Window) -> torch.Tensor:
        images = (images.pixels[None] if isinstance(images, Window) else images).to(self.device)
        return images if getattr(self.model, 'takes_uint8', False) else normalize(images, self.description)

    def _maps(self) -> Callable[[Any, tuple[int, int]], torch.Tensor]:
        """What makes maps of the network's output."""
        if self.task == 'depth':
            return disparities
        if not self.returns_classes:
            return class_probabilities
        model: Any = self.model
        return partial(class_votes, num_classes=max(2, model.num_classes))

    def _prediction(self, image: torch.Tensor, maps: torch.Tensor, keep_probabilities: bool) -> Prediction:
        """Of an image (channels, h, w) and its maps (K, h, w), on any device."""
        if self.task == 'depth':
            nearest, farthest = (
                default if value is None else value for value, default in
                zip((self.description.min_depth, self.description.max_depth), DEPTH_RANGE, strict=True))
            depth = disparity_to_depth(maps[0].cpu(), nearest, farthest).numpy()
            return Prediction(as_uint8(image), self.description, depth=depth)
        classes = len(maps)
        dtype = np.uint8 if classes <= 2 ** 8 else np.uint16 if classes <= 2 ** 16 else np.int64
        keep = keep_probabilities and not self.returns_classes
        return Prediction(
            as_uint8(image), self.description, classes, mask=maps.argmax(0).cpu().numpy().astype(dtype),
            probabilities=maps.cpu().numpy() if keep else None)

    def _dense(self, image: torch.Tensor) -> Prediction:
        if self.sees_whole and self.description.input_size is not None:
            resized = at_trained_size(image, self.description)
            if resized is not image:
                depth = depth_at(torch.from_numpy(self._dense(resized).depth)[None], (image.shape[-2], image.shape[-1]))
                return Prediction(image, self.description, depth=depth[0].numpy())
        whole: dict[str, np.ndarray] = {}
        for top, left, part, _ in self.pieces(image, self.keep_probabilities):
            for name in ('mask', 'probabilities', 'depth'):
                values = getattr(part, name)
                if values is None:
                    continue
                if name not in whole:
                    whole[name] = np.empty((*values.shape[:-2], *image.shape[-2:]), values.dtype)
                rows, columns = values.shape[-2:]
                whole[name][..., top:top + rows, left:left + columns] = values
        return Prediction(as_uint8(image), self.description, part.num_classes, **whole)

    @torch.no_grad()
    def _classification(self, image: torch.Tensor) -> Prediction:
        assert self.transform is not None
        crop = self._prepare(torch.as_tensor(self.transform(F.to_pil_image(image)))[None])
        copies = [crop, *(crop.flip(FLIPS[flip]) for flip in self.views['flips'])]
        logits = self.model(torch.cat(copies))
        if not isinstance(logits, torch.Tensor) or logits.ndim != 2:
            raise ValueError('The model must return logits (N, classes) of images: it is no classifier.')
        scores = class_probabilities(logits[..., None, None], (1, 1)).mean(0).flatten().cpu().numpy()
        return Prediction(image, self.description, len(scores), scores=scores)


def predict(model: nn.Module, image: str | os.PathLike | Image.Image | np.ndarray | torch.Tensor) -> Prediction:
    """Predict one image with a model of `load_model`; several images, and large ones, are for `Predictor`."""
    return Predictor(model)(image)


def read_any(
        image: str | os.PathLike | Image.Image | np.ndarray | torch.Tensor,
        in_chans: int,
        bands: Sequence[int] = (),
        scale: Scale = EIGHT_BITS,
) -> torch.Tensor:
    """An image in any form as a tensor (in_chans, H, W) on the CPU, as displayed: uint8, or float32 of other scales.

    Grey becomes RGB and the other way round, and alpha is left out, as `data.images.read_image` does for files. Files
    with a georeference are read as `data.geo.Scene` says.

    Args:
        image: A path; a PIL image, whose EXIF orientation is applied; an array (H, W) or (H, W, channels); or a tensor
            (channels, H, W). Arrays and tensors have the channels of the model, in the order RGB for colours, and
            values as files have them; a float `tv_tensors.Image` has values that are scaled already.
        in_chans: Channels that are asked for.
        bands: Which bands of a file they are, counted from 1; empty for all.
        scale: What values become 0 and 1, see `data.bands.Scale`.

    Raises:
        DatasetError: A file that cannot be used.
        ValueError: Another dtype or shape, or channels that cannot be converted.
    """
    if isinstance(image, (str, os.PathLike)):
        return _read_file(Path(image), in_chans, bands, scale)
    if isinstance(image, Image.Image):
        return _from_pil(upright(image), in_chans, scale)
    if isinstance(image, tv_tensors.Image) and image.is_floating_point() and image.shape[0] == in_chans:
        return image.as_subclass(torch.Tensor).detach().cpu()
    if isinstance(image, np.ndarray):
        form, values = 'array (H, W) or (H, W, channels)', image[..., None] if image.ndim == 2 else image
        values = np.moveaxis(values, -1, 0)
    elif isinstance(image, torch.Tensor):
        form, values = 'tensor (channels, H, W)', image.detach().cpu().numpy()
    else:
        raise ValueError(f'An image is a path, a PIL image, an array or a tensor, got {type(image).__name__}.')
    is_deep = scale != EIGHT_BITS
    if values.ndim != 3 or 0 in values.shape or not (is_deep or values.dtype == np.uint8):
        kind = f'{form} of values as those of the training' if is_deep else f'uint8 {form}'
        raise ValueError(f'Images must come as {kind}, got {image.dtype} of the shape {tuple(image.shape)}.')
    if len(values) == in_chans or is_deep and {len(values), in_chans} == {1, 3}:
        return scaled(np.array(as_channels(values, in_chans)), scale, f'an image of the shape {tuple(image.shape)}')
    if is_deep or len(values) not in IMAGE_MODES or in_chans not in IMAGE_MODES:
        raise ValueError(f'The model takes {in_chans} channels, got an image with {len(values)}.')
    return _from_pil(F.to_pil_image(torch.from_numpy(np.array(values))), in_chans, scale)


def _read_file(path: Path, in_chans: int, bands: Sequence[int], scale: Scale) -> torch.Tensor:
    if is_scene(path):
        with Scene(path, in_chans, bands, scale) as scene:
            height, width = scene.size
            limit = max_pixels()
            if limit is not None and height * width > limit:
                raise ValueError(
                    f'An image in memory has at most {limit} pixels: {path} has more; cut it, or write its mask or '
                    'depth by windows, with Predictor.write.')
            return scene.read((0, height), (0, width)).pixels
    try:
        return read_image(path, in_chans, bands, scale).as_subclass(torch.Tensor)
    except TooLargeError as error:
        names = ' '.join(shlex.quote(str(name)) for name in (path, path.with_suffix('.tif')))
        raise DatasetError(
            f'Every image but a TIFF must have at most {max_pixels()} pixels: {path} has more; cut it, or make it a '
            f"TIFF, which is read by windows: pip install 'rexnet-timm[geo]', and rio convert {names}") from error


def _from_pil(image: Image.Image, in_chans: int, scale: Scale) -> torch.Tensor:
    is_deep = image.mode in ('I', 'F') or image.mode.startswith('I;')
    if scale != EIGHT_BITS and (is_deep or image.mode in IMAGE_MODES.values()):
        return read_any(np.array(image), in_chans, scale=scale)
    if is_deep:
        raise ValueError(
            f'Images must have 8 bits a channel, got one of mode {image.mode}: convert it by the range of its values.')
    if in_chans not in IMAGE_MODES or (in_chans == 4 and image.mode != 'RGBA'):
        raise ValueError(f'The model takes {in_chans} channels, got an image of mode {image.mode}.')
    return F.pil_to_tensor(convert(image, in_chans))


def _own_size(model: nn.Module) -> tuple[int, int]:
    """Height and width of the images of a timm model that says no more of its data."""
    config = getattr(model, 'pretrained_cfg', None) or {}
    return tuple(config.get('input_size') or (3, 224, 224))[1:]


def _paint_depth(depth: np.ndarray) -> np.ndarray:
    """uint8 (H, W, 3) colours of depth (H, W): by its inverse, from the farthest to the nearest of the image."""
    inverse = 1 / depth
    low, high = inverse.min(), inverse.max()
    return _depth_colors((inverse - low) / max(high - low, np.finfo(np.float32).tiny))


def _depth_colors(place: np.ndarray) -> np.ndarray:
    """uint8 (..., 3) colours of places from 0, the farthest, to 1, the nearest."""
    steps = np.linspace(0, 1, len(_DEPTH_COLORS))
    channels = [np.interp(place, steps, _DEPTH_COLORS[:, channel]) for channel in range(3)]
    return np.rint(np.stack(channels, axis=-1)).astype(np.uint8)


def _with_range(picture: Image.Image, depth: np.ndarray) -> Image.Image:
    nearest, farthest = (f'{value:.3g} m' for value in (depth.min(), depth.max()))
    return with_scale(picture, _depth_colors(np.linspace(1, 0, 256)), nearest, farthest)
