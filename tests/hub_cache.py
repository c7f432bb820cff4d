"""Repositories in the Hub's local cache, in the files and links that a download leaves there."""
import hashlib
import json
import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from timm.models import save_for_hf


def store(repo_id: str, files: dict[str, bytes]) -> None:
    """Lay files out as `hf_hub_download` leaves them: those of `repo_id` at its revision main."""
    root = Path(os.environ['HF_HUB_CACHE']) / f'models--{repo_id.replace("/", "--")}'
    commit = hashlib.sha1(repo_id.encode()).hexdigest()
    snapshot = root / 'snapshots' / commit
    for folder in (root / 'blobs', root / 'refs', snapshot):
        folder.mkdir(parents=True)
    (root / 'refs' / 'main').write_text(commit)
    for name, content in files.items():
        digest = hashlib.sha256(content).hexdigest()
        (root / 'blobs' / digest).write_bytes(content)
        (snapshot / name).symlink_to(Path('..', '..', 'blobs', digest))


def publish(repo_id: str, model: torch.nn.Module, weights: Any = None, config: dict[str, Any] | None = None) -> None:
    """Store a timm model as timm's own repositories hold theirs: config.json and model.safetensors.

    `weights` takes the place of its safetensors, as the pytorch_model.bin of torch.save; `config` that of its own.
    """
    with TemporaryDirectory() as folder:
        save_for_hf(model, folder, safe_serialization=weights is None)
        if weights is not None:
            torch.save(weights, Path(folder) / 'pytorch_model.bin')
        if config is not None:
            (Path(folder) / 'config.json').write_text(json.dumps(config))
        store(repo_id, {path.name: path.read_bytes() for path in Path(folder).iterdir()})
