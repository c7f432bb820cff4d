"""Trained models, rebuilt from what a run or a saved folder holds."""
import io
import logging
import os
from collections.abc import Mapping
from contextlib import redirect_stdout
from typing import Any

import segmentation_models_pytorch as smp
import timm
import torch
import torch.nn as nn
from huggingface_hub import snapshot_download

from ..archives import ArchiveError, check_saved
from ..data.description import DataDescription
from ..errors import first_lines
from ..extensions import NotImportedError, missing_of
from ..files import load_checkpoint_file
from ..models.depth import ReXDepth
from ..models.factory import create_network, imports_of, network_of
from ..models.weights import load_weights
from ..plain_text import load_json

__all__ = ['HUB', 'IMPORTS', 'SAVED', 'describe', 'description_of', 'load_model']

_logger = logging.getLogger(__name__)

CHECKPOINTS = ('model_best.pth.tar', 'last.pth.tar')  # of a run's folder, the best first
HUB = 'hf-hub:'
# SMP leaves out names with an underscore when it builds from its configuration
SAVED, IMPORTS = '_description', '_imports'


def load_model(source: str | os.PathLike, device: str | torch.device = 'cpu') -> nn.Module:
    """A trained model with what it knows of its data, in evaluation mode.

    The weights of a checkpoint are its moving average where it holds one, as `files.unwrap` says.

    Args:
        source: The folder of a run, of which the best checkpoint is taken, a checkpoint in it, a folder of
            `save_pretrained` or of timm's `save_for_hf`, 'hf-hub:USER/NAME', or a file of :func:`rexnet_timm.export`
            (.onnx, .xml, .pt2, .ts, .pt).
        device: Device of the model; an exported file runs on the CPU, whatever the device of the images is.

    Returns:
        The model, of any kind that `rexnet train` trains, with the attributes `description` (`DataDescription`),
        `class_names`, `colors`, `preprocessing` and `ignore_index`; see :func:`describe`. An exported file comes as an
        `ExportedNetwork`, whose `takes_uint8`, `output` and `size` say how it is called.

    Raises:
        FileNotFoundError: No such file or folder.
        ValueError: A folder or file without a model, or weights that do not fit the network.
    """
    name = os.fspath(source)
    if name.startswith(HUB):
        folder = snapshot_download(name.removeprefix(HUB), allow_patterns=['*.json', '*.safetensors', '*.bin'])
        return _from_folder(folder, name).to(device)
    if os.path.isdir(name):
        checkpoints = [path for path in (os.path.join(name, file) for file in CHECKPOINTS) if os.path.isfile(path)]
        model = _from_checkpoint(checkpoints[0]) if checkpoints else _from_folder(name, name)
        return model.to(device)
    from .exported import is_exported, load_exported  # which takes `describe` from here
    if is_exported(name):
        return load_exported(name)
    return _from_checkpoint(name).to(device)


def describe(model: nn.Module, description: DataDescription) -> nn.Module:
    """Give a model what it knows of its data, which `save_pretrained` of SMP's models keeps; returns the model.

    Its attributes are then `description` itself, and of it `class_names` (list of str), `colors` (list of RGB),
    `ignore_index`, and `preprocessing`: a dict of 'in_chans', the number of channels; 'bands', their numbers in a file
    ([] for all); 'image_scale', by which values are divided, or the pairs of values that become 0 and 1; and 'mean' and
    'std' of each channel, of values that are then brought from 0 to 1 into 'value_range'.
    """
    scale = description.reading['scale']
    told: Any = model
    told.description = description
    told.class_names = list(description.class_names)
    told.colors = [tuple(color) for color in description.palette(max(2, _num_classes(model))).tolist()]
    told.ignore_index = description.ignore_index
    told.preprocessing = {
        'mean': list(description.mean), 'std': list(description.std), 'value_range': list(description.value_range),
        'in_chans': description.in_chans, 'bands': list(description.bands),
        'image_scale': [list(pair) for pair in scale] if isinstance(scale, tuple) else scale}
    if isinstance(model, smp.base.SegmentationModel):
        model.config[SAVED] = description.to_dict()
        imports = imports_of(type(model), model.config)
        if imports:
            model.config[IMPORTS] = imports
    return model


def description_of(model: nn.Module) -> DataDescription:
    """What a model knows of its data: its own description, or what its configuration of timm tells."""
    description = getattr(model, 'description', None)
    return description if isinstance(description, DataDescription) else _default_description(model)


def _num_classes(model: Any) -> int:
    if hasattr(model, 'num_classes'):
        return model.num_classes
    return model.config['classes'] if isinstance(model, smp.base.SegmentationModel) else 1


def _default_description(model: nn.Module) -> DataDescription:
    config = getattr(model, 'pretrained_cfg', None) or {}
    task = 'depth' if isinstance(model, ReXDepth) else (
        'segmentation' if isinstance(model, smp.base.SegmentationModel) else 'classification')
    known = {name: config[name] for name in ('mean', 'std', 'crop_pct', 'interpolation') if config.get(name)}
    if task != 'classification':
        known.pop('interpolation', None)
    if isinstance(model, smp.base.SegmentationModel):
        in_chans = model.config.get('in_channels', 3)
    else:
        in_chans = getattr(model, 'in_chans', None) or (config.get('input_size') or (3,))[0]
    names = config.get('label_names') or ()
    return DataDescription(task=task, in_chans=in_chans, class_names=tuple(names), **known)


def _from_checkpoint(path: str) -> nn.Module:
    checkpoint = load_checkpoint_file(path)
    arguments = vars(checkpoint['args']) if hasattr(checkpoint.get('args'), '__dict__') else {}
    network = arguments.get('network')
    if network is None:
        network = _network_of_older(arguments)
        if network is None:
            raise ValueError(
                f'{path!r} holds weights and does not say of which network: build the network, and load them into it '
                'with rexnet_timm.models.weights.load_weights(model, path).')
        _logger.warning(
            '%s was written by an earlier release: names of classes, colours, mean and std of its images are missing, '
            'and defaults are taken for them.', path)
    try:
        # with room for parts that are replaced while it is built, and for files of half precision
        model = create_network(network, 4 * os.path.getsize(path) + 2 ** 22)
    except NotImportedError as error:
        raise NotImportedError(error.modules, error.reason, repr(path)) from error
    except (ValueError, TypeError) as error:
        raise ValueError(f'{path!r} does not tell a network that can be built: {first_lines(error, 1)}') from error
    load_weights(model, path)
    saved = arguments.get('description')
    return describe(model, DataDescription.from_dict(saved) if saved else _default_description(model)).eval()


def _network_of_older(arguments: Mapping[str, Any]) -> dict[str, Any] | None:
    """The network of a checkpoint that holds only the options of its run."""
    name = arguments.get('model')
    if not isinstance(name, str) or ':' in name:
        return None
    given = {
        model_name: arguments.get(option) for option, model_name in (
            ('rex_width_mult', 'width_mult'), ('rex_depth_mult', 'depth_mult'), ('scales', 'scales'))}
    given.update(arguments.get('model_kwargs') or {})
    classes, in_chans = arguments.get('num_classes'), arguments.get('in_chans')
    if name.lower() in smp.MODEL_ARCHITECTURES_MAPPING:
        return network_of('smp', name.lower(), {
            'encoder_name': arguments.get('encoder_name'), 'in_channels': in_chans or 3,
            'classes': classes or 1, **given})
    return network_of('timm', name.split('.')[0], {'in_chans': in_chans, 'num_classes': classes, **given})


def _runs_in(folder: str) -> str:
    """The part of an error that names the runs in a folder of runs, the newest first."""
    runs = [entry for entry in os.scandir(folder) if entry.is_dir() and any(
        os.path.isfile(os.path.join(entry, file)) for file in CHECKPOINTS)]
    paths = [entry.path for entry in sorted(runs, key=lambda entry: entry.stat().st_mtime, reverse=True)]
    return f', but holds runs: take {" or ".join(map(repr, paths[:3]))}' if paths else ''


def _from_folder(folder: str, name: str) -> nn.Module:
    """The model of a folder that `save_pretrained` or `save_for_hf` wrote; `name` is what the user calls it."""
    path = os.path.join(folder, 'config.json')
    if not os.path.isfile(path):
        raise ValueError(
            f'A model is loaded from the folder of a run, with {" or ".join(CHECKPOINTS)}, or from one of '
            f'save_pretrained, with config.json; {name!r} has neither{_runs_in(folder)}.')
    config = None
    try:
        with open(path, encoding='utf-8') as file:
            config = load_json(file.read())
        for entry in os.listdir(folder):
            if entry.endswith(('.bin', '.pt', '.pth')):  # which SMP and timm would read
                check_saved(os.path.join(folder, entry))
        if '_model_class' in config:
            with redirect_stdout(io.StringIO()):  # on which the Hub's client tells where the weights come from
                model = smp.from_pretrained(folder)
        elif 'architecture' in config:
            model = timm.create_model(f'local-dir:{folder}', pretrained=True)
        else:
            raise ValueError('it names no model')
    except (ArchiveError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        missing = missing_of(config.get(IMPORTS)) if isinstance(config, dict) else []
        if missing:
            raise NotImportedError(missing, first_lines(error, 1), repr(name)) from error
        raise ValueError(f'{name!r} cannot be loaded by its config.json: {first_lines(error, 1)}') from error
    saved = config.get(SAVED)
    return describe(model, DataDescription.from_dict(saved) if saved else _default_description(model)).eval()
