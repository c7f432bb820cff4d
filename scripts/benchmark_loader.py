#!/usr/bin/env python3
"""Images a second of the loader alone, at full augmentation, beside the customary pipeline.

    python scripts/benchmark_loader.py DATA --num-classes 11 --ignore-index 11 --workers 0 1 2
    pip install --target /tmp/albumentations albumentations    # for the measurement only
    python scripts/benchmark_loader.py DATA --num-classes 11 --beside /tmp/albumentations

Each pipeline reads, scales, crops, mirrors, changes colours, normalises and batches the training images of a folder,
and nothing takes the batches. The pipelines take turns in every round, and medians and ratios are of the rounds. Beside
the time on the clock stands the time that processors worked, workers included, which other programs on the machine
hardly change. Albumentations gets the same operations in its own words: OpenCV reads, a random scale of the whole image
from 0.5 to 2, padding, a crop, a mirror, brightness, contrast, saturation and hue, normalisation.
"""
import argparse
import json
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from rexnet_timm.data import SegmentationFolder, create_segmentation_loader, create_segmentation_transform

MEAN_COLOR = (124, 116, 104)
JITTER = 0.4


class Customary(Dataset):
    """The same files through OpenCV and Albumentations."""

    def __init__(self, files: Sequence[tuple[str, str]], size: int, ignore_label: int) -> None:
        os.environ['NO_ALBUMENTATIONS_UPDATE'] = '1'  # it would ask a server for its latest release
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            import albumentations
            import cv2
            from albumentations.pytorch import ToTensorV2
        cv2.setNumThreads(0)
        self.files, self.cv2, self.release = files, cv2, albumentations.__version__
        low, high = 1 - JITTER, 1 + JITTER
        self.transform = albumentations.Compose([
            albumentations.RandomScale(scale_limit=(-0.5, 1.), p=1.),
            albumentations.PadIfNeeded(
                size, size, border_mode=cv2.BORDER_CONSTANT, fill=MEAN_COLOR, fill_mask=ignore_label),
            albumentations.RandomCrop(size, size),
            albumentations.HorizontalFlip(p=0.5),
            albumentations.ColorJitter(
                brightness=(low, high), contrast=(low, high), saturation=(low, high), hue=(-0.1 * JITTER, 0.1 * JITTER),
                p=1.),
            albumentations.Normalize(),
            ToTensorV2()])

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        image, mask = self.files[index]
        image = self.cv2.cvtColor(self.cv2.imread(image), self.cv2.COLOR_BGR2RGB)
        sample = self.transform(image=image, mask=self.cv2.imread(mask, self.cv2.IMREAD_UNCHANGED))
        return sample['image'], sample['mask'].long()


class Decoded(Dataset):
    """Only the decoders: what every pipeline on these files has to do first."""

    def __init__(self, files: Sequence[tuple[str, str]]) -> None:
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> int:
        from PIL import Image

        for path in self.files[index]:
            with Image.open(path) as picture:
                picture.load()
        return index


def work_of(loader: Iterable[Any], batches: int) -> tuple[float, float]:
    """Seconds on the clock, and seconds that processors worked, for so many batches."""
    start, before = time.perf_counter(), os.times()
    iterator = iter(loader)
    for _ in islice(iterator, batches):
        pass
    del iterator  # ends the workers, whose time then counts
    after = os.times()
    worked = sum(getattr(after, name) - getattr(before, name) for name in (
        'user', 'system', 'children_user', 'children_system'))
    return time.perf_counter() - start, worked


def loaders_of(args: argparse.Namespace, workers: int) -> dict[str, Iterable[Any]]:
    data = SegmentationFolder(args.data, args.split, args.num_classes, args.ignore_index)
    data.transform = create_segmentation_transform(
        True, args.img_size, ignore_label=data.ignore_label, color_jitter=JITTER)
    files = [tuple(map(os.fspath, data.paths(index))) for index in range(len(data))]
    shared = dict(batch_size=args.batch_size, num_workers=workers)
    loaders: dict[str, Iterable[Any]] = {
        'rexnet': create_segmentation_loader(data, args.batch_size, True, workers),
        'decoding': DataLoader(Decoded(files), shuffle=True, **shared)}
    if args.beside:
        loaders['albumentations'] = DataLoader(
            Customary(files, args.img_size, data.ignore_label), shuffle=True, drop_last=True, **shared)
    return loaders


def measure(args: argparse.Namespace, workers: int, tell: Callable[[str], None]) -> list[dict[str, Any]]:
    """A row for each pipeline with a number of workers."""
    loaders = loaders_of(args, workers)
    batches = args.batches or min(map(len, loaders.values()))
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in loaders}
    for number in range(args.rounds + 1):
        for name, loader in loaders.items():
            found = work_of(loader, batches)
            if number:  # the first round warms up
                seconds[name].append(found)
        tell(f'{workers} workers: round {number} of {args.rounds}')
    images, rows = batches * args.batch_size, []
    for name, found in seconds.items():
        clock, work = zip(*found, strict=True)
        ratios = [[ours[place] / other[place] for ours, other in zip(found, seconds['rexnet'], strict=True)]
                  for place in (0, 1)]
        rows.append({
            'workers': workers, 'pipeline': name, 'images_per_s': round(images / statistics.median(clock), 1),
            'ms_of_work': round(1000 * statistics.median(work) / images, 2),
            'rexnet_faster': round(statistics.median(ratios[0]), 2),
            'rexnet_less_work': round(statistics.median(ratios[1]), 2)})
    return rows


def main(argv: Sequence[str] | None = None) -> list[dict[str, Any]]:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument('data', metavar='DATA', help='folder of images and masks')
    parser.add_argument('--split', default='train')
    parser.add_argument('--num-classes', type=int, required=True)
    parser.add_argument('--ignore-index', type=int)
    parser.add_argument('--img-size', type=int, default=224)
    parser.add_argument('--batch-size', type=int, default=8)
    parser.add_argument('--batches', type=int, help='of a round; left out: all of an epoch')
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--workers', type=int, nargs='+', default=[1, 2])
    parser.add_argument('--beside', metavar='FOLDER', help='where pip installed Albumentations by --target')
    parser.add_argument('--json', metavar='FILE', help='where the rows are written')
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    if args.beside:
        sys.path.append(args.beside)  # behind what is installed, of which nothing is replaced
    rows = []
    for workers in args.workers:
        rows += measure(args, workers, lambda text: print(text, file=sys.stderr, flush=True))
    form = '{workers:>7} {pipeline:<15} {images_per_s:>9} {ms_of_work:>11} {rexnet_faster:>13} {rexnet_less_work:>12}'
    print(form.format(
        workers='workers', pipeline='pipeline', images_per_s='images/s', ms_of_work='ms of work',
        rexnet_faster='clock/rexnet', rexnet_less_work='work/rexnet'))
    for row in rows:
        print(form.format(**row))
    if args.json:
        with open(args.json, 'w', encoding='utf-8') as file:
            json.dump(rows, file, indent=1)
    return rows


if __name__ == '__main__':
    main()
