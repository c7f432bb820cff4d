"""From the arguments of a run to its process, model and optimizer.

Nothing here writes into the arguments: what a builder finds out, it returns.
"""
import argparse
import inspect
import logging
import os
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import segmentation_models_pytorch as smp
import timm
import torch
import torch.nn as nn
from timm.layers import convert_sync_batchnorm
from timm.models import get_arch_pretrained_cfgs, load_model_config_from_hf
from timm.optim import create_optimizer_v2, optimizer_kwargs
from timm.utils import is_distributed_env, world_info_from_env
from torch.distributed.rendezvous import rendezvous

from ..errors import first_lines, first_sentence, is_refusal, near_names
from ..files import WeightsError, build_with_file
from ..models.any_encoder import (
    SMP_ARGUMENTS,
    check_arguments,
    check_encoder_name,
    check_encoder_weights,
    encoder_arguments,
)
from ..models.factory import network_of
from ..models.other_layouts import check_efficientnet, efficientnet_to_timm, is_efficientnet
from ..models.weights import load_encoder_weights, load_weights
from ..plain_text import load_json
from .parent import end_with_launcher

__all__ = [
    'Process', 'architecture_of', 'create_model', 'create_optimizer', 'default_device', 'in_channels', 'is_smp',
    'learning_rate', 'saved_network', 'start_process', 'synchronize_batch_norm']

_logger = logging.getLogger(__name__)

_BACKENDS = {'cuda': 'nccl', 'xpu': 'ccl', 'hpu': 'hccl', 'npu': 'hccl'}  # of the others gloo


@dataclass(frozen=True)
class Process:
    """The place of this process in a run."""
    device: torch.device
    rank: int = 0
    world_size: int = 1

    @property
    def distributed(self) -> bool:
        return self.world_size > 1

    @property
    def primary(self) -> bool:
        return self.rank == 0


def default_device() -> str:
    """Name of the best device there is: 'cuda', 'mps' or 'cpu'."""
    if torch.cuda.is_available():
        return 'cuda'
    return 'mps' if torch.backends.mps.is_available() else 'cpu'


def start_process(device: str | None = None, timeout: float | None = None) -> Process:
    """Join the process group that a launcher announced, if any.

    Args:
        device: Name of the device; None takes the best there is.
        timeout: Seconds after which a process that waits for the others gives up; None for torch's own.

    Raises:
        ValueError: A name that torch does not know, or a device that this machine does not have.
    """
    name = device or default_device()
    try:
        kind = torch.device(name).type
        torch.empty(0, device=name)  # says at once what would fail later
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(
            f'--device must be one that torch can use here, got {name!r}: {first_sentence(error)} Take --device '
            f'{default_device()}, or leave it out.') from error
    if kind == 'meta':
        raise ValueError("--device must hold values, got 'meta': leave it out.")
    if not is_distributed_env():
        return Process(_select(name))
    local_rank, rank, world_size = world_info_from_env()  # also SLURM's, which torch does not know
    os.environ.update(LOCAL_RANK=str(local_rank), RANK=str(rank), WORLD_SIZE=str(world_size))
    end_with_launcher()
    limit = {} if timeout is None else {'timeout': timedelta(seconds=timeout)}
    torch.distributed.init_process_group(_BACKENDS.get(kind, 'gloo'), **limit, **_meeting_place(**limit))
    if kind != 'cpu' and ':' in name:
        _logger.warning('Each process takes a device of its own: the number in --device %s is left out.', name)
    return Process(_select(name if kind == 'cpu' else f'{kind}:{local_rank}'), rank, world_size)


def _meeting_place(**limit: timedelta) -> dict[str, Any]:
    """Arguments of `init_process_group` for processes that a launcher has started again.

    Its store lives on, with the addresses of the processes before, which new ones would try to reach.
    """
    attempt = os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')
    # the launchers of several hosts may count differently
    if attempt == '0' or os.environ.get('GROUP_WORLD_SIZE') != '1':
        return {}
    store, rank, world_size = next(rendezvous('env://', **limit))
    return {'store': torch.distributed.PrefixStore(f'attempt_{attempt}', store), 'rank': rank, 'world_size': world_size}


def _select(name: str) -> torch.device:
    if name.startswith('cuda:'):
        torch.cuda.set_device(name)
    return torch.device(name)


def is_smp(name: str) -> bool:
    """Whether `--model` names an architecture of SMP."""
    return name.lower() in smp.MODEL_ARCHITECTURES_MAPPING


def architecture_of(name: str) -> str:
    """The name in timm's registry behind a `--model`, which may carry a tag or be a saved model.

    Args:
        name: 'rexnetv1_1_0', 'rexnetv1_1_0.nav_in1k', 'hf-hub:USER/NAME' or 'local-dir:FOLDER'.

    Raises:
        ValueError: An unknown name, with near ones, or a saved model whose configuration cannot be read.
    """
    return _source_of(name)[0]


def _source_of(name: str) -> tuple[str, dict[str, Any]]:
    """The architecture of a `--model`, and the arguments that a saved model was built with."""
    source, colon, place = name.partition(':')
    if not colon:
        architecture, _, tag = name.partition('.')
        if not timm.is_model(architecture):
            known = [*timm.list_models(), *smp.MODEL_ARCHITECTURES_MAPPING]
            raise ValueError(
                f'--model must be a model of timm or an architecture of SMP, got {name!r}.'
                f'{near_names(architecture, known)}')
        tags = get_arch_pretrained_cfgs(architecture)
        if tag and name not in tags:
            raise ValueError(
                f'--model {architecture} has no pretrained tag {tag!r}: take {architecture}'
                f' without a tag.{near_names(name, tags)}')
        return architecture, {}
    if source.lower() not in ('hf-hub', 'hf_hub', 'local-dir') or not place:
        raise ValueError(
            f"--model must be a model's name, hf-hub:USER/NAME or local-dir:FOLDER, got {name!r}.")
    rule = (f"--model {name!r} must be a model that timm's save_for_hf or push_to_hf_hub has written, with its "
            'config.json')
    try:
        if source.lower() == 'local-dir':
            with open(os.path.join(place, 'config.json'), encoding='utf-8') as file:
                config = load_json(file.read())
            config = config if isinstance(config, dict) else {}
            architecture, arguments = config.get('architecture'), config.get('model_args')
        else:
            _, architecture, arguments = load_model_config_from_hf(place)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f'{rule}: {type(error).__name__}: {first_sentence(error)}') from error
    if not isinstance(architecture, str) or not timm.is_model(architecture):
        raise ValueError(f"{rule}: its 'architecture' is no model of timm, got {architecture!r}.")
    return architecture, arguments or {}


def in_channels(args: argparse.Namespace) -> int | None:
    """Channels of the images, where the arguments give them."""
    return args.in_chans or (args.input_size[0] if args.input_size else None)


def _unknown_argument(error: TypeError, names: Iterable[str]) -> str | None:
    """Which of the user's `names` a constructor does not take, or None, where the error is no mistake of theirs."""
    return next((name for name in names if f"unexpected keyword argument '{name}'" in str(error)), None)


# Flags that become arguments of the model, by the name that the model has for them.
_MODEL_FLAGS = {
    '--drop': 'drop_rate', '--drop-path': 'drop_path_rate', '--gp': 'global_pool', '--rex-width-mult': 'width_mult',
    '--rex-depth-mult': 'depth_mult', '--scales': 'scales'}


def _given(args: argparse.Namespace, without_effect: Collection[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Flags of the model that are given, and what they and `--model-kwargs` are as its arguments."""
    names = {flag: flag[2:].replace('-', '_') for flag in _MODEL_FLAGS}
    values = {flag: getattr(args, name) for flag, name in names.items() if name not in without_effect}
    values = {flag: value for flag, value in values.items() if value is not None}
    return values, {**{_MODEL_FLAGS[flag]: value for flag, value in values.items()}, **args.model_kwargs}


def saved_network(
        args: argparse.Namespace,
        num_classes: int,
        without_effect: Collection[str] = (),
) -> dict[str, Any]:
    """The plain values from which a checkpoint of the run rebuilds its model, as `network_of` gives them."""
    _, given = _given(args, without_effect)
    if is_smp(args.model):
        return network_of('smp', args.model.lower(), {
            'encoder_name': args.encoder_name, 'in_channels': in_channels(args) or 3, 'classes': num_classes, **given})
    architecture, arguments = _source_of(args.model)
    return network_of('timm', architecture, {
        **arguments, 'in_chans': in_channels(args), 'num_classes': num_classes, **given})


def create_model(
        args: argparse.Namespace,
        num_classes: int | None,
        without_effect: Collection[str] = (),
) -> nn.Module:
    """The model of `--model`: one of timm's registry, or an SMP architecture on `--encoder-name`.

    Args:
        args: Arguments of the run.
        num_classes: Channels of its output; None for the model's own number.
        without_effect: Names of arguments that the model does not get.

    Raises:
        ValueError: An unknown name, an argument that the model does not take, or weights that do not fit or cannot be
            fetched.
        FileNotFoundError: A file of weights that does not exist.
    """
    for path in filter(None, (args.pretrained_path, args.initial_checkpoint)):
        if not os.path.isfile(path):
            raise FileNotFoundError(f'There is no checkpoint {path!r}.')
    values, given = _given(args, without_effect)
    create = _create_smp if is_smp(args.model) else _create_timm
    try:
        model = create(args, num_classes, list(values), given)
    except TypeError as error:
        unknown = _unknown_argument(error, given)
        if unknown is None:
            raise
        where = next((flag for flag in values if _MODEL_FLAGS[flag] == unknown), f'{unknown} in --model-kwargs')
        raise ValueError(f'--model {args.model} does not take {unknown}: leave out {where}.') from error
    except (AssertionError, ValueError) as error:
        if not given or not is_refusal(error):
            raise
        where = [*values, *(repr(f'{name}={value}') for name, value in args.model_kwargs.items())]
        raise ValueError(
            f'--model {args.model} cannot be built with {", ".join(where)}: {first_sentence(error)}') from error
    except OSError as error:
        weights = f'--encoder-weights {args.encoder_weights}' if args.encoder_weights else '--pretrained'
        if not args.encoder_weights and (args.pretrained_path or not args.pretrained):
            raise
        raise ValueError(
            f'The weights of {weights} for --model {args.model} cannot be fetched: {first_sentence(error)} Check the '
            'connection, or take weights of a file by --pretrained-path.') from error
    if args.pretrained_path and is_smp(args.model):
        load_encoder_weights(model.encoder, args.pretrained_path)
    if args.initial_checkpoint:
        _load_initial(model, args.initial_checkpoint)
    if args.grad_checkpointing:
        if not hasattr(model, 'set_grad_checkpointing'):
            raise ValueError(f'--model {args.model} has no gradient checkpointing: leave out --grad-checkpointing.')
        model.set_grad_checkpointing(True)
    return model


def _load_initial(model: nn.Module, path: str) -> None:
    try:
        load_weights(model, path)
    except WeightsError as error:
        raise ValueError(f'--initial-checkpoint {error}') from error


def _create_smp(args: argparse.Namespace, num_classes: int | None, flags: list[str], given: dict) -> nn.Module:
    name = args.model
    if args.encoder_name is None:
        raise ValueError(f'--model {name} is an SMP architecture and needs an --encoder-name, such as rexnetv1.')
    check_encoder_name(args.encoder_name)
    check_encoder_weights(args.encoder_name, args.encoder_weights)
    if args.pretrained:
        raise ValueError(f'--model {name} does not see --pretrained: name the weights with --encoder-weights.')
    if flags and name.lower() != 'multiscaleunet':
        raise ValueError(
            f'--model {name} does not see {", ".join(flags)}: leave {"them" if len(flags) > 1 else "it"} out, or use '
            '--model multiscaleunet.')
    if name.lower() != 'multiscaleunet':  # SMP drops what its own encoders do not take
        taken = inspect.signature(smp.MODEL_ARCHITECTURES_MAPPING[name.lower()].__init__).parameters.values()
        known = [parameter.name for parameter in taken if parameter.kind is not parameter.VAR_KEYWORD]
        is_timms = encoder_arguments(args.encoder_name) is None
        check_arguments(f'--model {name}', given, None if is_timms else known[1:], SMP_ARGUMENTS)
    return smp.create_model(**{
        'arch': name, 'encoder_name': args.encoder_name, 'encoder_weights': args.encoder_weights,
        'in_channels': in_channels(args) or 3, 'classes': num_classes or 1, **given})


def _create_timm(args: argparse.Namespace, num_classes: int | None, flags: list[str], given: dict) -> nn.Module:
    for flag, value in (('--encoder-name', args.encoder_name), ('--encoder-weights', args.encoder_weights)):
        if value is not None:
            raise ValueError(
                f'--model {args.model} has an encoder of its own and does not see {flag}: leave it out, or use --model '
                "multiscaleunet" + ('.' if flag == '--encoder-name' else '; --pretrained takes its published weights.'))
    given = {
        'pretrained': args.pretrained or bool(args.pretrained_path), 'in_chans': in_channels(args),
        'num_classes': num_classes, **given}  # timm leaves out what is None
    if args.pretrained_path:
        # as in timm's train.py: no number of classes equals -1, so the classifier of the file is left out
        given['pretrained_cfg_overlay'] = dict(file=args.pretrained_path, num_classes=-1)
    try:
        return _with_any_layout(args.model, given)
    except RuntimeError as error:
        if not given['pretrained']:
            raise
        # a name without published weights, or a file that does not fit
        source = f'--pretrained-path {args.pretrained_path}' if args.pretrained_path else '--pretrained'
        raise ValueError(
            f'--model {args.model} does not start from the weights of {source}: {first_lines(error)}') from error


def _with_any_layout(name: str, given: dict[str, Any]) -> nn.Module:
    translated: dict[str, Any] = {}

    def translate(weights: dict[str, Any]) -> dict[str, Any]:
        if is_efficientnet(weights):
            weights = efficientnet_to_timm(weights)
            translated.update(weights)
        return weights

    model = build_with_file(timm.create_model, name, translate=translate, **given)
    if translated:
        try:
            check_efficientnet(translated, model)
        except WeightsError as error:
            raise WeightsError(f'{given["pretrained_cfg_overlay"]["file"]!r}: {error}') from error
    return model


def synchronize_batch_norm(model: nn.Module, device: torch.device) -> nn.Module:
    """The model with BatchNorm over all processes. ValueError on a CPU, for which torch has none."""
    if device.type == 'cpu':
        raise ValueError(
            '--sync-bn needs an accelerator, since torch does not have it for the CPU: leave it out, and give each '
            'process as many images as it can take.')
    # timm's own: torch's would lose the activation in timm's BatchNormAct2d
    return convert_sync_batchnorm(model)


def learning_rate(args: argparse.Namespace, world_size: int) -> float:
    """`--lr`, or, without it, timm's rule: it follows the number of images in an update."""
    if args.lr is not None:
        return args.lr
    global_batch_size = args.batch_size * world_size * args.grad_accum_steps
    ratio = global_batch_size / args.lr_base_size
    adaptive = any(name in args.opt.lower() for name in ('ada', 'lamb'))
    scale = args.lr_base_scale or ('sqrt' if adaptive else 'linear')
    lr = args.lr_base * (ratio ** 0.5 if scale == 'sqrt' else ratio)
    _logger.info(
        'Learning rate %.4g: --lr-base %g, %s scaling to %d images in an update.', lr, args.lr_base, scale,
        global_batch_size)
    return lr


def create_optimizer(args: argparse.Namespace, model: nn.Module, lr: float) -> torch.optim.Optimizer:
    """timm's optimizer of the arguments, at the rate `lr`. ValueError for arguments that it does not take."""
    given = {**optimizer_kwargs(cfg=args), 'lr': lr}
    try:
        return create_optimizer_v2(model, **given)
    except TypeError as error:
        unknown = _unknown_argument(error, given)
        if unknown is None:
            raise
        where = {'betas': '--opt-betas', 'eps': '--opt-eps'}.get(unknown, f'{unknown} in --opt-args')
        raise ValueError(f'--opt {args.opt} does not take {unknown}: leave out {where}.') from error
    except (ValueError, AssertionError) as error:
        if not is_refusal(error):
            raise
        raise ValueError(f'--opt {args.opt} cannot be built with these arguments: {first_lines(error, 1)}') from error
