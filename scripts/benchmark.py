#!/usr/bin/env python3
"""Time and memory of the multi-scale U-Net beside its peers, all measured in one run.

    python scripts/benchmark.py --sizes 256 --batch-sizes 4 8 --output output/benchmark

Each model lives in a process of its own, as it would in use, so that none inherits another's memory or compiled
kernels. In every round each takes its turn, in each memory format, while the others wait, so that a machine whose speed
drifts is as fast for one as for the other. A turn is a step that is not timed and two that are; medians over all are
compared, with the quartiles for the spread. Peak memory is that of one more process for each model: the highest
resident size in two training steps over that before them.
The lean layers are on, on every device, except for the row that says otherwise. The fused model is for inference only.
A table is printed; benchmark.csv and a picture for each size and batch are written.

--exported measures exported files instead, as benchmark_exported.py says:

    python scripts/benchmark.py --exported --output output/benchmark
"""
import argparse
import functools
import itertools
import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import benchmark_exported
import segmentation_models_pytorch as smp
import torch
from torch.utils.flop_counter import FlopCounterMode

import rexnet_timm
from rexnet_timm.cli.build import default_device
from rexnet_timm.deployment.pictures import draw_bars
from rexnet_timm.deployment.results import write_rows
from rexnet_timm.training.engine import Precision

# What SMP has of itself where ours is another: timm's ReXNet 1.0x has as many channels as ours
PEER_ENCODERS = {'rexnetv1': 'tu-rexnet_100'}
OURS = 'multiscaleunet, light'
REFERENCE = 'smp.Unet'
CLASSES = 11
LEAN_OFF = f'{OURS}, REXNET_LEAN=0'
FUSED = (f'{OURS}, fused', 'multiscaleunet, dense, fused')


def unet(encoder_name: str, decoder_type: str = 'light') -> torch.nn.Module:
    return rexnet_timm.MultiScaleUnet(encoder_name, classes=CLASSES, decoder_type=decoder_type)


def checkpointed(encoder_name: str) -> torch.nn.Module:
    model = unet(encoder_name)
    model.set_grad_checkpointing()
    return model


def peer(architecture: str, encoder_name: str) -> torch.nn.Module:
    return smp.create_model(
        architecture, encoder_name=PEER_ENCODERS.get(encoder_name, encoder_name), encoder_weights=None, classes=CLASSES)


MODELS: dict[str, Callable[[str], torch.nn.Module]] = {
    OURS: unet,
    'multiscaleunet, dense': functools.partial(unet, decoder_type='dense'),
    LEAN_OFF: unet,
    FUSED[0]: lambda encoder_name: rexnet_timm.fuse(unet(encoder_name)),
    FUSED[1]: lambda encoder_name: rexnet_timm.fuse(unet(encoder_name, 'dense')),
    f'{OURS}, checkpointing': checkpointed,
    'encoder only': rexnet_timm.create_encoder,
    REFERENCE: functools.partial(peer, 'unet'),
    **{f'smp.{name}': functools.partial(peer, name.lower())
       for name in ('FPN', 'DeepLabV3Plus', 'Segformer', 'UPerNet', 'MAnet')},
}
EXPORTED = [name for name in MODELS if name not in (LEAN_OFF, *FUSED, f'{OURS}, checkpointing')]


def loss_of(output: torch.Tensor | list[torch.Tensor], target: torch.Tensor) -> torch.Tensor:
    """The loss of a step: of all scales, of one output, or, for the encoder by itself, a mean that costs nothing."""
    outputs = [output] if isinstance(output, torch.Tensor) else output
    if outputs[0].shape[1] != CLASSES:
        return sum(feature.float().mean() for feature in outputs[1:])
    return rexnet_timm.MultiScaleLoss(torch.nn.CrossEntropyLoss())(outputs, target)


class Case:
    """One model at one size."""

    def __init__(self, name: str, size: int, batch_size: int, device: torch.device, amp: bool,
                 encoder_name: str = 'rexnetv1'):
        rexnet_timm.set_lean(name != LEAN_OFF)
        self.name = name
        self.device = device
        self.precision = Precision.create(device, amp)
        self.model = MODELS[name](encoder_name).to(device)
        self.input = torch.randn(batch_size, 3, size, size, device=device)
        self.target = torch.randint(CLASSES, (batch_size, size, size), device=device)

    def set_format(self, channels_last: bool) -> None:
        """NHWC or NCHW, for the weights and the images."""
        memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.model.to(memory_format=memory_format)
        self.input = self.input.contiguous(memory_format=memory_format)

    def _seconds(self, step: Callable[[], None]) -> list[float]:
        """Of two steps, after one that is not timed."""
        seconds = []
        for _ in range(3):
            self._wait()
            start = time.perf_counter()
            step()
            self._wait()
            seconds.append(time.perf_counter() - start)
        return seconds[1:]

    def _wait(self) -> None:
        if self.device.type == 'cuda':
            torch.cuda.synchronize()

    def train_step(self) -> None:
        self.model.zero_grad()
        with self.precision.autocast():
            loss = loss_of(self.model(self.input), self.target)
        loss.backward()

    @torch.no_grad()
    def predict(self) -> None:
        with self.precision.autocast():
            self.model(self.input)

    def time_training(self) -> list[float]:
        """Seconds of forward, loss and backward, twice; none of a model that cannot train."""
        if self.name in FUSED:
            return []
        self.model.train()
        return self._seconds(self.train_step)

    def time_inference(self) -> list[float]:
        """Seconds of a forward pass in evaluation mode, twice."""
        self.model.eval()
        self.model.zero_grad()
        return self._seconds(self.predict)


def _take_turns(
        name: str,
        size: int,
        batch_size: int,
        device: str,
        amp: bool,
        encoder_name: str,
        threads: int,
        connection: Connection,
) -> None:
    """A process of `time_models`: answers each memory format with the seconds of a turn, until it gets None."""
    torch.set_num_threads(threads)
    case = Case(name, size, batch_size, torch.device(device), amp, encoder_name)
    while (channels_last := connection.recv()) is not None:
        case.set_format(channels_last)
        connection.send((case.time_training(), case.time_inference()))


def time_models(
        names: Sequence[str],
        size: int,
        batch_size: int,
        rounds: int,
        device: torch.device,
        amp: bool,
        encoder_name: str,
) -> dict[tuple[str, bool], dict[str, list[float]]]:
    """Seconds of two steps a round, {(name, channels_last): {'training': [...], 'inference': [...]}}."""
    context = multiprocessing.get_context('spawn')
    connections, processes = {}, []
    for name in names:
        connections[name], theirs = context.Pipe()
        process = context.Process(
            target=_take_turns, daemon=True,
            args=(name, size, batch_size, device.type, amp, encoder_name, torch.get_num_threads(), theirs))
        process.start()
        theirs.close()  # so that the end of a process ends the wait for it
        processes.append(process)
    seconds = {key: {'training': [], 'inference': []} for key in itertools.product(names, (False, True))}
    for round_index in range(rounds + 1):
        for (name, channels_last), record in seconds.items():
            try:
                connections[name].send(channels_last)
                training, inference = connections[name].recv()
            except (BrokenPipeError, EOFError):
                raise RuntimeError(f'The process of {name} ended at {size} x {size}, batch {batch_size}.') from None
            if round_index > 0:
                record['training'] += training
                record['inference'] += inference
        print(f'\r{size} x {size}, batch {batch_size}: round {round_index} of {rounds}', end='', file=sys.stderr)
    print(file=sys.stderr)
    for connection, process in zip(connections.values(), processes, strict=True):
        connection.send(None)
        process.join()
    return seconds


def _resident_size(kind: str) -> int:
    """Bytes that this process has ('VmRSS') or has had at the most ('VmHWM') in memory."""
    # getrusage would not do on Linux: there a process starts with the peak of the one that started it
    if sys.platform.startswith('linux'):
        lines = Path('/proc/self/status').read_text().splitlines()
        return 1024 * int(next(line for line in lines if line.startswith(kind)).split()[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _peak_memory(
        name: str, size: int, batch_size: int, channels_last: bool, device: str, encoder_name: str, queue) -> None:
    case = Case(name, size, batch_size, torch.device(device), False, encoder_name)
    case.set_format(channels_last)
    case.model.train()
    before = torch.cuda.memory_allocated() if device == 'cuda' else _resident_size('VmRSS')
    for _ in range(2):
        case.train_step()
    queue.put((torch.cuda.max_memory_allocated() if device == 'cuda' else _resident_size('VmHWM')) - before)


def peak_memory(
        name: str, size: int, batch_size: int, channels_last: bool, device: torch.device, encoder_name: str) -> float:
    """MiB that two training steps need over the process before them, measured in a process of its own."""
    context = multiprocessing.get_context('spawn')
    queue = context.SimpleQueue()
    process = context.Process(target=_peak_memory,
                              args=(name, size, batch_size, channels_last, device.type, encoder_name, queue))
    process.start()
    process.join()
    if process.exitcode != 0:
        raise RuntimeError(f'Measuring the memory of {name} ended with exit status {process.exitcode}.')
    return queue.get() / 2 ** 20


def cost(name: str, size: int, encoder_name: str) -> tuple[float, float]:
    """Millions of parameters, and GMACs of one image in evaluation mode."""
    model = MODELS[name](encoder_name).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.randn(1, 3, size, size))
    return sum(parameter.numel() for parameter in model.parameters()) / 1e6, counter.get_total_flops() / 2e9


def measure(args: argparse.Namespace, size: int, batch_size: int) -> list[dict[str, float | str]]:
    """A row for each model, in its best memory format for each of training and inference, as far as it does both."""
    device = torch.device(args.device)
    seconds = time_models(args.models, size, batch_size, args.rounds, device, args.amp, args.encoder_name)
    rows = []
    for name in args.models:
        params, gmacs = cost(name, size, args.encoder_name)
        row: dict[str, float | str] = {
            'model': name, 'size': size, 'batch_size': batch_size, 'params_m': params, 'gmacs': gmacs}
        for kind in ('training', 'inference'):
            if not seconds[name, False][kind]:
                continue
            medians = {channels_last: statistics.median(seconds[name, channels_last][kind])
                       for channels_last in (False, True)}
            best = min(medians, key=medians.get)
            quartiles = statistics.quantiles(seconds[name, best][kind], n=4)
            row |= {
                f'{kind}_ms': 1e3 * medians[best], f'{kind}_ms_nchw': 1e3 * medians[False],
                f'{kind}_ms_nhwc': 1e3 * medians[True], f'{kind}_ms_quartile_1': 1e3 * quartiles[0],
                f'{kind}_ms_quartile_3': 1e3 * quartiles[2], f'{kind}_format': 'NHWC' if best else 'NCHW'}
        if not args.no_memory and 'training_format' in row:
            row['memory_mib'] = peak_memory(name, size, batch_size, row['training_format'] == 'NHWC', device,
                                            args.encoder_name)
        rows.append(row)
    reference = next((row for row in rows if row['model'] == REFERENCE), rows[0])
    for row in rows:
        for kind in ('training_ms', 'inference_ms', 'memory_mib'):
            if kind in row and kind in reference:
                row[f'{kind.rsplit("_", 1)[0]}_ratio'] = row[kind] / reference[kind]
    return rows


def print_table(rows: Sequence[dict[str, float | str]]) -> None:
    """A Markdown table of one size; ratios are to the reference, quartiles in parentheses."""
    print(f'\n{rows[0]["size"]} x {rows[0]["size"]}, batch {rows[0]["batch_size"]}\n')
    print('| model | M params | GMACs | training ms | ratio | inference ms | ratio | training MiB | ratio |')
    print('|---|---|---|---|---|---|---|---|---|')
    for row in rows:
        cells = [f'`{row["model"]}`', f'{row["params_m"]:.2f}', f'{row["gmacs"]:.2f}']
        for kind in ('training', 'inference'):
            if f'{kind}_ms' not in row:
                cells += ['', '']
                continue
            spread = f'{row[f"{kind}_ms_quartile_1"]:.0f} to {row[f"{kind}_ms_quartile_3"]:.0f}'
            cells += [f'{row[f"{kind}_ms"]:.0f} ({spread}, {row[f"{kind}_format"]})', _ratio(row, kind)]
        cells += [f'{row["memory_mib"]:.0f}', _ratio(row, 'memory')] if 'memory_mib' in row else ['', '']
        print(f'| {" | ".join(cells)} |')


def _ratio(row: dict[str, float | str], kind: str) -> str:
    return f'{row[f"{kind}_ratio"]:.2f}' if f'{kind}_ratio' in row else ''


def main(argv: Sequence[str] | None = None) -> list[dict[str, float | str]]:
    """Measure, print and write; returns the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--models', nargs='+', choices=list(MODELS), metavar='NAME',
                        help='default: all that the kind of measurement has')
    parser.add_argument('--encoder-name', default='rexnetv1', metavar='NAME',
                        help="of all models but for 'rexnetv1', beside which SMP's have tu-rexnet_100")
    parser.add_argument('--sizes', nargs='+', type=int, default=[256])
    parser.add_argument('--batch-sizes', nargs='+', type=int, default=[4])
    parser.add_argument('--rounds', type=int, default=11, help='counted rounds, after one that is not')
    parser.add_argument('--device', default=default_device())
    parser.add_argument('--amp', action='store_true')
    parser.add_argument('--threads', type=int, help='threads on the CPU (default: as torch chooses)')
    parser.add_argument('--no-memory', action='store_true')
    parser.add_argument('--output', type=Path, default=Path('output', 'benchmark'))
    parser.add_argument('--exported', action='store_true', help='exported files instead, with the options below')
    benchmark_exported.add_arguments(parser)
    args = parser.parse_args(argv)
    if args.rounds < 2:
        parser.error(f'--rounds must be at least 2 for a spread, got {args.rounds}')
    known = [name for name in MODELS if not args.exported or name in EXPORTED]
    args.models = args.models or known
    if not set(args.models) <= set(known):
        parser.error(f'--models must be some of {", ".join(known)} with --exported, got '
                     f'{", ".join(sorted(set(args.models) - set(known)))}')
    if args.threads:
        torch.set_num_threads(args.threads)

    args.output.mkdir(parents=True, exist_ok=True)
    if args.exported:
        return benchmark_exported.run(
            args, {name: functools.partial(MODELS[name], args.encoder_name) for name in args.models}, REFERENCE)
    print(f'torch {torch.__version__}, {args.device}, {torch.get_num_threads()} threads, medians of {args.rounds} '
          f'rounds, encoder {args.encoder_name}, ratios to {REFERENCE if REFERENCE in args.models else args.models[0]}')
    rows = []
    for size, batch_size in itertools.product(args.sizes, args.batch_sizes):
        group = measure(args, size, batch_size)
        print_table(group)
        draw_bars(group, args.output / f'benchmark-{size}-{batch_size}.png')
        rows += group
    write_rows(args.output / 'benchmark.csv', rows)
    return rows


if __name__ == '__main__':
    main()
