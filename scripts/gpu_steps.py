#!/usr/bin/env python3
"""The steps of gpu_check.py. Each is a process: what one breaks or leaves in memory is none of the next one's.

    python scripts/gpu_steps.py models --device cuda --output output/gpu_check

A step yields rows: 'case' says what was done, numbers follow under the names of gpu_check.py's columns, and 'fault',
where there is one, says what is wrong. They are written to NAME.json in the folder, one after the other, so that a step
that is ended leaves what it had.
"""
import argparse
import copy
import csv
import json
import math
import multiprocessing
import os
import platform
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import benchmark
import numpy as np
import segmentation_models_pytorch as smp
import timm
import torch
from timm.optim import create_optimizer_v2

import rexnet_timm
from rexnet_timm.cli import train
from rexnet_timm.data import SyntheticShapes
from rexnet_timm.errors import first_lines
from rexnet_timm.files import atomic_path
from rexnet_timm.training.base_losses import create_segmentation_loss
from rexnet_timm.training.depth_losses import MultiScaleDepthLoss
from rexnet_timm.training.engine import Precision, train_one_epoch

Row = dict[str, Any]
Outputs = list[torch.Tensor]

SCALES = (0, 1, 2, 3, 4)
CLASSES = 6  # of the built-in set
# how far outputs and gradients may be from those of the CPU in float64, as a share of their largest value
TOLERANCE = {torch.float64: 1e-5, torch.float32: 2e-3}
LOSS_TOLERANCE = 1e-4
AGREEMENT = 0.99  # share of the pixels of a mask
OURS = benchmark.OURS
TABLE = (OURS, 'multiscaleunet, dense', benchmark.REFERENCE, 'smp.FPN', 'smp.DeepLabV3Plus')


@dataclass(frozen=True)
class Settings:
    """What the steps need to know."""
    device: torch.device
    output: Path
    data: str | None = None

    @property
    def is_small(self) -> bool:
        """Whether the steps run in small, which is to test them, and measures nothing of use."""
        return self.device.type == 'cpu'

    def either(self, full: Any, small: Any) -> Any:
        """One of two values, by where the steps run."""
        return small if self.is_small else full


@contextmanager
def exact_float32() -> Iterator[None]:
    """Products and convolutions in float32 itself, without TF32, which a GPU may take for it."""
    backends = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [backend.allow_tf32 for backend in backends]
    for backend in backends:
        backend.allow_tf32 = False
    try:
        yield
    finally:
        for backend, allowed in zip(backends, before, strict=True):
            backend.allow_tf32 = allowed


def difference(found: Sequence[torch.Tensor], expected: Sequence[torch.Tensor]) -> float:
    """The largest distance of two lists of tensors, as a share of the largest value of each pair.

    Before BatchNorm a bias has the gradient 0, of which rounding is all that is seen: shares are of at least a
    millionth of the largest value of all.
    """
    pairs = [(x.detach().double().cpu(), y.detach().double().cpu()) for x, y in zip(found, expected, strict=True)]
    least = max(float(y.abs().max()) for _, y in pairs) / 1e6
    return max(float((x - y).abs().max()) / max(float(y.abs().max()), least) for x, y in pairs)


def checked(row: Row, limit: float) -> Row:
    """A row whose difference is held to a limit; one that is no number fails as well."""
    if not row['difference'] <= limit:
        row['fault'] = f'the difference is {row["difference"]:.2g}, and may be {limit:.2g}'
    return row


def environment(settings: Settings) -> Iterator[Row]:
    """What the steps run on."""
    row = {
        'case': 'environment', 'device': str(settings.device), 'python': platform.python_version(),
        'torch': torch.__version__, 'timm': timm.__version__, 'smp': smp.__version__,
        'threads': torch.get_num_threads(), 'cpu': platform.processor() or platform.machine()}
    if settings.device.type == 'cuda':
        properties = torch.cuda.get_device_properties(settings.device)
        row |= {
            'gpu': properties.name, 'gpus': torch.cuda.device_count(), 'gpu_mib': properties.total_memory // 2 ** 20,
            'compute_capability': f'{properties.major}.{properties.minor}', 'cuda': torch.version.cuda,
            'cudnn': torch.backends.cudnn.version(), 'bfloat16': torch.cuda.is_bf16_supported()}
    torch.ones(8, device=settings.device).sum().item()
    found = row.get('gpu', f'{row["cpu"]}, {row["threads"]} threads')
    yield {**row, 'note': f'{found}; torch {row["torch"]}, timm {row["timm"]}, SMP {row["smp"]}'}


NETWORKS: dict[str, Callable[[], torch.nn.Module]] = {
    'rexnetv1_1_0': lambda: timm.create_model('rexnetv1_1_0', num_classes=10, drop_rate=0.),
    'rexnetv1r_1_0': lambda: timm.create_model('rexnetv1', width_mult=1., ch_div=8, num_classes=10, drop_rate=0.),
    'rexnetv1_lite_1_0': lambda: timm.create_model('rexnetv1_lite_1_0', num_classes=10, drop_rate=0.),
    OURS: lambda: rexnet_timm.MultiScaleUnet('rexnetv1', classes=CLASSES),
    "rexnetv1_unet_1_0, decoder_type='unet'": lambda: rexnet_timm.MultiScaleUnet(
        'rexnetv1', classes=CLASSES, decoder_type='unet'),
    'rexdepth_1_0': lambda: timm.create_model('rexdepth_1_0'),
}


def outputs_of(model: torch.nn.Module, images: torch.Tensor) -> Outputs:
    """All that a network returns, finest scale first."""
    output = model(images)
    if isinstance(output, Mapping):
        return list(output.values())
    return [output] if isinstance(output, torch.Tensor) else list(output)


def gradients_of(model: torch.nn.Module, images: torch.Tensor) -> Outputs:
    """Gradients of the squares of all outputs in training mode, in the order of the parameters."""
    model.train().zero_grad()
    sum(output.square().mean() for output in outputs_of(model, images)).backward()
    return [parameter.grad for parameter in model.parameters() if parameter.grad is not None]


def parity_of_models(settings: Settings) -> Iterator[Row]:
    """Outputs and gradients of the networks on the device, beside those of the CPU in float64."""
    torch.manual_seed(0)
    images = torch.randn(2, 3, 97, 130, dtype=torch.float64)  # divisible by nothing
    for name in settings.either(tuple(NETWORKS), ('rexnetv1_lite_1_0', OURS, 'rexdepth_1_0')):
        build = NETWORKS[name]
        torch.manual_seed(0)
        reference = build().double()
        for _ in range(2):
            outputs_of(reference.train(), images.flip(0))  # BatchNorm statistics that are not those of a new network
        state = copy.deepcopy(reference.state_dict())
        with torch.no_grad():
            expected = outputs_of(reference.eval(), images)
        slopes = gradients_of(reference, images)
        for dtype in TOLERANCE:
            model = build().to(settings.device, dtype)
            model.load_state_dict(state)
            inputs = images.to(settings.device, dtype)
            with exact_float32(), torch.no_grad():
                found = outputs_of(model.eval(), inputs)
            label = str(dtype).removeprefix('torch.')
            yield checked({'case': f'{name}, outputs, {label}', 'difference': difference(found, expected)},
                          TOLERANCE[dtype])
            if dtype == torch.float64:  # in float32 rounding decides on which side of 0 an activation lies
                yield checked({'case': f'{name}, gradients, {label}', 'difference': difference(
                    gradients_of(model, inputs), slopes)}, TOLERANCE[dtype])


def parity_of_losses(settings: Settings) -> Iterator[Row]:
    """Values and gradients of the losses on the device, beside those of the CPU."""
    torch.manual_seed(0)
    logits = [torch.randn(2, CLASSES, math.ceil(97 / 2 ** scale), math.ceil(130 / 2 ** scale)) for scale in SCALES]
    target = torch.randint(CLASSES, (2, 97, 130))
    target[torch.rand(target.shape) < 0.1] = 255
    for name, kind in (
            ('ce', 'nearest'), ('dice', 'majority'), ('focal', 'object'), ('lovasz', 'upsample'), ('ce', 'soft'),
            ('ce+dice+dice', 'object')):
        loss = rexnet_timm.MultiScaleLoss(
            create_segmentation_loss(name, CLASSES, ignore_index=255), target=kind, ignore_index=255)
        expected, found = (
            _value_and_gradients(loss, logits, target, device) for device in (torch.device('cpu'), settings.device))
        yield checked({'case': f'MultiScaleLoss, {name}, {kind}', 'difference': difference(found, expected)},
                      LOSS_TOLERANCE)
    image, depth = torch.rand(2, 3, 97, 130), 0.2 + 50 * torch.rand(2, 97, 130)
    expected, found = (
        _depth_loss(logits, depth, image, device) for device in (torch.device('cpu'), settings.device))
    yield checked({'case': 'MultiScaleDepthLoss', 'difference': difference(found, expected)}, LOSS_TOLERANCE)


def _value_and_gradients(loss: torch.nn.Module, logits: Outputs, target: torch.Tensor, device: torch.device) -> Outputs:
    outputs = [x.to(device).requires_grad_() for x in (x.clone() for x in logits)]
    value = loss.to(device)(outputs, target.to(device))
    value.backward()
    return [value, *(output.grad for output in outputs)]


def _depth_loss(logits: Outputs, depth: torch.Tensor, image: torch.Tensor, device: torch.device) -> Outputs:
    outputs = [x[:, :1].sigmoid().to(device).requires_grad_() for x in logits]
    value = MultiScaleDepthLoss()(
        {('disp', scale): output for scale, output in zip(SCALES, outputs, strict=True)}, depth.to(device),
        image.to(device))['loss']
    value.backward()
    return [value, *(output.grad for output in outputs)]


def batch_of(settings: Settings, size: int, number: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images (N, 3, size, size) and labels of the built-in set, on the CPU."""
    dataset = SyntheticShapes(number, (size, size), seed=0)
    pairs = [dataset[index] for index in range(number)]
    return torch.stack([image for image, _ in pairs]) / 127.5 - 1, torch.stack([label for _, label in pairs])


def wait(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == 'cuda':
        torch.cuda.synchronize()


def training_steps(settings: Settings) -> Iterator[Row]:
    """Updates of the U-Net in each precision and memory format, as rexnet train makes them."""
    steps = settings.either(8, 3)
    batch = batch_of(settings, settings.either(512, 64), settings.either(16, 2))
    for precision in ('float32', 'float16', 'bfloat16'):
        for channels_last in (False, True):
            yield _train_on(settings, batch, precision, channels_last, steps)


def _train_on(settings: Settings, batch: tuple, precision: str, channels_last: bool, steps: int) -> Row:
    device = settings.device
    torch.manual_seed(0)
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    model = rexnet_timm.MultiScaleUnet('rexnetv1', classes=CLASSES).to(device, memory_format=memory_format)
    task = rexnet_timm.SegmentationTask(model, CLASSES, ignore_index=255, device=device, verbose=False)
    optimizer = create_optimizer_v2(model, opt='adamw', lr=1e-3)
    how = Precision.create(device, precision != 'float32', 'float16' if precision == 'float16' else 'bfloat16')
    options = dict(precision=how, channels_last=channels_last, primary=False)
    first = train_one_epoch(task, [batch] * 2, optimizer, **options)['loss']
    wait(device)
    if device.type == 'cuda':
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    last = train_one_epoch(task, [batch] * steps, optimizer, **options)['loss']
    wait(device)
    row = {
        'case': f'{precision}, {"NHWC" if channels_last else "NCHW"}',
        'training_ms': 1e3 * (time.perf_counter() - start) / steps, 'loss_first': first, 'loss_last': last,
        'note': f'loss {first:.3f}, then {last:.3f}'}
    if precision == 'float16' and how.scaler is None:
        row['note'] += '; in bfloat16, as the CPU does'
    if device.type == 'cuda':
        row['memory_mib'] = torch.cuda.max_memory_allocated() / 2 ** 20
    if not last < first:
        row['fault'] = 'the loss on one batch did not fall'
    return row


def compilation(settings: Settings) -> Iterator[Row]:
    """torch.compile beside eager: the same logits, and time of both."""
    size, number = settings.either((512, 16), (64, 2))
    backend = settings.either('inductor', 'aot_eager')  # which needs no C++ compiler, and is enough to test this file
    torch.manual_seed(0)
    case = benchmark.Case(OURS, size, number, settings.device, False)
    case.set_format(True)
    with exact_float32(), torch.no_grad():
        expected = case.model.eval()(case.input)
    row = {'case': 'eager, float32, NHWC'}
    yield row | {'training_ms': 1e3 * min(case.time_training()), 'inference_ms': 1e3 * min(case.time_inference())}
    torch.manual_seed(0)
    case = benchmark.Case(OURS, size, number, settings.device, False)
    case.set_format(True)
    case.model = torch.compile(case.model, backend=backend)
    start = time.perf_counter()
    with exact_float32(), torch.no_grad():
        found = case.model.eval()(case.input)
        wait(settings.device)
    seconds = time.perf_counter() - start
    row = {
        'case': f'torch.compile, {backend}', 'difference': difference([found], [expected]),
        'note': f'the first call took {seconds:.0f} s'}
    row |= {'training_ms': 1e3 * min(case.time_training()), 'inference_ms': 1e3 * min(case.time_inference())}
    yield checked(row, TOLERANCE[torch.float32])


def lean(settings: Settings) -> Iterator[Row]:
    """Lean layers on and off: the same gradients, and time and memory of both."""
    torch.manual_seed(0)
    model = rexnet_timm.MultiScaleUnet('rexnetv1', classes=CLASSES).to(settings.device).double()
    images = torch.randn(2, 3, 97, 130, dtype=torch.float64, device=settings.device)
    before = rexnet_timm.set_lean(True)
    try:
        found = [x.clone() for x in gradients_of(model, images)]
        rexnet_timm.set_lean(False)
        expected = gradients_of(model, images)
    finally:
        rexnet_timm.set_lean(before)
    yield checked({'case': 'gradients, on and off, float64', 'difference': difference(found, expected)},
                  TOLERANCE[torch.float64])
    yield from measured(settings, (benchmark.LEAN_OFF, OURS), {OURS: f'{OURS}, REXNET_LEAN=1'})


def comparison(settings: Settings) -> Iterator[Row]:
    """The table of benchmark.py: ours and SMP's."""
    yield from measured(settings, settings.either(TABLE, TABLE[:2]))


def comparison_amp(settings: Settings) -> Iterator[Row]:
    """The same table under mixed precision."""
    yield from measured(settings, settings.either(TABLE, TABLE[3:]), amp=True)


def measured(
        settings: Settings,
        models: Sequence[str],
        names: Mapping[str, str] | None = None,
        amp: bool = False,
) -> Iterator[Row]:
    """Rows of benchmark.py; with half as many images where the device has no room for the processes of all models."""
    size, number = settings.either((512, 16), (64, 2))
    while True:
        try:
            rows = benchmark.main([
                '--models', *models, '--sizes', str(size), '--batch-sizes', str(number), '--rounds',
                str(settings.either(5, 2)), '--device', settings.device.type, '--output',
                str(settings.output / 'benchmark'), *(['--amp'] if amp else []),
                *(['--no-memory'] if settings.is_small else [])])
            break
        except RuntimeError:
            for process in multiprocessing.active_children():  # the others, which wait for their turn
                process.terminate()
                process.join()
            if settings.is_small or number == 1:
                raise
            number //= 2
    reference = rows[0] if benchmark.REFERENCE not in models else next(
        row for row in rows if row['model'] == benchmark.REFERENCE)
    for row in rows:
        ratios = [
            f'{kind} {row[f"{kind}_ratio"]:.2f}' for kind in ('training', 'inference', 'memory')
            if f'{kind}_ratio' in row and row is not reference]
        case = (names or {}).get(row['model'], row['model'])
        yield {**row, 'case': f'{case}, {size} x {size}, batch {number}{", AMP" if amp else ""}', 'note': (
            f'of {reference["model"]}: {", ".join(ratios)}' if ratios else '')}


def two_processes(settings: Settings) -> Iterator[Row]:
    """A run of distributed_train.sh on two devices, or on two processes of the CPU."""
    devices = torch.cuda.device_count()
    if settings.device.type == 'cuda' and devices < 2:
        yield {'case': 'two processes', 'skipped': f'it needs two CUDA devices, and there is {devices}'}
        return
    command = ['bash', str(Path(__file__).with_name('distributed_train.sh')), '2', *_run(settings, 'two', None, 2)]
    start = time.perf_counter()
    result = subprocess.run(
        command, env={**os.environ, 'PYTHON': sys.executable}, capture_output=True, text=True, check=False)
    print(result.stdout, result.stderr)
    if result.returncode:
        raise RuntimeError(f'{" ".join(command[:3])} ended with exit status {result.returncode}: '
                           f'{result.stderr.strip().splitlines()[-1:]}')
    yield _outcome(settings, 'two processes, the built-in set', 'two', time.perf_counter() - start)


def training(settings: Settings) -> Iterator[Row]:
    """A short run of rexnet train, on CamVid where it is given, else on the built-in set."""
    start = time.perf_counter()
    if train.main(_run(settings, 'one', settings.data, settings.either(10 if settings.data else 4, 2))):
        raise RuntimeError('rexnet train ended with an error, which the log of the step has.')
    name = f'CamVid, {settings.data}' if settings.data else 'the built-in set'
    yield _outcome(settings, f'rexnet train, {name}', 'one', time.perf_counter() - start)


def _run(settings: Settings, experiment: str, data: str | None, epochs: int) -> list[str]:
    # the arguments of rexnet train
    options = ['--epochs', str(epochs), '--output', str(settings.output / 'train'), '--experiment', experiment,
               '--device', settings.device.type, '--workers', str(settings.either(4, 0)), '--opt', 'adamw',
               '--lr', '2e-3', '--warmup-epochs', '0', '--checkpoint-hist', '1', '--amp', '--channels-last']
    if data:
        size = settings.either([], ['--input-size', '3', '64', '96'])
        return [data, '--config', 'rexnetv1_unet_camvid', *size, *options]
    return ['--dataset', 'synthetic', '--synthetic-images', str(settings.either(512, 16)), '--num-classes',
            str(CLASSES), '--ignore-index', '255', '--model',
            settings.either('rexnetv1_unet_1_0', 'rexnetv1_unet_test'), '--img-size',
            str(settings.either(256, 64)), '--batch-size', str(settings.either(16, 4)), *options]


def _outcome(settings: Settings, case: str, experiment: str, seconds: float) -> Row:
    with open(settings.output / 'train' / experiment / 'summary.csv') as file:
        epochs = list(csv.DictReader(file))
    losses = [float(epoch['train_loss']) for epoch in epochs]
    miou = float(epochs[-1]['eval_miou'])
    row = {
        'case': case, 'seconds': seconds, 'losses': losses, 'miou': miou,
        'note': f'{len(epochs)} epochs in {seconds:.0f} s, loss {losses[0]:.3f} to {losses[-1]:.3f}, mIoU {miou:.1f} %'}
    if not losses[-1] < losses[0]:
        row['fault'] = 'the training loss did not fall'
    return row


def large_image(settings: Settings) -> Iterator[Row]:
    """A mask of a large image in tiles, and agreement with the CPU on a small one."""
    torch.manual_seed(0)
    model = rexnet_timm.MultiScaleUnet('rexnetv1', classes=CLASSES, scales=(0,)).eval()
    height, width = settings.either((6000, 8000), (300, 420))
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    part = image[:250, :333]
    expected = rexnet_timm.Predictor(model, tile=128)(part).mask
    predictor = rexnet_timm.Predictor(
        copy.deepcopy(model), tile=settings.either(1024, 128), device=settings.device, keep_probabilities=False)
    with exact_float32():
        found = rexnet_timm.Predictor(predictor.model, tile=128)(part).mask
    agreement = float((found == expected).mean())
    row = {'case': '250 x 333 beside the CPU', 'note': f'{100 * agreement:.2f} % of the pixels agree'}
    yield row if agreement >= AGREEMENT else {**row, 'fault': f'less than {100 * AGREEMENT:g} % of the pixels agree'}
    if settings.device.type == 'cuda':
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    mask = predictor(image).mask
    row = {'case': f'{height} x {width} in tiles', 'inference_ms': 1e3 * (time.perf_counter() - start)}
    if settings.device.type == 'cuda':
        row['memory_mib'] = torch.cuda.max_memory_allocated() / 2 ** 20
    if mask.shape != (height, width):
        row['fault'] = f'the mask has the shape {mask.shape}'
    yield row


STEPS: dict[str, Callable[[Settings], Iterator[Row]]] = {
    'environment': environment, 'models': parity_of_models, 'losses': parity_of_losses,
    'training-steps': training_steps, 'lean': lean, 'benchmark': comparison, 'benchmark-amp': comparison_amp,
    'large-image': large_image, 'training': training, 'two-processes': two_processes, 'compile': compilation}


def write(path: Path, rows: Sequence[Row], error: str = '') -> None:
    """Write what a step has so far."""
    with atomic_path(path) as part:
        Path(part).write_text(json.dumps({'rows': rows, 'error': error}, indent=1))


def main(argv: Sequence[str] | None = None) -> int:
    """Run one step; returns 1 where it ended with an error, which its file holds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('step', choices=list(STEPS))
    parser.add_argument('--device', required=True)
    parser.add_argument('--data')
    parser.add_argument('--output', type=Path, required=True)
    args = parser.parse_args(argv)
    settings = Settings(torch.device(args.device), args.output, args.data)
    path, rows = args.output / f'{args.step}.json', []
    try:
        for row in STEPS[args.step](settings):
            rows.append(row)
            write(path, rows)
    except Exception as error:  # whatever it is, it is the step's result
        traceback.print_exc()
        write(path, rows, f'{type(error).__name__}: {first_lines(error, 2)}')
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
