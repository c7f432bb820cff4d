"""A run of `rexnet train` for each task, of one tiny epoch; trained once a session, when a test first asks for it."""
import functools
from pathlib import Path
from tempfile import TemporaryDirectory

from running import write_class_folder

from rexnet_timm.cli import train

_root = TemporaryDirectory(prefix='trained-')

_SHARED = '--batch-size 4 --workers 0 --epochs 1 --warmup-epochs 0 --device cpu'
_OPTIONS = {
    'segmentation':
        '--dataset synthetic --synthetic-images 8 --num-classes 6 --ignore-index 255 --model rexnetv1_unet_test '
        '--img-size 64',
    'depth':
        '--dataset synthetic-depth --synthetic-images 8 --model rexdepth --rex-width-mult 0.3 --rex-depth-mult 0.3 '
        '--img-size 64 --min-depth 0.5 --max-depth 80',
    'classification': '--model rexnetv1_test --num-classes 2 --img-size 32',
}


@functools.cache
def trained_run(task: str) -> Path:
    """The folder of the run: 6 classes of the built-in set, its depth, or the classes 'bright' and 'dark'."""
    root = Path(_root.name)
    data = [str(write_class_folder(root / 'classes'))] if task == 'classification' else []
    status = train.main([*data, *_SHARED.split(), *_OPTIONS[task].split(), '--output', str(root), '--experiment', task])
    assert status == 0
    return root / task
