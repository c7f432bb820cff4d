"""The model card of a saved segmentation model: what it is, how it was trained and how it scores."""
import json
from collections.abc import Mapping
from typing import Any

import yaml
from huggingface_hub import ModelCard, ModelCardData
from segmentation_models_pytorch.base import SegmentationModel

__all__ = ['create_model_card']

UNKNOWN = 'Not recorded.'


def create_model_card(
        model: SegmentationModel,
        dataset: str | None = None,
        metrics: Mapping[str, Any] | str | None = None,
        training: Mapping[str, Any] | str | None = None,
) -> ModelCard:
    """The card of a model; `card.save(folder / 'README.md')` writes it, and `save_pretrained` leaves it as it is.

    Args:
        model: A `MultiScaleUnet`, or any of SMP's models.
        dataset: Name of the data it was trained on.
        metrics: Scores by name, or text.
        training: How it was trained: arguments by name (the content of a run's args.yaml), or text.

    Returns:
        The card, in Markdown, with the Hub's fields above it.
    """
    name = type(model).__name__
    config = {key: value for key, value in model.config.items() if not key.startswith('_')}
    scales = getattr(model, 'scales', None)
    package, lines = 'rexnet_timm', ['import rexnet_timm', '', f'model = rexnet_timm.{name}.from_pretrained(FOLDER)']
    if scales is None:
        package = 'segmentation_models_pytorch'
        lines = [
            'import segmentation_models_pytorch as smp', 'import rexnet_timm  # registers the encoder', '',
            f'model = smp.{name}.from_pretrained(FOLDER)']
    code = '\n'.join(lines)
    parameters = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    kind = 'A segmentation network' if scales is None else (
        f'A U-Net with logits at scales {", ".join(map(str, scales))} (sizes H / 2^scale x W / 2^scale)')
    fields = ModelCardData(
        license='mit', library_name='segmentation-models-pytorch', pipeline_tag='image-segmentation',
        tags=['segmentation-models-pytorch', 'rexnet_timm', 'semantic-segmentation', 'pytorch'])
    return ModelCard(f"""---
{fields.to_yaml()}
---

# {name} on {config['encoder_name']}

{kind}: {config['in_channels']} channels in, {config['classes']} classes out, {parameters:.2f} M parameters.
It is `{name}` of {package} on the encoder `{config['encoder_name']}`.

With `FOLDER` this folder, or the name of its repository on the Hub:

```python
{code}
```

## Training

Data: {dataset or UNKNOWN}

{_training(training)}

## Scores

{_metrics(metrics)}

## Arguments

```json
{json.dumps(config, indent=2)}
```
""")


def _training(training: Mapping[str, Any] | str | None) -> str:
    if isinstance(training, Mapping):
        return f'```yaml\n{yaml.safe_dump(dict(training), default_flow_style=False)}```'
    return training or UNKNOWN


def _metrics(metrics: Mapping[str, Any] | str | None) -> str:
    if isinstance(metrics, Mapping):
        return '\n'.join(['| score | value |', '|---|---|', *(f'| {k} | {v} |' for k, v in metrics.items())])
    return metrics or UNKNOWN
