"""GeoTIFFs for the tests of several rooms; they skip where rasterio, the extra geo, is not installed."""
from pathlib import Path
from typing import Any

import numpy as np
import pytest

CRS = 'EPSG:32632'
ORIGIN = (500000., 5000000.)
PIXEL = 0.25  # metres


def write_geotiff(path: Path, pixels: np.ndarray, **options: Any) -> Path:
    """A TIFF of (bands, H, W) that lies in UTM zone 32, unless `crs` or `transform` say otherwise; None for none."""
    rasterio = pytest.importorskip('rasterio', reason='needs the extra geo')
    options = {
        'crs': CRS, 'transform': rasterio.Affine(PIXEL, 0, ORIGIN[0], 0, -PIXEL, ORIGIN[1]),
        'photometric': 'RGB' if len(pixels) >= 3 else 'MINISBLACK', 'alpha': 'NO' if len(pixels) > 3 else None,
        **options}
    options = {name: value for name, value in options.items() if value is not None}
    colors = options.pop('colors', None)
    with rasterio.open(
            path, 'w', driver='GTiff', height=pixels.shape[1], width=pixels.shape[2], count=len(pixels),
            dtype=pixels.dtype, **options) as file:
        if colors:
            file.write_colormap(1, colors)
        file.write(pixels)
    return path


def read_geotiff(path: str | Path) -> tuple[np.ndarray, Any]:
    """The bands of a file, and a dict of its profile, palette, descriptions and tags."""
    import rasterio

    with rasterio.open(path) as file:
        known = dict(file.profile, descriptions=file.descriptions, tags=file.tags(1), kinds=file.colorinterp)
        if file.count == 1 and file.colorinterp[0] == rasterio.enums.ColorInterp.palette:
            known['colors'] = file.colormap(1)
        return file.read(), known


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    """uint8 noise in squares of 4 x 4 pixels."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(1, 256, (*shape[:-2], -(-shape[-2] // 4), -(-shape[-1] // 4)), dtype=np.uint8)
    return coarse.repeat(4, -2).repeat(4, -1)[..., :shape[-2], :shape[-1]]
