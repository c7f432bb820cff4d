"""How the tests call the scripts, and folders of images for them."""
import csv
import importlib.util
import inspect
import os
import socket
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
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


def on_ranks(function: Callable[..., None], *arguments: str, ranks: int = 2) -> None:
    """Call a test file's function(rank, *arguments, port) in several processes, which meet at the port.

    They are started by `ranks.py`, so that the process of the tests outlives whatever happens to them.
    """
    file = Path(inspect.getfile(function))
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    environment = {**os.environ, 'PYTHONPATH': os.pathsep.join(map(str, (ROOT, ROOT / 'tests', file.parent)))}
    command = [sys.executable, str(ROOT / 'tests' / 'ranks.py'), str(ranks), file.stem, function.__name__]
    result = subprocess.run(
        [*command, *arguments, str(port)], env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, f'{result.returncode}: {result.stdout}{result.stderr}'


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
