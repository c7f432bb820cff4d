"""The curves of a run so far, as one picture: losses, metrics and the learning rate over the epochs."""
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

__all__ = ['progress_picture']

# Of all panels: pixels of the picture, which is drawn twice as large and shrunk, since Pillow's lines have steps
WIDTH, HEIGHT, ZOOM = 470, 300, 2
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 68, 30
LETTERS, TITLE = 13, 15
COLORS = ('#d6462f', '#2f78c4', '#2a9155', '#b07a00', '#8250c4', '#0f8f96', '#a8577e', '#6b7280', '#5c7a1f', '#1f2937')
LOG_FROM = 30  # largest by smallest value of positive numbers that are drawn on a logarithmic axis

_SCALE = 'train_loss_scale_'
_OWN_UNITS = {'eval_abs_rel': 'relative error of depth', 'eval_rmse': 'RMSE of depth, metres'}


@dataclass(frozen=True)
class _Panel:
    title: str
    lines: Mapping[str, Sequence[float]]  # by the name in the legend, a value for each epoch
    may_be_logarithmic: bool = True


def progress_picture(epochs: Sequence[int], columns: Mapping[str, Sequence[float]]) -> Image.Image:
    """Draw the numbers of a run over its epochs; those that are no finite numbers leave gaps.

    Args:
        epochs: Numbers of the epochs, at least one, ascending.
        columns: Values by the names of summary.csv, one for each epoch: train_loss, train_loss_scale_S, eval_loss,
            other eval_NAME, of which those of single classes (eval_iou_NAME) are left out, and lr.

    Returns:
        RGB picture.
    """
    panels = _panels(columns)
    across = 2 if len(panels) in (2, 4) else min(3, len(panels))
    down = -(-len(panels) // across)
    picture = Image.new('RGB', (across * WIDTH * ZOOM, down * HEIGHT * ZOOM), 'white')
    for index, panel in enumerate(panels):
        place = index % across * WIDTH, index // across * HEIGHT
        _PanelDrawing(ImageDraw.Draw(picture), place, epochs, panel).draw()
    return picture.resize((across * WIDTH, down * HEIGHT), Image.Resampling.BOX)


def _panels(columns: Mapping[str, Sequence[float]]) -> list[_Panel]:
    losses = {'training': columns.get('train_loss'), 'validation': columns.get('eval_loss')}
    scales = {f'1/{2 ** int(name.removeprefix(_SCALE))}' if name != f'{_SCALE}0' else 'full size': values
              for name, values in columns.items() if name.startswith(_SCALE)}
    metrics = {
        name.removeprefix('eval_'): values for name, values in columns.items()
        if name.startswith('eval_') and 'iou_' not in name and name != 'eval_loss' and name not in _OWN_UNITS}
    own = [_Panel(title, {name.removeprefix('eval_'): columns[name]})
           for name, title in _OWN_UNITS.items() if name in columns]
    panels = [
        _Panel('loss', {name: values for name, values in losses.items() if values is not None}),
        _Panel('training loss of each scale', scales), *own,
        _Panel('metrics of validation', metrics, may_be_logarithmic=False),
        _Panel('learning rate', {'lr': columns['lr']} if 'lr' in columns else {})]
    return [panel for panel in panels if panel.lines]


class _PanelDrawing:
    """Draws a panel.

    Args:
        draw: Onto the enlarged picture.
        place: Left upper corner of the panel in the picture.
        epochs: The values of the horizontal axis.
        panel: What is drawn.
    """

    def __init__(
            self, draw: ImageDraw.ImageDraw, place: tuple[int, int], epochs: Sequence[int], panel: _Panel) -> None:
        self.canvas, self.place, self.epochs, self.panel = draw, place, epochs, panel
        values = [value for line in panel.lines.values() for value in line if math.isfinite(value)] or [0., 1.]
        low, high = min(values), max(values)
        self.is_log = panel.may_be_logarithmic and low > 0 and high > LOG_FROM * low
        if self.is_log:
            low, high = low / 1.1, high * 1.1
        else:
            margin = 0.05 * (high - low) or 0.1 * abs(high) or 1.
            low, high = low - margin, high + margin
        self.low, self.high = low, high

    def draw(self) -> None:
        """Draw all of it."""
        self._text(LEFT, 8, self.panel.title, TITLE, '#111827')
        self._legend()
        for value in _log_ticks(self.low, self.high) if self.is_log else _ticks(self.low, self.high):
            y = self._y(value)
            self._line([(LEFT, y), (WIDTH - RIGHT, y)], '#e5e7eb', 1)
            self._text(LEFT - 6, y - LETTERS / 2 - 1, f'{value:.4g}', LETTERS, '#6b7280', to_left=True)
        first, last = self.epochs[0], self.epochs[-1]
        for value in _ticks(first, max(last, first + 1)):
            if value == int(value):
                text, x = str(int(value)), self._x(value)
                self._line([(x, HEIGHT - BOTTOM), (x, HEIGHT - BOTTOM + 4)], '#9ca3af', 1)
                self._text(x - self._width(text) / 2, HEIGHT - BOTTOM + 6, text, LETTERS, '#6b7280')
        self._line([(LEFT, HEIGHT - BOTTOM), (WIDTH - RIGHT, HEIGHT - BOTTOM)], '#9ca3af', 1)
        for color, values in zip(_colors(), self.panel.lines.values(), strict=False):
            self._curve(values, color)

    def _legend(self) -> None:
        x, y = LEFT, 30
        for color, (name, values) in zip(_colors(), self.panel.lines.items(), strict=False):
            text = f'{name} {values[-1]:.4g}'
            if x > LEFT and x + 18 + self._width(text) > WIDTH - RIGHT:
                x, y = LEFT, y + 17
            self._line([(x, y + 8), (x + 12, y + 8)], color, 3)
            self._text(x + 17, y, text, LETTERS, '#374151')
            x += 31 + self._width(text)

    def _curve(self, values: Sequence[float], color: str) -> None:
        parts: list[list[tuple[float, float]]] = [[]]
        for epoch, value in zip(self.epochs, values, strict=True):
            if math.isfinite(value):
                parts[-1].append((self._x(epoch), self._y(value)))
            elif parts[-1]:
                parts.append([])
        for points in filter(None, parts):
            self._line(points, color, 2)
            if len(points) == 1 or len(self.epochs) <= 20:
                for x, y in points:
                    self.canvas.ellipse([self._at(x - 2.5, y - 2.5), self._at(x + 2.5, y + 2.5)], fill=color)

    def _x(self, epoch: float) -> float:
        first, last = self.epochs[0], self.epochs[-1]
        return LEFT + 6 + (epoch - first) / max(last - first, 1) * (WIDTH - LEFT - RIGHT - 12)

    def _y(self, value: float) -> float:
        low, high = self.low, self.high
        if self.is_log:
            value, low, high = math.log(value), math.log(low), math.log(high)
        return HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - TOP - BOTTOM)

    def _at(self, x: float, y: float) -> tuple[float, float]:
        return (self.place[0] + x) * ZOOM, (self.place[1] + y) * ZOOM

    def _line(self, points: Sequence[tuple[float, float]], color: str, width: int) -> None:
        self.canvas.line([self._at(*point) for point in points], fill=color, width=width * ZOOM, joint='curve')

    def _text(self, x: float, y: float, text: str, size: int, color: str, to_left: bool = False) -> None:
        font = ImageFont.load_default(size * ZOOM)
        x = x - font.getlength(text) / ZOOM if to_left else x
        self.canvas.text(self._at(x, y), text, fill=color, font=font)

    @staticmethod
    def _width(text: str) -> float:
        return ImageFont.load_default(LETTERS * ZOOM).getlength(text) / ZOOM


def _colors() -> Sequence[str]:
    return COLORS * 4  # more lines than that nobody tells apart


def _ticks(low: float, high: float, number: int = 5) -> list[float]:
    """Round numbers between two, about as many as asked for."""
    rough = (high - low) / number
    power = 10. ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    return [index * step for index in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1, 2, 5) if len(powers) < 4 else (1,)
    return [factor * 10. ** power for power in powers for factor in factors if low <= factor * 10. ** power <= high]
