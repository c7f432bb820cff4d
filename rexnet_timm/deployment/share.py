"""Trained models as folders for others: weights, configuration, model card and scores, uploaded where asked for.

The folder is written by SMP's `save_pretrained` or timm's `save_for_hf`, so that these libraries read it too; a U-Net
of a timm name has the configuration of both.
"""
import errno
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import segmentation_models_pytorch as smp
import torch
import torch.nn as nn
from huggingface_hub import HfApi
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from safetensors import SafetensorError
from timm.models import is_model, model_entrypoint, save_for_hf

from ..data.description import DataDescription
from ..errors import first_lines
from ..models.card import create_model_card
from ..models.factory import imports_of
from ..plain_text import load_json
from ..version import __version__
from .exported import ExportedNetwork
from .load import HUB, IMPORTS, SAVED, describe, description_of, load_model
from .results import EXAMPLE, RESULTS

__all__ = ['FILES', 'share']

CARD, CONFIG, WEIGHTS = 'README.md', 'config.json', 'model.safetensors'
FILES = (CARD, CONFIG, WEIGHTS, RESULTS, EXAMPLE)  # that a folder may have
# What of the arguments of a run others are told, and what more by the task: nothing that holds a place on the disk
TOLD = (
    'model', 'encoder_name', 'encoder_weights', 'pretrained', 'rex_width_mult', 'rex_depth_mult', 'img_size',
    'input_size', 'batch_size', 'grad_accum_steps', 'epochs', 'opt', 'opt_args', 'lr', 'weight_decay', 'sched',
    'warmup_epochs', 'min_lr', 'model_ema', 'amp', 'seed')
TOLD_OF_TASK = {
    'segmentation': ('scales', 'scale_weights', 'scale_target', 'seg_loss', 'class_weights', 'ignore_index',
                     'bands', 'rotation', 'elastic', 'class_balanced_crops'),
    'depth': ('scales', 'scale_weights', 'min_depth', 'max_depth', 'smoothness'),
    'classification': ('smoothing', 'mixup', 'cutmix', 'aa', 'reprob', 'bce_loss')}


def share(
        model: nn.Module,
        folder: str | os.PathLike,
        *,
        results: str | os.PathLike | None = None,
        with_picture: bool = True,
        dataset: str | None = None,
        training: Mapping[str, Any] | None = None,
        usage: str = '',
        license: str | None = None,
        repo_id: str | None = None,
        private: bool | None = None,
        overwrite: bool = False,
) -> list[str]:
    """Write a model into a folder of its own, with a card that tells what it is, and upload it where asked for.

    `rexnet_timm.load_model(folder)` gives it back; so do `segmentation_models_pytorch.from_pretrained(folder)` for
    networks of SMP and `timm.create_model('local-dir:' + folder, pretrained=True)` for those of a timm name, once
    `rexnet_timm` is imported. The folder is read back before it is kept.

    Args:
        model: A model of `load_model`, on any device.
        folder: Where to write; it is made. Other files in it stay, and are not uploaded.
        results: results.json of a validation, or the folder with it: scores for the card.
        with_picture: Whether the example.png beside `results`, if there is one, goes along: an image of the
            validation with its truth and prediction.
        dataset: Name of the data that it was trained on.
        training: Arguments of its training, as a run's args.yaml has them. Those that hold paths are left out.
        usage: Further Markdown for the card's section on how it is used; FOLDER in it becomes the name of the model.
        license: The Hub's name of the licence of the weights ('mit', 'cc-by-nc-4.0'), which the data of the training
            may decide; None names none.
        repo_id: Repository on the Hub to upload to, 'USER/NAME', which is made where there is none. None uploads
            nothing. The client of the Hub finds the token that `hf auth login` left, or that of HF_TOKEN.
        private: Whether a new repository is private; None is the Hub's default.
        overwrite: Whether files of the same names may be replaced.

    Returns:
        The names of the files written. Uploaded are these, and nothing else.

    Raises:
        OSError: The folder cannot be written.
        ValueError: A model that neither library saves or rebuilds, files that exist, results that cannot be read or
            are of another model, a wrong `repo_id`, or an upload that failed; the folder is complete then.
    """
    folder = Path(folder)
    _check(model, folder, repo_id, overwrite)
    description = description_of(model).without_places()
    description.require_known_task()
    scores = None if results is None else _read_results(results, description)
    picture = None
    if results is not None and with_picture:
        beside = Path(results if os.path.isdir(results) else Path(results).parent, EXAMPLE)
        picture = beside if beside.is_file() else None
    made, part = not folder.exists(), os.fspath(folder)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with TemporaryDirectory(dir=folder, prefix='.') as part:
            _save(model, description, Path(part))
            if scores is not None:
                Path(part, RESULTS).write_text(json.dumps(scores, indent=2) + '\n', encoding='utf-8')
            if picture is not None:
                shutil.copyfile(picture, Path(part, EXAMPLE))
            card = create_model_card(
                model, dataset=dataset, results=scores, training=_told(training or {}, description.task) or None,
                picture=EXAMPLE if picture is not None else None, usage=usage, license=license,
                source=None if repo_id is None else f'{HUB}{repo_id}')
            card.save(Path(part, CARD))
            shutil.copymode(Path(part, CARD), Path(part, WEIGHTS))  # which safetensors writes for their owner alone
            _check_saved(model, part)
            written = [name for name in FILES if Path(part, name).is_file()]
            for name in written:
                os.replace(Path(part, name), folder / name)
            for name in set(FILES).difference(written):  # scores of the model that was there
                (folder / name).unlink(missing_ok=True)
    except OSError as error:
        if error.filename is not None and Path(part) not in Path(error.filename).parents:  # the picture's
            raise
        raise OSError(error.errno, error.strerror or first_lines(error, 1), os.fspath(folder)) from error
    finally:
        if made and not any(folder.iterdir()):
            folder.rmdir()
    if repo_id is not None:
        _upload(folder, written, repo_id, private)
    return written


def _check(model: nn.Module, folder: Path, repo_id: str | None, overwrite: bool) -> None:
    """Refuse before anything is written."""
    if isinstance(model, ExportedNetwork):
        raise ValueError('model must be a network, and this one is an exported file: load the checkpoint.')
    if not isinstance(model, smp.base.SegmentationModel) and not getattr(model, 'pretrained_cfg', None):
        raise ValueError(
            f'model must be one of timm or segmentation_models_pytorch, which save it, got {type(model).__name__}.')
    if folder.exists() and not folder.is_dir():
        raise ValueError(f'A folder is to be written, and {str(folder)!r} is a file: name another place.')
    there = [str(folder / name) for name in FILES if os.path.lexists(folder / name)]
    if there and not overwrite:
        raise ValueError(f'{there[0]!r} exists: pass overwrite to replace it, or another folder.')
    if repo_id is None:
        return
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ValueError(f"repo_id must be 'USER/NAME', got {repo_id!r}: {first_lines(error, 1)}") from error
    if repo_id.count('/') != 1:
        raise ValueError(f"repo_id must be 'USER/NAME', got {repo_id!r}.")


def _read_results(path: str | os.PathLike, description: DataDescription) -> dict[str, Any]:
    path = os.path.join(path, RESULTS) if os.path.isdir(path) else os.fspath(path)
    try:
        with open(path, encoding='utf-8') as file:
            results = load_json(file.read())
    except ValueError as error:
        raise ValueError(f'Results must be the {RESULTS} of a validation, and {path!r} is no JSON.') from error
    if not isinstance(results, dict) or not {'task', 'split', 'images'} <= results.keys():
        raise ValueError(f'Results must be the {RESULTS} of a validation, and {path!r} is another file.')
    if results['task'] != description.task:
        raise ValueError(
            f'Results must be those of the model, of {description.task}, and {path!r} is of {results["task"]}: '
            'validate this model.')
    names = list(description.class_names)
    if names and results.get('class_names', names) != names:
        raise ValueError(f'Results must be those of the model, and {path!r} names other classes: validate this model.')
    return results


def _save(model: nn.Module, description: DataDescription, folder: Path) -> None:
    """Weights and configuration, in the form of SMP, of timm, or of both."""
    describe(model, description)  # which SMP's configuration keeps
    try:
        if getattr(model, 'pretrained_cfg', None):
            _save_for_timm(model, description, folder)
        if isinstance(model, smp.base.SegmentationModel):
            config = folder / CONFIG
            timms = json.loads(config.read_text(encoding='utf-8')) if config.is_file() else {}
            model.save_pretrained(folder)
            own = json.loads(config.read_text(encoding='utf-8'))
            config.write_text(json.dumps({**timms, **own}, indent=2) + '\n', encoding='utf-8')
    except SafetensorError as error:  # of a disk that is full, too
        raise OSError(errno.EIO, first_lines(error, 1), os.fspath(folder / WEIGHTS)) from error


def _save_for_timm(model: nn.Module, description: DataDescription, folder: Path) -> None:
    timms: Any = model
    low, high = description.value_range
    own_size = tuple((timms.pretrained_cfg.get('input_size') or (3, 224, 224))[1:])
    data = {
        'mean': tuple((value - low) / (high - low) for value in description.mean),
        'std': tuple(value / (high - low) for value in description.std), 'crop_pct': description.crop_pct,
        'input_size': (description.in_chans, *(description.input_size or own_size)),
        'interpolation': description.interpolation}
    more: dict[str, Any] = {SAVED: description.to_dict()}
    if description.class_names and description.task == 'classification':
        more['label_names'] = list(description.class_names)
    architecture = timms.pretrained_cfg.get('architecture') or ''
    imports = imports_of(model_entrypoint(architecture) if is_model(architecture) else None, {})
    if imports:
        more[IMPORTS] = imports
    scales = {'scales': list(timms.scales)} if hasattr(model, 'scales') else None  # which may have been cut
    save_for_hf(
        model, os.fspath(folder), model_config=more, model_args=scales, safe_serialization=True, data_config=data)


def _check_saved(model: nn.Module, folder: str) -> None:
    """Raise ValueError unless what was saved gives the model back."""
    try:
        again = load_model(folder)
    except ValueError as error:
        reason = first_lines(error.__cause__ or error, 1)
        raise ValueError(
            f'The model cannot be rebuilt from its name and arguments ({reason}): share it as load_model gave it, not '
            'fused and not changed.') from error
    saved, own = again.state_dict(), model.state_dict()
    is_same = saved.keys() == own.keys() and all(
        torch.equal(saved[key].to(own[key].dtype), own[key].cpu()) for key in own)
    if not is_same or again.description != description_of(model):
        raise ValueError(
            'The model that is rebuilt from its name and arguments is another one: share it as load_model gave it, not '
            'fused and not changed.')


def _told(arguments: Mapping[str, Any], task: str) -> dict[str, Any]:
    """The arguments of a run that others are told: those that are set and hold no path."""
    return {
        name: arguments[name] for name in (*TOLD, *TOLD_OF_TASK[task])
        if arguments.get(name) not in (None, '', False, 0, [], {}) and not _holds_path(arguments[name])}


def _holds_path(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(map(_holds_path, value.values()))
    if isinstance(value, (list, tuple)):
        return any(map(_holds_path, value))
    return isinstance(value, str) and (':' in value or '/' in value or '\\' in value or value.startswith('~'))


def _upload(folder: Path, files: Sequence[str], repo_id: str, private: bool | None) -> None:
    api = HfApi(library_name='rexnet_timm', library_version=__version__)
    try:
        api.create_repo(repo_id, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=repo_id, folder_path=folder, allow_patterns=list(files), commit_message='Upload the model')
    except Exception as error:  # of the connection, the Hub or its client, which have no class in common
        raise ValueError(
            f'{repo_id!r} was not uploaded to ({first_lines(error, 1) or type(error).__name__}): check the connection, '
            f'and the token by `hf auth login`. The folder {str(folder)!r} is complete.') from error
