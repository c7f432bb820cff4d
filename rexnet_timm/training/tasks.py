"""Tasks of dense prediction

Segmentation and depth for timm's training task interface (timm/task/task.py): the loop gets a dict with `loss` and
`output` and an evaluator, and knows nothing else about them.
"""
import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
import torch.nn as nn
from timm.task import ClassificationTask

from ..disparity import disparity_to_depth, valid_depth
from ..grid import enlarge
from .base_losses import create_segmentation_loss
from .depth_losses import MultiScaleDepthLoss
from .losses import MultiScaleLoss
from .metrics import ConfusionMatrix, DepthErrors, distinct_names
from .targets import scale_of

_logger = logging.getLogger(__name__)

__all__ = ['DepthEvaluator', 'DepthTask', 'SegmentationEvaluator', 'SegmentationTask']


class _Evaluator:
    """What the evaluators share, with the interface of timm's `ClassificationEvaluator`: the mean loss, and the samples
    that are padding. Subclasses count errors in `counts` and `_count`.

    The loss is that of each image by itself, as a mean over the images that have a labelled pixel. So it depends on
    neither the batch size nor the number of ranks, whatever the images' shares of ignored pixels.

    Attributes:
        default_metric: The metric that ranks checkpoints unless another is asked for.
        decreasing_metrics: Those that are better the lower they are.
    """

    default_metric: str
    decreasing_metrics: tuple[str, ...] = ('loss',)
    _nothing_counted: str  # the rule, what was found and the remedy where no pixel counted

    def __init__(
            self,
            counts: ConfusionMatrix | DepthErrors,
            criterion: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None,
            device: torch.device | str | None,
            max_samples: int | None,
    ):
        self.counts: Any = counts  # of the subclass's kind
        self.criterion = criterion
        self.max_samples = max_samples
        dtype = torch.float32 if torch.device(device or 'cpu').type == 'mps' else torch.float64  # MPS lacks it
        self.loss_sum = torch.zeros(2, dtype=dtype, device=device)  # summed loss, images
        self.num_samples = 0

    @property
    def metric_names(self) -> tuple[str, ...]:
        """Names of what `compute` returns, in its order."""
        return (*(() if self.criterion is None else ('loss',)), *self._summary(self.counts))

    @torch.no_grad()
    def update(self, output: Any, target: torch.Tensor) -> None:
        """Count a batch: output (N, C, H, W) and target (N, H, W)."""
        if self.max_samples is not None:
            count = max(0, self.max_samples - self.num_samples)
            output, target = output[:count], target[:count]
        self.num_samples += output.shape[0]
        if not output.shape[0]:
            return
        output = output.float()
        self._count(output, target)
        if self.criterion is not None:
            counted = self._counted(target).flatten(1).any(1).to(self.loss_sum.device)
            losses = torch.stack([
                self.criterion(output[index:index + 1], target[index:index + 1]) for index in range(len(output))])
            losses = torch.where(counted, losses.to(self.loss_sum), 0.)
            self.loss_sum += torch.stack([losses.sum(), counted.sum()])

    def _count(self, output: torch.Tensor, target: torch.Tensor) -> None:
        raise NotImplementedError

    def _counted(self, target: torch.Tensor) -> torch.Tensor:
        """Which pixels count: bool of the target's shape."""
        raise NotImplementedError

    def _summary(self, counts: Any) -> dict[str, float]:
        return counts.summary()

    def compute(self, distributed: bool = False) -> OrderedDict[str, float]:
        """Mean loss and metrics; with `distributed` over all ranks, each of which must call it.

        Raises:
            ValueError: No pixel of any image was counted, so that no metric has a value.
        """
        counts, loss_sum = self.counts, self.loss_sum.clone()
        if distributed:
            counts = counts.reduce()
            dist.all_reduce(loss_sum)
        if counts.is_empty:
            raise ValueError(self._nothing_counted)
        metrics = OrderedDict()
        if self.criterion is not None:
            metrics['loss'] = (loss_sum[0] / loss_sum[1]).item()
        metrics.update(self._summary(counts))
        return metrics


class SegmentationEvaluator(_Evaluator):
    """Loss and confusion-matrix metrics of a data set, in percent.

    Args:
        num_classes: Channels of the logits; 1 is a binary mask, whose classes are background and foreground.
        ignore_index: Label of pixels that do not count; see `ConfusionMatrix` where it is one of the classes.
        class_names: Names of the classes in the report, one for each; of a binary mask that of the foreground, or
            both. Equal names get the number of their class.
        criterion: Loss of (logits, target), reported as a mean over images; None reports none.
        device: Device of the running totals.
        max_samples: Images of this rank beyond this number are padding of the distributed sampler and do not count.

    Raises:
        ValueError: More or fewer names than classes.
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
        self.num_classes = num_classes
        self.class_names = _names_of_classes(class_names, num_classes)
        self._nothing_counted = (
            'An evaluation must have a labelled pixel, got none: there is no image, or all labels are the ignore_index '
            f'{ignore_index}; correct the masks or the ignore_index.')

    def update(self, output: torch.Tensor, target: torch.Tensor) -> None:
        """Count a batch.

        Args:
            output: (N, num_classes, H, W) logits.
            target: (N, H, W) or (N, 1, H, W) labels.

        Raises:
            ValueError: Other shapes, or labels that are neither a class nor ignored.
        """
        if target.ndim == 4 and target.shape[1] == 1:
            target = target[:, 0]
        if output.ndim != 4 or output.shape[1] != self.num_classes or target.ndim != 3:
            raise ValueError(
                f'The evaluator takes logits (N, {self.num_classes}, H, W) and labels (N, H, W), got '
                f'{tuple(output.shape)} and {tuple(target.shape)}; masks of several labels a pixel have no confusion '
                'matrix.')
        super().update(output, target)

    def _count(self, output: torch.Tensor, target: torch.Tensor) -> None:
        self.counts.update((output[:, 0] > 0).long() if self.num_classes == 1 else output.argmax(1), target)

    def _counted(self, target: torch.Tensor) -> torch.Tensor:
        ignored = self.counts.ignore_index
        return torch.ones_like(target, dtype=torch.bool) if ignored is None else target != ignored

    def _summary(self, counts: ConfusionMatrix) -> dict[str, float]:
        return counts.summary(self.class_names)


def _names_of_classes(class_names: Sequence[str] | None, num_classes: int) -> Sequence[str] | None:
    if num_classes == 1 and class_names is not None and not isinstance(class_names, str):
        if len(class_names) not in (1, 2):
            raise ValueError(
                f'class_names of a binary mask must be that of the foreground, or those of background and foreground, '
                f'got {len(class_names)}: {", ".join(map(str, class_names))}.')
        class_names = ['background', *class_names][-2:]
    return None if class_names is None else distinct_names(class_names, max(num_classes, 2))


class SegmentationTask(ClassificationTask):
    """Supervised semantic segmentation, at one or several scales.

    Compilation, distribution, EMA and checkpoints are those of timm's task for one model and one criterion.

    Args:
        model: Network whose training output is logits (N, C, H, W), or a sequence of them, finest first.
        num_classes: Channels of the logits; 1 is a binary mask.
        criterion: Base loss of (logits, target), or a `MultiScaleLoss`. None: cross entropy, binary for one channel.
        ignore_index: Label without loss and without a say in the metrics; None asks the criterion for its attribute.
        class_names: Names of the classes in the evaluator's report, as for `SegmentationEvaluator`.
        device: Device of the task's tensors.
        verbose: Whether to log the criterion.

    Raises:
        ValueError: More or fewer names than classes.
    """
    criterion: Any

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
            criterion = create_segmentation_loss('ce', num_classes, ignore_index)
        if not isinstance(criterion, MultiScaleLoss):
            criterion = MultiScaleLoss(criterion, ignore_index=ignore_index)
        names = _names_of_classes(class_names, num_classes)
        super().__init__(model, criterion, device=device, verbose=verbose)
        self.num_classes = num_classes
        self.ignore_index = criterion.ignore_index if ignore_index is None else ignore_index
        self.class_names = class_names
        if verbose and class_names is not None and len(set(class_names)) < len(class_names):
            told = ', '.join(names or ())
            _logger.warning(f'Several classes have one name, and are reported with their numbers: {told}.')

    def create_evaluator(self, **kwargs: Any) -> SegmentationEvaluator:
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
            target: (N, H, W) int64 labels, or what else `MultiScaleLoss` takes.

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
        self._nothing_counted = (
            'An evaluation must have a pixel of known depth, got none: there is no image, or all depths are missing or '
            f'outside min_depth {min_depth} to max_depth {max_depth}; correct the depths, their unit, or the range.')

    def update(self, output: Mapping[tuple[str, int], torch.Tensor], target: torch.Tensor) -> None:
        """Count a batch: {('disp', scale): (N, 1, h, w)} in 0 to 1 and depth (N, H, W).

        A finest disparity of a coarse scale is enlarged by 2**scale and cut.

        Raises:
            ValueError: A finest disparity of no scale of the depth's size.
        """
        super().update(_finest(output), target)

    def _counted(self, target: torch.Tensor) -> torch.Tensor:
        return valid_depth(target, self.counts.min_depth, self.counts.max_depth)

    def _count(self, output: torch.Tensor, target: torch.Tensor) -> None:
        size = (target.shape[-2], target.shape[-1])
        output = enlarge(output, scale_of(output.shape[-2:], size), size)
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
    criterion: Any

    def __init__(
            self,
            model: nn.Module,
            criterion: MultiScaleDepthLoss | None = None,
            device: torch.device | None = None,
            verbose: bool = True,
    ):
        super().__init__(model, criterion or MultiScaleDepthLoss(), device=device, verbose=verbose)

    def create_evaluator(self, **kwargs: Any) -> DepthEvaluator:
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
