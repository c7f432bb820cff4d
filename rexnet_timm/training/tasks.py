""" Tasks of dense prediction

Segmentation and depth for timm's training task interface (timm/task/task.py): the loop gets a dict with `loss` and
`output` and an evaluator, and knows nothing else about them.
"""
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.distributed as dist
import torch.nn as nn
import torch.nn.functional as F
from timm.task import ClassificationTask

from ..disparity import disparity_to_depth
from .depth_losses import MultiScaleDepthLoss
from .losses import MultiScaleLoss
from .metrics import ConfusionMatrix, DepthErrors

__all__ = ['DepthEvaluator', 'DepthTask', 'SegmentationEvaluator', 'SegmentationTask']


class _Evaluator:
    """What the evaluators share, with the interface of timm's `ClassificationEvaluator`: the mean loss, and the samples
    that are padding. Subclasses count errors in `counts` and `_count`.

    Attributes:
        default_metric: The metric that ranks checkpoints unless another is asked for.
        decreasing_metrics: Those that are better the lower they are.
    """

    default_metric: str
    decreasing_metrics: tuple[str, ...] = ('loss',)

    def __init__(
            self,
            counts: ConfusionMatrix | DepthErrors,
            criterion: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None,
            device: torch.device | str | None,
            max_samples: int | None,
    ):
        self.counts = counts
        self.criterion = criterion
        self.max_samples = max_samples
        self.loss_sum = torch.zeros(2, device=device)  # summed loss, images
        self.num_samples = 0

    @torch.no_grad()
    def update(self, output: torch.Tensor, target: torch.Tensor) -> None:
        """Count a batch: output (N, C, H, W) and target (N, H, W)."""
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
        self._count(output, target)

    def _count(self, output: torch.Tensor, target: torch.Tensor) -> None:
        raise NotImplementedError

    def _summary(self, counts: ConfusionMatrix | DepthErrors) -> dict[str, float]:
        return counts.summary()

    def compute(self, distributed: bool = False) -> OrderedDict[str, float]:
        """Mean loss and metrics; with `distributed` over all ranks, each of which must call it."""
        counts, loss_sum = self.counts, self.loss_sum.clone()
        if distributed:
            counts = counts.reduce()
            dist.all_reduce(loss_sum)
        metrics = OrderedDict()
        if self.criterion is not None:
            metrics['loss'] = (loss_sum[0] / loss_sum[1].clamp(min=1)).item()
        metrics.update(self._summary(counts))
        return metrics


class SegmentationEvaluator(_Evaluator):
    """Loss and confusion-matrix metrics of a data set, in percent.

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
        matrix = ConfusionMatrix(max(num_classes, 2), ignore_index, device)
        super().__init__(matrix, criterion, device, max_samples)
        self.binary = num_classes == 1
        self.class_names = class_names

    def _count(self, output: torch.Tensor, target: torch.Tensor) -> None:
        self.counts.update((output[:, 0] > 0).long() if self.binary else output.argmax(1), target)

    def _summary(self, counts: ConfusionMatrix) -> dict[str, float]:
        return counts.summary(self.class_names)


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


class DepthEvaluator(_Evaluator):
    """Loss and errors of depth of a data set, from the finest disparity; see `DepthErrors` for the metrics.

    Args:
        min_depth: Depth of disparity 1, in metres; nearer pixels do not count.
        max_depth: Depth of disparity 0, in metres; farther pixels do not count.
        criterion: Loss of (disparity, depth), reported as a mean over images; None reports none.
        device: Device of the running totals.
        max_samples: Images of this rank beyond this number are padding of the distributed sampler and do not count.
    """

    default_metric = 'abs_rel'
    decreasing_metrics = ('loss', 'abs_rel', 'rmse')

    def __init__(
            self,
            min_depth: float = 0.1,
            max_depth: float = 100.,
            criterion: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None,
            device: torch.device | str | None = None,
            max_samples: int | None = None,
    ):
        super().__init__(DepthErrors(min_depth, max_depth, device), criterion, device, max_samples)

    def update(self, output: Mapping[tuple[str, int], torch.Tensor], target: torch.Tensor) -> None:
        """Count a batch: {('disp', scale): (N, 1, h, w)} in 0 to 1 and depth (N, H, W)."""
        super().update(_finest(output), target)

    def _count(self, output: torch.Tensor, target: torch.Tensor) -> None:
        if output.shape[-2:] != target.shape[-2:]:
            output = F.interpolate(output, size=target.shape[-2:], mode='bilinear', align_corners=False)
        depth = disparity_to_depth(output[:, 0], self.counts.min_depth, self.counts.max_depth)
        self.counts.update(depth, target)


def _finest(output: Mapping[tuple[str, int], torch.Tensor]) -> torch.Tensor:
    return output[min(output, key=lambda key: key[1])]


class DepthTask(ClassificationTask):
    """Supervised depth estimation, at one or several scales.

    Compilation, distribution, EMA and checkpoints are those of timm's task for one model and one criterion.

    Args:
        model: Network whose output is {('disp', scale): (N, 1, h, w)} in 0 to 1, such as `ReXDepth`.
        criterion: Loss of (outputs, depth, images), which also tells the range of depths. None: `MultiScaleDepthLoss`.
        device: Device of the task's tensors.
        verbose: Whether to log the criterion.
    """

    def __init__(
            self,
            model: nn.Module,
            criterion: MultiScaleDepthLoss | None = None,
            device: torch.device | None = None,
            verbose: bool = True,
    ):
        super().__init__(model, criterion or MultiScaleDepthLoss(), device=device, verbose=verbose)

    def create_evaluator(self, **kwargs) -> DepthEvaluator:
        """A fresh evaluator of the model's output."""
        criterion = self.criterion
        return DepthEvaluator(
            criterion.min_depth, criterion.max_depth, criterion.finest, device=self.device, **kwargs)

    def set_epoch(self, epoch: int) -> None:
        """Tell the number of the epoch, which the weights of the scales may follow."""
        self.criterion.set_epoch(epoch)

    def forward(self, input: torch.Tensor, target: torch.Tensor) -> dict[str, torch.Tensor]:
        """Losses of a batch.

        Args:
            input: (N, in_channels, H, W) images.
            target: (N, H, W) depth; 0, NaN or out of range where it does not count.

        Returns:
            {'loss': scalar to minimise, 'output': finest disparity, 'loss_scale_S': loss of scale S, ...,
            'loss_smooth'}
        """
        outputs = self.trainable_module(input)
        return {**self.criterion(outputs, target, input), 'output': _finest(outputs)}
