"""Curves of a report, as SVG that stands in a page and takes its colours.

Drawn by matplotlib (the extra `report`), imported only where it is needed. Text stays text, no figure names a file or
an address, and colours are CSS variables of the page, so that they follow its light and its dark form.
"""
import io
import math
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ['COLORS', 'Figure', 'Line', 'curves', 'stacked']

COLORS = 10  # variables --c0, --c1, ... of the page; further lines take them again
SIZE = (4.8, 2.7)  # inches
# Colours that stand for variables of the page in what matplotlib writes
_INK, _LINE = '#010203', '#010204'
_SERIES = [f'#0102{16 + index:02x}' for index in range(COLORS)]
_VARIABLES = {_INK: 'var(--ink)', _LINE: 'var(--line)', **{
    color: f'var(--c{index})' for index, color in enumerate(_SERIES)}}
_STYLE = {
    'svg.fonttype': 'none', 'font.size': 10, 'font.family': ['DejaVu Sans'],
    'text.color': _INK, 'axes.edgecolor': _LINE, 'axes.labelcolor': _INK, 'xtick.color': _LINE, 'ytick.color': _LINE,
    'xtick.labelcolor': _INK, 'ytick.labelcolor': _INK, 'grid.color': _LINE, 'axes.grid': True, 'grid.linewidth': 0.6,
    'axes.spines.top': False, 'axes.spines.right': False, 'lines.linewidth': 1.6, 'axes.axisbelow': True}
_MARKED = 12  # points up to which each one is marked
_LOGARITHMIC = 30  # largest over smallest value from which on an axis that may be is logarithmic


@dataclass(frozen=True)
class Line:
    """A line of a figure.

    Attributes:
        name: For the legend; any text.
        points: Pairs (x, y); those that are not finite make a gap.
        color: Number of its colour.
        dashed: Whether it is drawn in dashes.
    """
    name: str
    points: Sequence[tuple[float, float]]
    color: int = 0
    dashed: bool = False


@dataclass(frozen=True)
class Figure:
    """A figure of the page.

    Attributes:
        title: Its heading.
        svg: The drawing, one element of HTML.
        legend: (name, number of its colour, whether dashed or not) of each line.
        note: What is to be said of it.
    """
    title: str
    svg: str
    legend: Sequence[tuple[str, int, bool]] = ()
    note: str = ''


def curves(
        title: str,
        lines: Sequence[Line],
        x_label: str = 'epoch',
        best: tuple[float, float] | None = None,
        may_be_logarithmic: bool = False,
        note: str = '',
        is_named: bool = False,
) -> Figure | None:
    """Lines in one figure; None where none of them has a point.

    Args:
        title: Heading; also what a screen reader says of it.
        lines: The lines.
        x_label: What the horizontal axis has.
        best: A point that is ringed.
        may_be_logarithmic: Whether the vertical axis is logarithmic where positive values span much.
        note: What is to be said of it.
        is_named: Whether a single line has a legend too.
    """
    lines = [line for line in lines if any(math.isfinite(y) for _, y in line.points)]
    if not lines:
        return None

    def draw(axes: Any) -> None:
        for line in lines:
            x, y = zip(*line.points, strict=True)
            axes.plot(
                x, [value if math.isfinite(value) else math.nan for value in y], color=_SERIES[line.color % COLORS],
                linestyle='--' if line.dashed else '-', marker='o' if len(x) <= _MARKED else None, markersize=3)
        if best is not None and all(map(math.isfinite, best)):
            axes.plot(*best, marker='o', markersize=8, markerfacecolor='none', markeredgecolor=_INK)
        values = [y for line in lines for _, y in line.points if math.isfinite(y)]
        if may_be_logarithmic and min(values) > 0 and max(values) / min(values) > _LOGARITHMIC:
            axes.set_yscale('log')
            axes.yaxis.set_major_formatter(lambda value, _: f'{value:g}')
            axes.yaxis.set_minor_formatter('')
        axes.set_xlabel(x_label)
        if x_label == 'epoch':
            _whole_numbers(axes)

    legend = [(line.name, line.color % COLORS, line.dashed) for line in lines]
    return Figure(title, _drawn(title, draw), legend if len(legend) > 1 or is_named else (), note)


def stacked(
        title: str, x: Sequence[float], parts: Sequence[tuple[str, Sequence[float]]], y_label: str, note: str = '',
) -> Figure | None:
    """Bars of several parts, one bar for each place; None where there is none."""
    if not x:
        return None

    def draw(axes: Any) -> None:
        bottom = [0.] * len(x)
        for index, (_, values) in enumerate(parts):
            axes.bar(x, values, width=0.8, bottom=bottom, color=_SERIES[index % COLORS])
            bottom = [a + b for a, b in zip(bottom, values, strict=True)]
        axes.set_xlabel('epoch')
        axes.set_ylabel(y_label)
        if len(x) == 1:
            axes.set_xlim(x[0] - 2, x[0] + 2)
        _whole_numbers(axes)

    return Figure(title, _drawn(title, draw), [(name, index % COLORS, False) for index, (name, _) in enumerate(parts)],
                  note)


def _whole_numbers(axes: Any) -> None:
    from matplotlib.ticker import MaxNLocator
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8, min_n_ticks=1))


def _drawn(title: str, draw: Callable[[Any], None]) -> str:
    """The SVG of one pair of axes."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure as Drawing
    # references in a page are to names that no other figure has
    with rc_context({**_STYLE, 'svg.hashsalt': title}), warnings.catch_warnings():
        warnings.simplefilter('ignore')  # of letters that its own font lacks, which browsers have
        drawing = Drawing(SIZE, layout='constrained')
        FigureCanvasSVG(drawing)
        draw(drawing.add_subplot())
        drawing.patch.set_visible(False)
        for axes in drawing.axes:
            axes.patch.set_visible(False)
        file = io.StringIO()
        drawing.savefig(file, format='svg', metadata={'Date': None, 'Creator': None})
    return _for_page(file.getvalue(), title)


def _for_page(text: str, title: str) -> str:
    """An SVG file as an element of a page: without what only a file needs, and in the colours of the page."""
    text = text[text.index('<svg'):]
    text = re.sub(r'<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->', '', text, flags=re.DOTALL)
    text = re.sub(r'\s+xmlns(?::\w+)?="[^"]*"', '', text).replace('xlink:href=', 'href=')
    referenced = set(re.findall(r'(?:href="|url\()#([\w-]+)', text))
    text = re.sub(r'\s+id="([^"]+)"', lambda match: match[0] if match[1] in referenced else '', text)
    prefix = re.sub(r'\W+', '-', title)
    text = re.sub(r'(id="|href="#|url\(#)', rf'\g<1>{prefix}-', text)
    text = re.sub(r'<svg[^>]*?(viewBox="[^"]*")[^>]*>', r'<svg \1 aria-hidden="true">', text, count=1)
    text = text.replace("font-family: 'DejaVu Sans'; ", '')  # by which it was measured; the page has its own
    return re.sub('|'.join(_VARIABLES), lambda match: _VARIABLES[match[0]], re.sub(r'\n\s*', '\n', text)).strip()
