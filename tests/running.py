"""How the tests call the scripts, and folders of images for them."""
import csv
import importlib.util
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[1]


def load_script(name: str):
    spec = importlib.util.spec_from_file_location(name, ROOT / 'scripts' / f'{name}.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def distributed(processes: int | str, *args: str, cwd: Path) -> subprocess.CompletedProcess:
    environment = {**os.environ, 'PYTHON': sys.executable, 'PYTHONPATH': str(ROOT)}
    command = ['bash', str(ROOT / 'scripts' / 'distributed_train.sh'), str(processes), *map(str, args)]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)


def summary(folder: Path) -> list[dict[str, str]]:
    with open(folder / 'summary.csv') as file:
        return list(csv.DictReader(file))


def write_class_folder(root: Path) -> Path:
    """Images of two classes, dark and bright, 24 for training and 10 for validation."""
    rng = np.random.default_rng(0)
    for split, number in (('train', 12), ('validation', 5)):
        for name, low in (('bright', 156), ('dark', 0)):
            (root / split / name).mkdir(parents=True)
            for index in range(number):
                pixels = rng.integers(low, low + 100, (40, 48, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / name / f'{index}.jpg')
    return root


def huge_png() -> bytes:
    """A PNG file of some bytes that says it has 60,000 x 60,000 pixels."""
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))

    header, row = struct.pack('>IIBBBBB', 60_000, 60_000, 8, 0, 0, 0, 0), zlib.compress(bytes(60_001))
    return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header) + chunk(b'IDAT', row) + chunk(b'IEND', b'')
