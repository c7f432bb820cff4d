"""The model card of a saved model: what it is, how it is used, how it was trained and how it scores."""
import json
from collections.abc import Mapping
from typing import Any

import torch.nn as nn
import yaml
from huggingface_hub import ModelCard, ModelCardData
from segmentation_models_pytorch.base import SegmentationModel
from timm.models import get_model_args

__all__ = ['create_model_card']

UNKNOWN = 'Not recorded.'
PLACE = 'FOLDER'
TIMM_LINE = f"model = timm.create_model('local-dir:{PLACE}', pretrained=True).eval()"
# Of results.json: its names, and what stands on the card
SCORES = {
    'miou': 'mIoU', 'mdice': 'Dice', 'pixel_acc': 'pixel accuracy', 'mboundary_iou': 'boundary IoU',
    'ece': 'calibration error', 'abs_rel': 'AbsRel', 'rmse': 'RMSE (m)', 'delta1': 'delta < 1.25', 'top1': 'top 1',
    'top5': 'top 5'}
IN_UNITS = ('abs_rel', 'rmse')  # everything else is in percent
OF_CLASS = {'iou': 'IoU', 'dice': 'Dice', 'precision': 'precision', 'recall': 'recall'}
PIPELINES = {
    'segmentation': 'image-segmentation', 'depth': 'depth-estimation', 'classification': 'image-classification'}

OUTPUTS = {'segmentation': 'mask.png', 'depth': 'depth.png', 'classification': 'classes.csv'}


def create_model_card(
        model: nn.Module,
        dataset: str | None = None,
        metrics: Mapping[str, Any] | str | None = None,
        training: Mapping[str, Any] | str | None = None,
        *,
        results: Mapping[str, Any] | None = None,
        picture: str | None = None,
        usage: str = '',
        source: str | None = None,
        license: str | None = None,
) -> ModelCard:
    """The card of a model; `card.save(folder / 'README.md')` writes it, and `save_pretrained` leaves it as it is.

    Args:
        model: A `MultiScaleUnet`, any of SMP's models, or one by a name of timm.
        dataset: Name of the data it was trained on.
        metrics: Scores by name, or text.
        training: How it was trained: arguments by name (the content of a run's args.yaml), or text.
        results: Scores as a validation writes them in results.json, where `metrics` is not given.
        picture: Name of a picture in the folder of the card.
        usage: Further Markdown on how it is used.
        source: What `rexnet_timm.load_model` takes for it, 'hf-hub:USER/NAME' or a folder; None leaves the word FOLDER.
        license: The Hub's name of the licence of the weights ('mit', 'cc-by-nc-4.0'), which the data of the training
            may decide; None names none.

    Returns:
        The card, in Markdown, with the Hub's fields above it.
    """
    is_smp = isinstance(model, SegmentationModel)
    title, facts, code, arguments = (_facts_of_smp if is_smp else _facts_of_timm)(model)
    description = getattr(model, 'description', None)
    task = getattr(description, 'task', 'segmentation' if is_smp else 'classification')
    library = 'segmentation-models-pytorch' if is_smp else 'timm'
    fields = ModelCardData(
        license=license, library_name=library, pipeline_tag=PIPELINES[task],
        tags=[library, 'rexnet_timm', *(['semantic-segmentation'] if task == 'segmentation' else []), 'pytorch'])
    names = list(getattr(description, 'class_names', ()))
    return ModelCard(f"""---
{fields.to_yaml()}
---

# {title}

{facts}
{_picture(picture)}
## Use

{_use(code, OUTPUTS[task], usage, source)}

## Training

Data: {dataset or UNKNOWN}

{_training(training)}

## Scores

{_results(results) if metrics is None and results is not None else _metrics(metrics)}
{_classes(names, results or {})}
## Arguments

```json
{json.dumps(arguments, indent=2)}
```
""")


def _use(code: str, output: str, usage: str, source: str | None) -> str:
    start = '' if source else f'With `{PLACE}` this folder, or the name of its repository on the Hub:\n\n'
    predict = f"""import rexnet_timm

model = rexnet_timm.load_model('{PLACE}')
rexnet_timm.predict(model, 'photo.jpg').save('{output}')"""
    text = f'```python\n{code}\n```\n\n```python\n{predict}\n```\n\n{usage}'.rstrip()
    if source:
        name = source.removeprefix('hf-hub:')
        text = text.replace(f'({PLACE})', f'({name!r})')
        text = text.replace(f'local-dir:{PLACE}', source if name != source else f'local-dir:{source}')
        text = text.replace(PLACE, source)
    return start + text


def _facts_of_smp(model: SegmentationModel) -> tuple[str, str, str, dict[str, Any]]:
    """Title, sentences, code that loads it, and arguments."""
    name = type(model).__name__
    config = {key: value for key, value in model.config.items() if not key.startswith('_')}
    scales = getattr(model, 'scales', None)
    package, lines = 'rexnet_timm', ['import rexnet_timm', '', f'model = rexnet_timm.{name}.from_pretrained({PLACE})']
    if scales is None:
        package = 'segmentation_models_pytorch'
        lines = [
            'import segmentation_models_pytorch as smp', 'import rexnet_timm  # registers the encoder', '',
            f'model = smp.{name}.from_pretrained({PLACE})']
    kind = 'A segmentation network' if scales is None else (
        f'A U-Net with logits at scales {", ".join(map(str, scales))} (sizes H / 2^scale x W / 2^scale)')
    facts = (
        f'{kind}: {config["in_channels"]} channels in, {config["classes"]} classes out, {_parameters(model)}.\n'
        f'It is `{name}` of {package} on the encoder `{config["encoder_name"]}`.')
    if getattr(model, 'pretrained_cfg', None):
        facts += f' timm knows it as `{model.pretrained_cfg["architecture"]}`.'
        lines += ['', '# or', 'import timm', '', TIMM_LINE]
    return f'{name} on {config["encoder_name"]}', facts, '\n'.join(lines), config


def _facts_of_timm(model: Any) -> tuple[str, str, str, dict[str, Any]]:
    name = model.pretrained_cfg['architecture']
    lines = ['import timm', 'import rexnet_timm  # registers its models', '', TIMM_LINE]
    outputs = f'disparity at scales {", ".join(map(str, model.scales))}' if hasattr(model, 'scales') else (
        f'{model.num_classes} classes out')
    facts = f'`{name}` by its name in timm: {outputs}, {_parameters(model)}.'
    return name, facts, '\n'.join(lines), get_model_args(model)


def _parameters(model: nn.Module) -> str:
    return f'{sum(parameter.numel() for parameter in model.parameters()) / 1e6:.2f} M parameters'


def _picture(name: str | None) -> str:
    return f'\n![Input, truth and prediction of an image]({name})\n' if name else ''


def _training(training: Mapping[str, Any] | str | None) -> str:
    if isinstance(training, Mapping):
        return f'```yaml\n{yaml.safe_dump(dict(training), default_flow_style=False)}```'
    return training or UNKNOWN


def _metrics(metrics: Mapping[str, Any] | str | None) -> str:
    if isinstance(metrics, Mapping):
        return '\n'.join(['| score | value |', '|---|---|', *(f'| {k} | {v} |' for k, v in metrics.items())])
    return metrics or UNKNOWN


def _results(results: Mapping[str, Any]) -> str:
    rows = {title: _shown(results[name], name not in IN_UNITS) for name, title in SCORES.items() if name in results}
    return f'{results["images"]} images of the split {_cell(results["split"])}.\n\n{_metrics(rows)}'


def _classes(names: list[str], results: Mapping[str, Any]) -> str:
    """The names of the classes, with the scores of each where they are known."""
    of_class = results.get('classes') or {}
    names = names or list(of_class)
    if not names:
        return ''
    columns = [name for name in OF_CLASS if all(name in (of_class.get(label) or {}) for label in names)]
    titles = ['number', 'class', *(OF_CLASS[name] for name in columns)]
    lines = [f'| {" | ".join(titles)} |', '|---' * len(titles) + '|']
    for index, label in enumerate(names):
        values = ''.join(f' {_shown(of_class[label][name])} |' for name in columns)
        lines.append(f'| {index} | {_cell(label)} |{values}')
    return '\n## Classes\n\n' + '\n'.join(lines) + '\n'


def _shown(value: Any, in_percent: bool = True) -> str:
    if not isinstance(value, (int, float)):
        return '-'  # a class without a pixel
    return f'{value:.1f} %' if in_percent else f'{value:.4f}'


def _cell(text: Any) -> str:
    """A name in a table of Markdown, where it can mean nothing else."""
    return ''.join(f'\\{char}' if char in '\\`*_{}[]<>()#+!|~' else char for char in ' '.join(str(text).split()))
