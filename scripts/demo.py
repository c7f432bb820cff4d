#!/usr/bin/env python3
"""Train the multi-scale U-Net on the built-in images for two or three minutes and draw what it predicts.

`make demo` runs it; it downloads nothing. The picture is written to output/demo/predictions.png.
"""
import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import random_seed

import rexnet_timm
from rexnet_timm.cli.build import default_device
from rexnet_timm.data import SyntheticShapes, create_segmentation_loader, create_segmentation_transform, palette
from rexnet_timm.deployment.pictures import prediction_sheet
from rexnet_timm.training.engine import evaluate, fit

MEAN = STD = (0.5, 0.5, 0.5)


def create_loader(length: int, seed: int, is_training: bool, batch_size: int, image_size: int):
    """Batches of the built-in set; another seed gives other images."""
    dataset = SyntheticShapes(length, (image_size, image_size), seed=seed)
    dataset.transform = create_segmentation_transform(
        is_training, (image_size, image_size), MEAN, STD, dataset.ignore_label, scale=(0.8, 1.25))
    return create_segmentation_loader(dataset, batch_size, is_training, num_workers=1, seed=seed)


def draw_predictions(model: torch.nn.Module, dataset: SyntheticShapes, indices: Sequence[int], path: Path) -> None:
    """Write the sheet of inputs, truths and predictions at every scale."""
    model.eval()
    device = next(model.parameters()).device
    transform, dataset.transform = dataset.transform, None
    raw = [dataset[index] for index in indices]
    dataset.transform = transform
    with torch.no_grad():
        logits = [
            {scale: values[0] for scale, values in model.forward_scales(dataset[index][0][None].to(device)).items()}
            for index in indices
        ]
    sheet = prediction_sheet(
        [image for image, _ in raw], [target for _, target in raw], logits, dataset.class_names,
        palette(len(dataset.class_names)))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    """Run the demo; returns the metrics on held-out images in percent."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--epochs', type=int, default=7, help='epochs of training (default: %(default)s)')
    parser.add_argument('--train-images', type=int, default=512, help='images to train on (default: %(default)s)')
    parser.add_argument('--held-out-images', type=int, default=64, help='images to test on (default: %(default)s)')
    parser.add_argument('--image-size', type=int, default=128, help='side in pixels (default: %(default)s)')
    parser.add_argument('--batch-size', type=int, default=8, help='images in a batch (default: %(default)s)')
    parser.add_argument('--seed', type=int, default=0, help='seed of images and training (default: %(default)s)')
    parser.add_argument('--output', type=Path, default=Path('output', 'demo', 'predictions.png'),
                        help='picture to write (default: %(default)s)')
    args = parser.parse_args(argv)

    random_seed(args.seed)
    device = torch.device(default_device())
    train_loader = create_loader(args.train_images, args.seed, True, args.batch_size, args.image_size)
    eval_loader = create_loader(args.held_out_images, args.seed + 1, False, args.batch_size, args.image_size)
    dataset = eval_loader.dataset
    num_classes = len(dataset.class_names)
    model = rexnet_timm.MultiScaleUnet('rexnetv1', classes=num_classes).to(device, memory_format=torch.channels_last)
    task = rexnet_timm.SegmentationTask(
        model, num_classes, ignore_index=dataset.ignore_label, class_names=dataset.class_names, device=device,
        verbose=False)
    optimizer = create_optimizer_v2(model, opt='adamw', lr=2e-3, weight_decay=0.01)
    lr_scheduler, epochs = create_scheduler_v2(
        optimizer, sched='cosine', num_epochs=args.epochs, warmup_epochs=1, warmup_lr=1e-4, step_on_epochs=False,
        updates_per_epoch=len(train_loader))

    print(f'Training rexnetv1_unet on {args.train_images} built-in images of {args.image_size} x {args.image_size}, '
          f'{epochs} epochs on {device.type}')
    fit(
        task, train_loader, eval_loader, optimizer, epochs, lr_scheduler=lr_scheduler, channels_last=True,
        progress=True)
    metrics = evaluate(task, eval_loader, channels_last=True)

    print(f'\nIoU on {args.held_out_images} held-out images, in percent')
    for name in dataset.class_names:
        print(f'  {name:<12} {metrics["iou_" + name]:5.1f}')
    print(f'  {"mean":<12} {metrics["miou"]:5.1f}')
    draw_predictions(model, dataset, range(min(6, len(dataset))), args.output)
    print(f'\nInput, truth and the prediction at every scale: {args.output}')
    return metrics


if __name__ == '__main__':
    main()
    sys.exit(0)
