"""Trained networks as files that run without this package: ONNX, OpenVINO, torch.export and TorchScript.

A file has one input and one output, of any number of images of any size. BatchNorm is folded into the convolutions,
the heads of other scales are left out, and normalisation and the choice of the class can go into the file. Each file is
run beside the network before it gets its name: what does not give the network's values is not kept.
"""
import copy
import io
import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import segmentation_models_pytorch as smp
import torch
import torch.nn as nn
import torch.nn.functional as F

from ..data.bands import EIGHT_BITS
from ..data.description import DataDescription
from ..errors import first_lines
from ..files import atomic_path
from ..grid import cut, enlarging_by_convolution
from ..models.depth import ReXDepth
from ..models.fill import fill_channels
from ..models.fuse import fuse
from ..models.unet import MultiScaleUnet
from .exported import FORMATS, SMALLEST, ExportedNetwork, load_exported, require
from .load import describe, description_of
from .onnx_graph import onnx_model
from .openvino_graph import openvino_model
from .parity import Comparison, compare, example_images
from .quantize import Int8Report, calibration_samples, measure, prepared_images, quantize, require_int8

if TYPE_CHECKING:
    import openvino

__all__ = ['export', 'format_of']

EXAMPLE = (2, 64, 96)  # number, height and width of what is traced


def export(
        model: nn.Module,
        path: str | os.PathLike,
        format: str | None = None,
        *,
        normalize: bool | None = None,
        argmax: bool = False,
        size: Sequence[int] | None = None,
        scale: int | None = None,
        half: bool = False,
        int8: bool = False,
        calibration: str | os.PathLike | None = None,
        num_calibration_images: int = 128,
) -> list[Comparison] | Int8Report:
    """Write a trained network to a file that is used without this package, or with :func:`rexnet_timm.load_model`.

    The file takes images (N, C, H, W), any number of them, of any height and width from 32 on, and returns logits
    (N, num_classes, H, W); (N, num_classes) of a classifier; disparity (N, 1, H, W) of the finest scale of a depth
    network. Images for an architecture of SMP that needs multiples of its stride are padded and the logits cut, in the
    file. The names and colours of classes, the normalisation and the description of the data are in its metadata.

    The file is run beside the network at three sizes, one of them odd, and replaces what was at `path` only where the
    outputs are equal to rounding and every clear pixel has the same class.

    Args:
        model: Any model that `load_model` gives, which is not changed.
        path: The file to write. The weights of OpenVINO's .xml go beside it, into .bin.
        format: 'onnx', 'openvino', 'torch-export' or 'torchscript'; None goes by the ending of `path`.
        normalize: Whether the file takes uint8 images from 0 to 255 and normalises them itself. Otherwise it takes
            normalised float32 images. None: ONNX and OpenVINO do, unless images have other bits, and the formats of
            torch do not.
        argmax: Whether the file returns classes, uint8 (N, H, W) or (N,), in place of logits; of a binary mask 1 where
            the logit is above 0.
        size: Height and width that the file is made for; None for any.
        scale: Where the multi-scale U-Net is cut: its logits of this scale are enlarged to the input's size.
        half: Whether weights are float16, for half of the file. ONNX and the formats of torch compute in it as well;
            OpenVINO computes in float32 on CPUs.
        int8: Whether the file computes in int8, quantised after training by the ranges that activations have on the
            images of `calibration`: ONNX and OpenVINO, for segmentation and classification. The float32 file is held to
            the network first; the int8 file is kept where it gives the network's class at 90 % of the pixels, or of the
            images, of the validation split. For CPUs with VNNI instructions; others may be slower and less exact.
        calibration: A folder of data as `rexnet train` takes it: the ranges are from images of its split 'train', and
            what int8 costs is measured on 'val'.
        num_calibration_images: Of 'train', spread over the split; all where there are fewer.

    Returns:
        The comparisons with the network, one a size; of an int8 file its score, agreement and time beside float32.

    Raises:
        OSError: The folder of `path` does not exist, or the disk is full.
        ValueError: An option that does not fit the network, a missing package, a network that is made for one size, or
            a file that does not give the network's values; `path` is left as it was.
    """
    if isinstance(model, ExportedNetwork):
        raise ValueError('model must be a network, and this one is an exported file already: load the checkpoint.')
    format = format_of(path, format)
    require(f'write {format}', format)
    if size is not None and (len(size) != 2 or min(size) < SMALLEST):
        raise ValueError(f'size must be height and width of at least 32, got {" ".join(map(str, size))}.')
    description = description_of(model)
    is_deep = description.reading['scale'] != EIGHT_BITS
    if normalize and is_deep:
        raise ValueError(
            'normalize makes a file that takes uint8 images from 0 to 255, and those of this model have other bits: '
            'leave it out, and give the file what preprocessing in its metadata says.')
    if normalize is None:
        normalize = format in ('onnx', 'openvino') and not is_deep
    if int8:
        _check_int8(format, description, half, calibration, num_calibration_images)
        assert calibration is not None
        calibration_samples(model, calibration)  # before the work begins
    elif calibration is not None:
        raise ValueError('calibration is for int8 only: set int8, or leave it out.')
    network: Any = _single_output(model, scale)
    stride = network.encoder.output_stride if getattr(network, 'requires_divisible_input_shape', False) else 1
    if stride > 1:
        network.requires_divisible_input_shape = False  # SMP's check, which the padding takes the place of
    reference = _Shipped(network, description, normalize, stride)
    example = example_images(EXAMPLE if size is None else (EXAMPLE[0], size[0], size[1]), description, normalize)
    with _any_size(size), torch.no_grad():
        num_classes = reference(example).shape[1]
    if argmax:
        _check_argmax(model, num_classes)
    output = 'disparity' if isinstance(model, ReXDepth) else 'classes' if argmax else 'logits'
    metadata = _metadata(description, normalize, output, num_classes, size)
    in_half = half and format != 'openvino'
    fused = fuse(network)
    if format in ('onnx', 'openvino'):
        fill_channels(fused)
    shipped = _Shipped(fused.half() if in_half else fused, description, normalize, stride, argmax, in_half)

    def content() -> Any:
        if format == 'openvino':
            with enlarging_by_convolution():
                graph = _onnx(shipped, example, size, output, {})
            return openvino_model(graph)
        if format == 'onnx':
            return _onnx(shipped, example, size, output, metadata)
        if format == 'torch-export':
            return _torch_export(shipped, example, size, metadata)
        return _torchscript(shipped, example, metadata)

    def save(content: Any, part: str) -> ExportedNetwork:
        if format == 'openvino':
            _save_openvino(content, part, path, metadata, half)
        else:
            _save(content, part, path)
        return load_exported(part)

    paths = [os.fspath(path), f'{os.path.splitext(path)[0]}.bin'] if format == 'openvino' else [os.fspath(path)]
    with ExitStack() as stack:
        part, *_ = [stack.enter_context(atomic_path(file)) for file in paths]  # of one stem, as OpenVINO wants it
        with _quiet():
            whole = content()
        if calibration is None:  # nor int8
            return compare(save(whole, part), reference, half)
        return _export_int8(whole, part, save, reference, calibration, num_calibration_images)


def _export_int8(
        content: Any, part: str, save: Callable[[Any, str], ExportedNetwork], reference: nn.Module,
        calibration: str | os.PathLike, number: int,
) -> Int8Report:
    """Save the int8 form of a float32 file, which is held to the network on the way."""
    with TemporaryDirectory() as folder:
        source = os.path.join(folder, os.path.basename(part))
        whole = save(content, source)
        compare(whole, reference)
        samples, _ = calibration_samples(whole, calibration)
        images = prepared_images(whole, samples, number)
        return measure(whole, save(quantize(source, images), part), reference, calibration, len(images))


def format_of(path: str | os.PathLike, format: str | None = None) -> str:
    """The format of a file to write, which its name has to fit.

    Raises:
        ValueError: An unknown format or ending, or an ending of another format.
    """
    if format is not None and format not in FORMATS:
        raise ValueError(f'format must be one of {", ".join(FORMATS)}, got {format!r}.')
    suffix = os.path.splitext(path)[1].lower()
    fitting = [name for name, suffixes in FORMATS.items() if suffix in suffixes and format in (None, name)]
    if not fitting:
        endings = FORMATS[format] if format else [suffix for suffixes in FORMATS.values() for suffix in suffixes]
        kind = f'a file of {format}' if format else 'an exported file'
        raise ValueError(f'The name of {kind} must end in {" or ".join(endings)}, got {os.fspath(path)!r}.')
    return fitting[0]


class _Shipped(nn.Module):
    """From images as a file takes them to what it returns."""
    factor: torch.Tensor
    offset: torch.Tensor

    def __init__(
            self, network: nn.Module, description: DataDescription, normalize: bool, stride: int,
            argmax: bool = False, half: bool = False) -> None:
        super().__init__()
        self.network, self.normalize, self.stride, self.argmax, self.half_precision = (
            network, normalize, stride, argmax, half)
        mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (description.mean, description.std))
        low, high = description.value_range
        self.register_buffer('factor', (high - low) / 255 / std)
        self.register_buffer('offset', (low - mean) / std)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = images.float() * self.factor + self.offset if self.normalize else images
        if self.half_precision:
            x = x.half()
        height, width = x.shape[-2], x.shape[-1]
        if self.stride > 1:  # ONNX divides towards zero: whole numbers stay positive
            rows, columns = ((self.stride - length % self.stride) % self.stride for length in (height, width))
            x = F.pad(x, (0, columns, 0, rows))
        x = self.network(x)
        if self.stride > 1:
            x = cut(x, (height, width))
        x = x.float()
        if not self.argmax:
            return x
        return (x[:, 0] > 0 if x.shape[1] == 1 else x.argmax(1)).to(torch.uint8)


def _single_output(model: nn.Module, scale: int | None) -> nn.Module:
    """A copy of the network in evaluation mode that returns one tensor, without what does not take part in it."""
    network = copy.deepcopy(model).cpu().float().eval()
    unet = network.unet if isinstance(network, ReXDepth) else network
    if isinstance(unet, MultiScaleUnet):
        if scale is not None:
            unet.prune_to_scale(scale)
        unet.drop_heads()
    elif scale is not None:
        raise ValueError(
            f'scale cuts the multi-scale U-Net, and {type(model).__name__} has no scales, got scale={scale}: leave it '
            'out.')
    if unet is not network:
        return nn.Sequential(unet, nn.Sigmoid())
    if getattr(network, 'classification_head', None) is not None and isinstance(network, smp.base.SegmentationModel):
        network.classification_head = None  # a second output of SMP's models
    return network


def _check_int8(
        format: str, description: DataDescription, half: bool, calibration: str | os.PathLike | None, number: int,
) -> None:
    require_int8(format, description.task)
    if half:
        raise ValueError('int8 and half exclude each other: leave one of them out.')
    if calibration is None:
        raise ValueError(
            "int8 needs calibration, the folder of data whose split 'train' tells the ranges of activations: pass it, "
            'or leave int8 out.')
    if number < 1:
        raise ValueError(f'num_calibration_images must be at least 1, got {number}.')


def _check_argmax(model: nn.Module, num_classes: int) -> None:
    if isinstance(model, ReXDepth):
        raise ValueError('argmax chooses a class, and a depth network has none: leave it out.')
    if num_classes > 256:
        raise ValueError(f'argmax gives classes as uint8, at most 256, and there are {num_classes}: leave it out.')
    activations = [module.activation for module in model.modules() if isinstance(module, smp.base.modules.Activation)]
    if num_classes == 1 and not all(isinstance(activation, nn.Identity) for activation in activations):
        raise ValueError(
            'argmax takes the logits above 0 of a binary mask, and this network has an activation over them: leave '
            'argmax out, or build the network without an activation.')


def _metadata(
        description: DataDescription, normalize: bool, output: str, num_classes: int, size: Sequence[int] | None,
) -> dict[str, str]:
    told: Any = nn.Module()
    told.num_classes = num_classes
    describe(told, description)
    values = {
        'description': description.without_places().to_dict(), 'class_names': told.class_names, 'colors': told.colors,
        'preprocessing': told.preprocessing, 'takes_uint8': normalize, 'output': output, 'num_classes': num_classes,
        'size': None if size is None else list(size)}
    return {name: json.dumps(value) for name, value in values.items()}


def _files(metadata: dict[str, str]) -> dict[str, str]:
    return {f'{name}.json': text for name, text in metadata.items()}


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporters tell of their own work."""
    loggers = [logging.getLogger(name) for name in ('onnx_ir', 'onnxscript', 'torch.onnx')]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _dims(size: Sequence[int] | None) -> dict[int, str]:
    """The free dimensions of the images."""
    return {0: 'batch'} if size is not None else {0: 'batch', 2: 'height', 3: 'width'}


def _trace(shipped: nn.Module, example: torch.Tensor, size: Sequence[int] | None) -> torch.export.ExportedProgram:
    # DYNAMIC is an error where the network does not leave the dimension free
    dims = dict.fromkeys(_dims(size), torch.export.Dim.DYNAMIC)
    with _any_size(size), torch.no_grad():
        return torch.export.export(shipped, (example,), dynamic_shapes=(dims,), strict=False)


@contextmanager
def _any_size(size: Sequence[int] | None) -> Iterator[None]:
    """Tells what to do about a network that refuses any size, which each does by an error of its own."""
    try:
        yield
    except Exception as error:
        if size is not None:
            raise
        raise ValueError(
            f'The network cannot be exported for any size ({first_lines(error, 1)}): pass size, the height and width '
            'that it is used with.') from error


def _onnx(
        shipped: nn.Module, example: torch.Tensor, size: Sequence[int] | None, output: str, metadata: dict[str, str],
) -> bytes:
    return onnx_model(_trace(shipped, example, size), _dims(size), output, metadata).SerializeToString()


def _torch_export(
        shipped: nn.Module, example: torch.Tensor, size: Sequence[int] | None, metadata: dict[str, str]) -> bytes:
    content = io.BytesIO()
    torch.export.save(_trace(shipped, example, size), content, extra_files=_files(metadata))
    return content.getvalue()


def _torchscript(shipped: nn.Module, example: torch.Tensor, metadata: dict[str, str]) -> bytes:
    content = io.BytesIO()
    with torch.no_grad():
        traced = torch.jit.trace(shipped, example, check_trace=False)  # the check is ours
    torch.jit.save(traced, content, _extra_files=_files(metadata))
    return content.getvalue()


def _save(content: bytes, part: str, path: str | os.PathLike) -> None:
    try:
        with open(part, 'wb') as file:
            file.write(content)
    except OSError as error:  # which names no file where the disk is full
        raise OSError(error.errno, error.strerror, os.fspath(path)) from error


def _save_openvino(
        model: 'openvino.Model', part: str, path: str | os.PathLike, metadata: dict[str, str], half: bool) -> None:
    import openvino

    for name, text in metadata.items():
        model.set_rt_info(text, ['rexnet_timm', name])
    try:
        openvino.save_model(model, part, compress_to_fp16=half)
    except RuntimeError as error:
        raise ValueError(f'OpenVINO cannot write {os.fspath(path)!r}: {first_lines(error, 1)}') from error
