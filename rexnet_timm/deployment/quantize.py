"""Exported files in int8, quantised after training: OpenVINO's by NNCF, ONNX by onnxruntime's static quantiser.

Weights are int8, symmetric and a scale for each output channel; activations are 8 bits with the range that they have on
calibration images. An int8 file cannot equal its network, so that it is measured instead: its score beside that of the
float32 file on images that it was not calibrated on, the share of pixels with the network's class, and its time.
"""
import logging
import os
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn as nn

from .evaluate import evaluate
from .exported import ExportedNetwork, require
from .load import description_of
from .parity import agreement
from .runners import FINEST, RUNNERS
from .samples import Samples, samples_of
from .timing import time_in_turns

if TYPE_CHECKING:
    import openvino

__all__ = [
    'CALIBRATED', 'MEASURED', 'Int8Report', 'calibration_samples', 'measure', 'prepared_images', 'quantize',
    'require_int8']

CALIBRATED, MEASURED = 'train', 'val'  # the splits
FORMATS = ('onnx', 'openvino')
SCORES = {'segmentation': ('mIoU', 'miou'), 'classification': ('top-1', 'top1')}
AGREEMENT = 0.9  # share of pixels, or of images, that must have the network's class
NUM_COMPARED = 128  # images, for the agreement
ROUNDS = 10


@dataclass(frozen=True)
class Int8Report:
    """An int8 file beside the float32 one and the network.

    Attributes:
        score: What was measured, 'mIoU' or 'top-1'.
        before, after: It in percent, of the float32 file and of the int8 file.
        calibrated: Images of the training split that the ranges are from.
        measured: Images of the validation split that the scores are from.
        agreement: Share of the pixels of up to 128 of these images, or of the images, with the class that the network
            gives, from 0 to 1.
        size: Height and width at which time was measured, that of the first image.
        threads: Threads that both ran in.
        float_ms, int8_ms: Medians of the milliseconds of one image, taken in turn.
    """
    score: str
    before: float
    after: float
    calibrated: int
    measured: int
    agreement: float
    size: tuple[int, int]
    threads: int
    float_ms: float
    int8_ms: float


def require_int8(format: str, task: str) -> None:
    """Raise ValueError unless int8 files of a format can be written here, for a task."""
    if format not in FORMATS:
        raise ValueError(f'int8 is for {" and ".join(FORMATS)}, got the format {format}: take one of them.')
    if task not in SCORES:
        raise ValueError(f'int8 is for {" and ".join(SCORES)}, and the model is for {task}: leave it out.')
    with _without_reports():
        require(f'int8 {format}', format)


def calibration_samples(model: nn.Module, folder: str | os.PathLike) -> list[Samples]:
    """The samples of the two splits of a folder, checked against the model: to calibrate on and to measure on."""
    if not isinstance(folder, (str, os.PathLike)):
        raise ValueError(
            f'calibration must be a folder with the splits {CALIBRATED} and {MEASURED}, got {type(folder).__name__}.')
    if not os.path.exists(folder):
        raise ValueError(
            f'calibration must be a folder with the splits {CALIBRATED}, to calibrate on, and {MEASURED}, to measure '
            f'on: {os.fspath(folder)!r} does not exist.')
    return [samples_of(model, description_of(model), folder, split) for split in (CALIBRATED, MEASURED)]


def prepared_images(network: ExportedNetwork, samples: Samples, number: int) -> list[Callable[[], np.ndarray]]:
    """Calls that each give an image (1, C, H, W) as the file takes it, spread over all samples."""
    runner = RUNNERS[network.description.task](network, network.description, False, (FINEST,), None)
    number = min(number, len(samples))
    indices = [index * len(samples) // number for index in range(number)]
    return [lambda index=index: runner.stack([samples[index][1]]).numpy() for index in indices]


def quantize(source: str, images: Sequence[Callable[[], np.ndarray]]) -> 'bytes | openvino.Model':
    """The int8 form of an exported float32 file.

    Args:
        source: The file, of ONNX or OpenVINO.
        images: Calls that each give a batch of images as the file takes them.

    Returns:
        The content of an ONNX file, with the metadata of `source`, or a model of OpenVINO.
    """
    with _quiet():
        return (_quantize_openvino if source.endswith('.xml') else _quantize_onnx)(source, images)


def measure(
        whole: ExportedNetwork,
        int8: ExportedNetwork,
        reference: Callable[[torch.Tensor], torch.Tensor],
        folder: str | os.PathLike,
        calibrated: int,
) -> Int8Report:
    """An int8 file beside the float32 one on the validation split of a folder.

    Args:
        whole: The float32 file.
        int8: The int8 file.
        reference: The network, from images as the files take them to logits.
        folder: Where the split is.
        calibrated: Number of images that it was calibrated on.

    Raises:
        ValueError: Fewer than `AGREEMENT` of the pixels have the network's class.
    """
    task = whole.description.task
    samples = samples_of(whole, whole.description, folder, MEASURED)
    equal = agreement(int8, reference, (torch.from_numpy(image()) for image in prepared_images(
        whole, samples, NUM_COMPARED)))
    if not equal >= AGREEMENT:
        what = 'pixels' if task == 'segmentation' else 'images'
        raise ValueError(
            f'The quantised file must have the class of the network at {AGREEMENT:.0%} of the {what} at least, and has '
            f'it at {equal:.1%} of those of {MEASURED} in {os.fspath(folder)}. It is not kept: raise '
            'num_calibration_images, train for longer, or leave out int8.')
    name, key = SCORES[task]
    before, after = (evaluate(network, folder, MEASURED, batch_size=1)[key] for network in (whole, int8))
    image = torch.from_numpy(prepared_images(whole, samples, 1)[0]())
    seconds = time_in_turns({False: lambda: whole(image), True: lambda: int8(image)}, ROUNDS)
    float_ms, int8_ms = (1e3 * statistics.median(seconds[which]) for which in (False, True))
    return Int8Report(
        name, before, after, calibrated, len(samples), equal, (image.shape[-2], image.shape[-1]),
        torch.get_num_threads(), float_ms, int8_ms)


@contextmanager
def _without_reports() -> Iterator[None]:
    """NNCF, where it is imported here first, tells nobody that and how it is used."""
    before = os.environ.get('NNCF_CI')
    os.environ['NNCF_CI'] = '1'  # its switch for that, read at its import
    try:
        yield
    finally:
        if before is None:
            del os.environ['NNCF_CI']
        else:
            os.environ['NNCF_CI'] = before


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the quantisers print and log of their own work."""
    level = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with open(os.devnull, 'w') as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
            yield
    finally:
        logging.disable(level)


def _quantize_openvino(source: str, images: Sequence[Callable[[], np.ndarray]]) -> 'openvino.Model':
    with _without_reports():
        import nncf
    import openvino

    return nncf.quantize(
        openvino.Core().read_model(source), nncf.Dataset(images, lambda image: image()), subset_size=len(images),
        target_device=nncf.TargetDevice.CPU,
        # enlarging the logits is not worth their precision
        ignored_scope=nncf.IgnoredScope(types=['GroupConvolutionBackpropData'], validate=False))


def _quantize_onnx(source: str, images: Sequence[Callable[[], np.ndarray]]) -> bytes:
    import onnx
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quant_pre_process,
        quantize_static,
    )

    model = onnx.load(source)
    name = model.graph.input[0].name

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.images = iter(images)

        def get_next(self) -> dict[str, np.ndarray] | None:
            image = next(self.images, None)
            return None if image is None else {name: image()}

    with TemporaryDirectory() as folder:
        prepared, target = (os.path.join(folder, f'{part}.onnx') for part in ('prepared', 'int8'))
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared, target, Reader(), QuantFormat.QDQ, per_channel=True, activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8)
        quantized = onnx.load(target)
    onnx.helper.set_model_props(quantized, {entry.key: entry.value for entry in model.metadata_props})
    return quantized.SerializeToString()
