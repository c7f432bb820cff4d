""" Segmentation task

Segmentation for timm's training task interface (timm/task/task.py): the loop gets a dict with `loss` and `output` and
an evaluator, and knows nothing else about segmentation.
"""
from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
import torch.nn as nn
from timm.task import ClassificationTask

from .losses import MultiScaleLoss
from .metrics import ConfusionMatrix

__all__ = ['SegmentationEvaluator', 'SegmentationTask']


class SegmentationEvaluator:
    """Loss and confusion-matrix metrics of a data set, with the interface of timm's `ClassificationEvaluator`.

    Args:
        num_classes: Channels of the logits; 1 is a binary mask, whose classes are background and foreground.
        ignore_index: Label of pixels that do not count.
        class_names: Names of the classes in the report.
        criterion: Loss of (logits, target), reported as a mean over images; None reports none.
        device: Device of the running totals.
        max_samples: Images of this rank beyond this number are padding of the distributed sampler and do not count.
    """

    default_metric = 'miou'

    def __init__(
            self,
            num_classes: int,
            ignore_index: int | None = None,
            class_names: Sequence[str] | None = None,
            criterion: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None,
            device: torch.device | str | None = None,
            max_samples: int | None = None,
    ):
        self.binary = num_classes == 1
        self.class_names = class_names
        self.criterion = criterion
        self.max_samples = max_samples
        self.matrix = ConfusionMatrix(max(num_classes, 2), ignore_index, device)
        self.loss_sum = torch.zeros(2, device=device)  # summed loss, images
        self.num_samples = 0

    @torch.no_grad()
    def update(self, output: torch.Tensor, target: torch.Tensor) -> None:
        """Count a batch: logits (N, C, H, W) and labels (N, H, W)."""
        if self.max_samples is not None:
            count = max(0, self.max_samples - self.num_samples)
            output, target = output[:count], target[:count]
        self.num_samples += output.shape[0]
        if not output.shape[0]:
            return
        output = output.float()
        if self.criterion is not None:
            loss = self.criterion(output, target).float()
            self.loss_sum += torch.stack([loss * output.shape[0], torch.full_like(loss, output.shape[0])])
        prediction = (output[:, 0] > 0).long() if self.binary else output.argmax(1)
        self.matrix.update(prediction, target)

    def compute(self, distributed: bool = False) -> OrderedDict[str, float]:
        """Metrics in percent and the mean loss; with `distributed` over all ranks, each of which must call it."""
        matrix, loss_sum = self.matrix, self.loss_sum.clone()
        if distributed:
            matrix = matrix.reduce()
            dist.all_reduce(loss_sum)
        metrics = OrderedDict()
        if self.criterion is not None:
            metrics['loss'] = (loss_sum[0] / loss_sum[1].clamp(min=1)).item()
        metrics.update(matrix.summary(self.class_names))
        return metrics


class SegmentationTask(ClassificationTask):
    """Supervised semantic segmentation, at one or several scales.

    Compilation, distribution, EMA and checkpoints are those of timm's task for one model and one criterion.

    Args:
        model: Network whose training output is logits (N, C, H, W), or a sequence of them, finest first.
        num_classes: Channels of the logits.
        criterion: Base loss of (logits, target), or a `MultiScaleLoss`. None: cross entropy.
        ignore_index: Label without loss and without a say in the metrics.
        class_names: Names of the classes in the evaluator's report.
        device: Device of the task's tensors.
        verbose: Whether to log the criterion.
    """

    def __init__(
            self,
            model: nn.Module,
            num_classes: int,
            criterion: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None,
            ignore_index: int | None = None,
            class_names: Sequence[str] | None = None,
            device: torch.device | None = None,
            verbose: bool = True,
    ):
        if criterion is None:
            criterion = nn.CrossEntropyLoss(ignore_index=-100 if ignore_index is None else ignore_index)
        if not isinstance(criterion, MultiScaleLoss):
            criterion = MultiScaleLoss(criterion, ignore_index=ignore_index)
        super().__init__(model, criterion, device=device, verbose=verbose)
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.class_names = class_names

    def create_evaluator(self, **kwargs) -> SegmentationEvaluator:
        """A fresh evaluator of the model's evaluation output."""
        return SegmentationEvaluator(
            self.num_classes, self.ignore_index, self.class_names, self.criterion.finest, device=self.device, **kwargs)

    def set_epoch(self, epoch: int) -> None:
        """Tell the number of the epoch, which the weights of the scales may follow."""
        self.criterion.set_epoch(epoch)

    def forward(self, input: torch.Tensor, target: torch.Tensor) -> dict[str, torch.Tensor]:
        """Losses of a batch.

        Args:
            input: (N, in_channels, H, W) images.
            target: (N, H, W) int64 labels.

        Returns:
            {'loss': scalar to minimise, 'output': finest logits, 'loss_scale_S': loss of scale S, ...}
        """
        output = self.trainable_module(input)
        losses = self.criterion.forward_scales(output, target)
        return {**losses, 'output': output if isinstance(output, torch.Tensor) else output[0]}
