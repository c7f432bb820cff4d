"""Exported files, run as networks: ONNX in onnxruntime, OpenVINO, torch.export and TorchScript.

A file carries what `export` knew of the network and of its data, so that it is used like the network itself.
"""
import importlib
import inspect
import os
import warnings
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn as nn

from ..archives import ArchiveError
from ..data.description import DataDescription
from ..errors import first_lines
from ..plain_text import load_json
from .exported_check import check_torch_export, check_torchscript
from .load import describe

__all__ = ['FORMATS', 'METADATA', 'ExportedNetwork', 'is_exported', 'load_exported', 'require']

# The endings of the names of each format's files, the usual one first
FORMATS = {'onnx': ('.onnx',), 'openvino': ('.xml',), 'torch-export': ('.pt2',), 'torchscript': ('.ts', '.pt')}
# What a file says of itself, each value in JSON: in ONNX's metadata_props, in OpenVINO's rt_info below 'rexnet_timm',
# in torch's extra files as NAME.json
METADATA = (
    'description',  # of the data, as `DataDescription.to_dict` gives it
    'class_names', 'colors', 'preprocessing',  # of it what other programs need
    'takes_uint8', 'output', 'num_classes', 'size')
PACKAGES = {
    'onnx': ('onnxruntime',), 'openvino': ('openvino',),
    'write onnx': ('onnx', 'onnxscript', 'onnxruntime'), 'write openvino': ('onnx', 'onnxscript', 'openvino'),
    'int8 onnx': ('onnxruntime.quantization',), 'int8 openvino': ('nncf',)}
SMALLEST = 32

Run = Callable[[torch.Tensor], torch.Tensor]


class ExportedNetwork(nn.Module):
    """A network in a file, called like the network that it was exported from.

    It runs on the CPU with as many threads as torch, and gives its output on the device of the images.

    Args:
        run: From images on the CPU to the output.
        metadata: What the file says of itself: the values of `METADATA` by name.

    Attributes:
        takes_uint8: Whether images are uint8, from 0 to 255, and are normalised in the file. Otherwise they are
            float32, normalised as `preprocessing` says.
        output: 'logits' (N, num_classes, H, W), or (N, num_classes) of a classifier; 'classes', uint8 (N, H, W) or
            (N,); or 'disparity' (N, 1, H, W) from 0 to 1.
        returns_classes: Whether `output` is 'classes'.
        num_classes: Channels of the logits; 1 is a binary mask.
        size: The height and width that the file is made for, None for any of at least 32.
        description: What is known of the data, a `DataDescription`; of it `class_names`, `colors`, `preprocessing` and
            `ignore_index`, as :func:`rexnet_timm.load_model` gives them.
    """

    requires_divisible_input_shape = False  # what the network needs is done in the file

    def __init__(self, run: Run, metadata: Mapping[str, Any]) -> None:
        super().__init__()
        self._run = run
        self.takes_uint8 = bool(metadata['takes_uint8'])
        self.output = metadata['output']
        self.returns_classes = self.output == 'classes'
        self.num_classes = metadata['num_classes']
        self.size = tuple(metadata['size']) if metadata['size'] else None
        describe(self, DataDescription.from_dict(metadata['description'])).eval()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """The output for images.

        Args:
            images: (N, in_chans, H, W), uint8 or float32 as `takes_uint8` says.

        Returns:
            The output, as `output` says.

        Raises:
            ValueError: Images of another type, number of channels or size.
        """
        channels = self.description.in_chans
        if images.ndim != 4 or images.shape[1] != channels:
            raise ValueError(f'Images must be (N, {channels}, H, W), got {tuple(images.shape)}.')
        if self.takes_uint8 and images.dtype != torch.uint8:
            raise ValueError(
                f'The file normalises images itself and takes uint8 from 0 to 255, got {images.dtype}: pass the pixels '
                'as they are.')
        if not self.takes_uint8 and not images.is_floating_point():
            raise ValueError(f'The file takes normalised float images, got {images.dtype}: apply its preprocessing.')
        size = tuple(images.shape[-2:])
        if self.size is not None and size != self.size:
            raise ValueError(
                f'The file is made for images of {self.size[0]} x {self.size[1]} only, got {size[0]} x {size[1]}: '
                'resize them, or export it for any size.')
        if min(size) < SMALLEST:
            raise ValueError(f'Images must be at least 32 x 32, got {size[0]} x {size[1]}: enlarge or pad them.')
        dtype = torch.uint8 if self.takes_uint8 else torch.float32
        output = self._run(images.detach().to('cpu', dtype).contiguous())
        if output.shape[0] != images.shape[0] or (output.ndim > 2 and tuple(output.shape[-2:]) != size):
            raise RuntimeError(f'The file returned {tuple(output.shape)} for images {tuple(images.shape)}.')
        return output.to(images.device)


def is_exported(path: str | os.PathLike) -> bool:
    """Whether a file is an exported one, by its name; of a .pt file, which may hold weights, by its content."""
    suffix = os.path.splitext(path)[1].lower()
    if suffix == '.pt':
        if not zipfile.is_zipfile(path):
            return False
        with zipfile.ZipFile(path) as archive:
            return any(os.path.basename(name) == 'constants.pkl' for name in archive.namelist())
    return any(suffix in suffixes for suffixes in FORMATS.values())


def load_exported(path: str | os.PathLike) -> ExportedNetwork:
    """The network in a file of :func:`rexnet_timm.export`.

    Args:
        path: Ends in .onnx, in .xml (OpenVINO, with the .bin file beside it), in .pt2 (torch.export), or in .ts or .pt
            (TorchScript).

    Raises:
        FileNotFoundError: No such file.
        ValueError: Another ending, a missing package, a damaged file, or one that `export` did not write.
    """
    path = os.fspath(path)
    suffix = os.path.splitext(path)[1].lower()
    formats = [name for name, suffixes in FORMATS.items() if suffix in suffixes]
    if not formats:
        endings = ', '.join(suffix for suffixes in FORMATS.values() for suffix in suffixes)
        raise ValueError(f'The name of an exported file must end in {endings}, got {path!r}.')
    weights = f'{os.path.splitext(path)[0]}.bin'
    for file in (path, weights) if formats[0] == 'openvino' else (path,):
        if not os.path.isfile(file):
            raise FileNotFoundError(f'There is no file {file!r}, which an exported network is loaded from.')
    require(formats[0], formats[0])
    load = {
        'onnx': _load_onnx, 'openvino': _load_openvino, 'torch-export': _load_torch_export,
        'torchscript': _load_torchscript}[formats[0]]
    try:
        run, texts = load(path)
    except ArchiveError as error:
        raise ValueError(
            f'A file of {formats[0]} must only compute, and {path!r} {error}: take it from somebody whose programs you '
            'would run, or export the network again.') from error
    except (RuntimeError, ValueError, KeyError, zipfile.BadZipFile) as error:  # onnxruntime's errors are of these too
        raise ValueError(f'{path!r} is no file of {formats[0]}, or is damaged: {first_lines(error, 1)}') from error
    if not all(texts.get(name) for name in METADATA):
        raise ValueError(
            f'{path!r} does not say what its network takes and returns, as a file of rexnet_timm.export does: export '
            'the network again.')
    try:
        return ExportedNetwork(run, {name: load_json(texts[name]) for name in METADATA})
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f'{path!r} tells wrongly what its network takes and returns ({first_lines(error, 1)}): export the network '
            'again.') from error


def require(task: str, format: str) -> None:
    """Raise ValueError unless the packages for a task of `PACKAGES` are installed."""
    missing = []
    for package in PACKAGES.get(task, ()):
        try:
            importlib.import_module(package)
        except ImportError:
            missing.append(package)
    if missing:
        raise ValueError(
            f"Files of {format} need {' and '.join(missing)}, which cannot be imported here: "
            "pip install 'rexnet-timm[export]'")


def _load_onnx(path: str) -> tuple[Run, dict[str, str]]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        session = onnxruntime.InferenceSession(path, options, providers=['CPUExecutionProvider'])
    except Exception as error:  # its classes of errors have no public names
        raise ValueError(first_lines(error, 1)) from error
    name = session.get_inputs()[0].name

    def run(images: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(session.run(None, {name: images.numpy()})[0])

    return run, session.get_modelmeta().custom_metadata_map


def _load_openvino(path: str) -> tuple[Run, dict[str, str]]:
    import openvino

    core = openvino.Core()
    model = core.read_model(path)
    # some CPUs would compute in bfloat16 or float16
    settings = {'INFERENCE_PRECISION_HINT': 'f32', 'INFERENCE_NUM_THREADS': torch.get_num_threads()}
    request = core.compile_model(model, 'CPU', settings).create_infer_request()

    def run(images: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(request.infer([images.numpy()], share_outputs=False)[0])

    return run, {
        name: model.get_rt_info(['rexnet_timm', name]).astype(str) for name in METADATA
        if model.has_rt_info(['rexnet_timm', name])}


def _load_torch_export(path: str) -> tuple[Run, dict[str, str]]:
    check_torch_export(path)
    files = {f'{name}.json': '' for name in METADATA}
    program = torch.export.load(path, extra_files=files)
    # its guards refuse sizes at which a map has one pixel only; the program itself takes them
    unguarded = 'check_guards' in inspect.signature(program.module).parameters  # from torch 2.9 on
    module = program.module(check_guards=False) if unguarded else program.module()

    def run(images: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return module(images)

    return run, _without_ending(files)


def _load_torchscript(path: str) -> tuple[Run, dict[str, str]]:
    check_torchscript(path)
    files = {f'{name}.json': '' for name in METADATA}
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', FutureWarning)  # that torch.export is to be taken instead
        module = torch.jit.load(path, map_location='cpu', _extra_files=files)

    def run(images: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return module(images)

    return run, _without_ending(files)


def _without_ending(files: Mapping[str, str | bytes]) -> dict[str, str]:
    return {
        name.removesuffix('.json'): text.decode() if isinstance(text, bytes) else text for name, text in files.items()}
