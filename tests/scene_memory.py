"""Memory and time of predicting a scene of a size, by windows, with a light U-Net of 11 classes.

python tests/scene_memory.py FOLDER SIZE [OUTPUT [TILE [CACHE]]]

Writes SIZE x SIZE pixels of three bands, if FOLDER has no such scene, and predicts them in a process of their own.
Prints JSON: the peak of its memory above what it holds when the model is loaded and has run once, in MiB, and the
seconds. CACHE is that of GDAL, in MiB.
"""
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np


def write_scene(path: Path, size: int) -> None:
    """Noise in squares of 8 x 8 pixels, in tiles of 256 x 256."""
    import rasterio
    from rasterio.transform import from_origin

    rng = np.random.default_rng(0)
    with rasterio.open(
            path, 'w', driver='GTiff', height=size, width=size, count=3, dtype='uint8', crs='EPSG:32632',
            transform=from_origin(500000, 5000000, 0.2, 0.2), photometric='RGB', compress='deflate', tiled=True,
            blockxsize=256, blockysize=256) as file:
        for top in range(0, size, 256):
            rows = min(256, size - top)
            coarse = rng.integers(0, 256, (3, -(-rows // 8), -(-size // 8)), dtype=np.uint8)
            values = coarse.repeat(8, 1).repeat(8, 2)[:, :rows, :size]
            file.write(values, window=((top, top + rows), (0, size)))


def memory(field: str) -> float:
    """A field of this process in MiB: VmRSS, what it holds, or VmHWM, the most that it ever held."""
    for line in Path('/proc/self/status').read_text().splitlines():
        if line.startswith(f'{field}:'):
            return int(line.split()[1]) / 1024
    raise KeyError(field)


def predict(scene: Path, output: str, tile: int, cache: int) -> dict[str, float]:
    import timm
    import torch

    from rexnet_timm.data import DataDescription, geo
    from rexnet_timm.deployment.load import describe
    from rexnet_timm.deployment.predict import Predictor

    geo.CACHE = cache * 2 ** 20
    torch.manual_seed(0)
    model = timm.create_model('rexnetv1_unet_test', num_classes=11).eval()
    predictor = Predictor(describe(model, DataDescription()), tile=tile)
    geo.require_rasterio(scene)
    predictor(np.zeros((tile, tile, 3), np.uint8))
    held, begin = memory('VmRSS'), time.perf_counter()
    predictor.write(scene, scene.with_name(f'{scene.stem}-{output}.tif'), output)
    return {'MiB': round(memory('VmHWM') - held, 1), 'seconds': round(time.perf_counter() - begin, 1)}


def measure(folder: Path, size: int, output: str = 'mask', tile: int = 512, cache: int = 256) -> dict[str, float]:
    """What `predict` says in a new process. One more writes the scene, so that nothing of it stays in this one."""
    scene = folder / f'{size}.tif'
    if not scene.is_file():
        _call('s.write_scene(s.Path(a[1]), int(a[2]))', scene, size)
    return json.loads(_call(
        'print(json.dumps(s.predict(s.Path(a[1]), a[2], int(a[3]), int(a[4]))))', scene, output, tile, cache
    ).splitlines()[-1])


def _call(code: str, *words: object) -> str:
    return subprocess.run(
        [sys.executable, '-c', f'import sys, json, scene_memory as s; a = sys.argv; {code}', *map(str, words)],
        cwd=Path(__file__).parent, stdout=subprocess.PIPE, text=True, check=True).stdout


if __name__ == '__main__':
    folder, size, *rest = sys.argv[1:]
    print(json.dumps(measure(Path(folder), int(size), *rest[:1], *map(int, rest[1:]))))
