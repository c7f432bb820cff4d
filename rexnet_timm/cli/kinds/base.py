"""What every kind of run has: the methods that a run asks, and how its model takes images."""
import argparse
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import segmentation_models_pytorch as smp
import torch
import torch.nn as nn
from timm.data import resolve_data_config
from timm.task import TrainingTask

from ...data import DataDescription
from ...data.formats import is_there
from ...errors import first_sentence, is_refusal
from ...models import rexnetv1
from ...models.any_encoder import encoder_arguments, min_training_batch
from ...models.weights import get_preprocessing_params
from ..build import Process, is_smp
from ..unused import NEEDS, SYNTHETIC, Need, warn_of_unused

__all__ = ['Batches', 'Kind', 'Mix', 'data_config', 'least_batch', 'names_of_split']

Batches = Iterable[tuple[torch.Tensor, torch.Tensor]]
Mix = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


class Kind:
    """What a kind of model is trained on and by. The arguments of a run are read, never written.

    Attributes:
        name: What the model learns, for messages.
        without_effect: Options that this kind does not read.
        needs: Options that it reads in some runs only.
        takes_files: Whether a file may stand for the folder of the data, as it describes one.
        defaults: Of options whose default is another one for this kind.
        rates: Learning rates by optimizer, where none is told; those of other optimizers follow --lr-base.
    """

    name: str
    without_effect: frozenset[str]
    needs: tuple[Need, ...] = NEEDS
    takes_files = False
    defaults: Mapping[str, Any] = {}
    rates: Mapping[str, float] = {}

    def defaults_beside(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The defaults of this kind beside what is given, the learning rate of the optimizer included."""
        defaults = dict(self.defaults)
        optimizer = {**defaults, **given}.get('opt')
        if optimizer in self.rates and not given.keys() & {'lr_base', 'lr_base_size', 'lr_base_scale'}:
            defaults['lr'] = self.rates[optimizer]
        if given.get('sched') == 'plateau':  # which follows the metric of each epoch
            defaults.pop('sched_on_updates', None)
        return defaults

    def check(self, args: argparse.Namespace) -> None:
        """Say which options have no effect, and refuse a data set that belongs to another kind.

        Raises:
            ValueError: With the data set or the model that fits.
        """
        if args.dataset in SYNTHETIC and args.data_dir is not None:
            raise ValueError(
                f'--dataset {args.dataset} is built in and reads no folder, got {args.data_dir!r} too: leave out one '
                'of the two.')
        if args.data_dir is not None and not (os.path.isdir(args.data_dir) or (
                self.takes_files and is_there(args.data_dir))):
            raise ValueError(f'The folder of the data must exist, {args.data_dir!r} does not.')
        warn_of_unused(args, self.name, self.without_effect, self.needs)

    def takes_plan(self, args: argparse.Namespace) -> bool:
        """Whether `--auto` finds out something of the data of this run."""
        return False

    def num_classes(self, args: argparse.Namespace) -> int | None:
        """Channels of the model's output; None for the model's own number."""
        return args.num_classes

    def datasets(self, args: argparse.Namespace, num_classes: int | None) -> tuple[Any, Any]:
        """The training and the validation set, without transforms, before there is a model.

        Raises:
            ValueError: Data that does not fit; a `DatasetError` names the file.
        """
        raise NotImplementedError

    def completed(self, args: argparse.Namespace, datasets: tuple[Any, Any]) -> argparse.Namespace:
        """The arguments of a run with what the data say where they say nothing, in a namespace of its own."""
        return args

    def loaders(
            self,
            args: argparse.Namespace,
            model: nn.Module,
            datasets: tuple[Any, Any],
            process: Process,
    ) -> tuple[Batches, Batches]:
        """Loaders of both sets, as the model takes its images. ValueError for sizes or batches that it does not."""
        raise NotImplementedError

    def task(
            self,
            args: argparse.Namespace,
            model: nn.Module,
            num_classes: int,
            dataset: Any,
            process: Process,
    ) -> TrainingTask:
        """The task that trains the model; `dataset` is the validation set. ValueError for a loss that does not fit."""
        raise NotImplementedError

    def mixup(self, args: argparse.Namespace, num_classes: int, process: Process) -> Mix | None:
        """What changes whole training batches on their device, if anything."""
        return None

    def description(self, args: argparse.Namespace, model: nn.Module, dataset: Any) -> DataDescription:
        """What the model knows of its data, for its checkpoints; `dataset` is the validation set."""
        config = config_of(args, model)
        in_chans, *size = config['input_size']
        return DataDescription(
            task=self.name, in_chans=in_chans, mean=config['mean'], std=config['std'], input_size=tuple(size),
            crop_pct=config['crop_pct'], **self._own_description(args, dataset, config))

    def _own_description(self, args: argparse.Namespace, dataset: Any, config: dict[str, Any]) -> dict[str, Any]:
        return {'interpolation': args.interpolation or 'bilinear'}


def config_of(args: argparse.Namespace, model: nn.Module) -> dict[str, Any]:
    """timm's data configuration of the model; of an SMP architecture with the mean and std of its encoder."""
    cfg = _encoder_cfg(args) if is_smp(args.model) else None
    return resolve_data_config(vars(args), pretrained_cfg=cfg, model=model)


def _encoder_cfg(args: argparse.Namespace) -> dict[str, Any] | None:
    if encoder_arguments(args.encoder_name) is not None and args.encoder_name not in rexnetv1.default_cfgs:
        if not args.encoder_weights:  # of SMP's own encoders only their weights say it
            return None
        params = smp.encoders.get_preprocessing_params(args.encoder_name, args.encoder_weights)
    else:
        params = get_preprocessing_params(args.encoder_name)
    return {'mean': tuple(params['mean']), 'std': tuple(params['std'])}


def data_config(args: argparse.Namespace, model: nn.Module, in_chans: int) -> dict[str, Any]:
    """How the model takes its images, by timm's rules; `in_chans` is what the data set reads."""
    for name in ('mean', 'std'):
        values = getattr(args, name) or [0]
        if len(values) not in (1, in_chans):
            raise ValueError(
                f'--{name} must have one value, or one for each of the {in_chans} channels of the images, got '
                f'{" ".join(map(str, values))}.')
    config = config_of(args, model)
    if config['input_size'][0] != in_chans:
        raise ValueError(
            f'--model {args.model} takes {config["input_size"][0]} channels, and images are read with {in_chans}: '
            f'pass --in-chans {config["input_size"][0]}.')
    return config


def least_batch(args: argparse.Namespace, model: nn.Module, input_size: Sequence[int]) -> int:
    """The fewest images that the model trains on. ValueError for a size of images that it does not take."""
    in_chans, *size = input_size
    try:
        return min_training_batch(model, tuple(size), in_chans)
    except AssertionError as error:
        if not is_refusal(error):
            raise
        raise ValueError(
            f'--model {args.model} does not take images of {size[0]} x {size[1]}: {first_sentence(error)} Change '
            "--img-size or --input-size; some models take another size by --model-kwargs 'img_size=N'.") from error


def names_of_split(split: str) -> tuple[str, ...]:
    """The folders in which timm looks for a part of a data set."""
    synonyms = (('train', 'training'), ('val', 'valid', 'validation', 'eval', 'evaluation'))
    return next(((split, *names) for names in synonyms if split in names), (split,))
