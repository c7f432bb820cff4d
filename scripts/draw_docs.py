#!/usr/bin/env python3
"""The drawings of the documentation: docs/network.svg and docs/package.svg.

    python scripts/draw_docs.py

What they say is taken from the code. The shapes are those of the multi-scale U-Net on an input, the files and what is
said of them those of CONTRIBUTING.md, and which room imports which those of the modules. Text outside of boxes and
lines are of a grey that is legible on light and on dark pages.
"""
import argparse
import ast
import re
import sys
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn

import rexnet_timm

ROOT = Path(__file__).parents[1]
NETWORK, PACKAGE = 'network.svg', 'package.svg'
GREY, INK, PALE = '#737b86', '#1c2430', '#4a5563'
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
# Widths of letters by their height in DejaVu Sans, which is wider than what other browsers take
WIDTHS = {letter: width for letters, width in (
    ('ijl', 0.28), ("fr'", 0.4), ('t:;., ', 0.36), ('-/()[]', 0.38), ('mMW', 0.98), ('w×', 0.83)) for letter in letters}


class Drawing:
    """SVG in plain elements."""

    def __init__(self, width: int, title: str) -> None:
        self.width, self.height, self.title = width, 0., title
        self.parts: list[str] = []

    def box(self, x: float, y: float, width: float, height: float, color: str, radius: int = 8) -> None:
        self.height = max(self.height, y + height)
        self.parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="{radius}" fill="{color}"/>')

    def text(
            self, x: float, y: float, text: str, size: float = 14, color: str = INK, anchor: str = 'start',
            bold: bool = False) -> None:
        self.height = max(self.height, y + 4)
        weight = ' font-weight="600"' if bold else ''
        self.parts.append(
            f'<text x="{x:g}" y="{y:g}" font-size="{size:g}" fill="{color}" text-anchor="{anchor}"{weight}>'
            f'{escape(text)}</text>')

    def arrow(self, path: str, is_dashed: bool = False, has_head: bool = True) -> None:
        more = (' stroke-dasharray="5 4"' if is_dashed else '') + (' marker-end="url(#head)"' if has_head else '')
        self.parts.append(f'<path d="{path}" fill="none" stroke="{GREY}" stroke-width="1.8"{more}/>')

    def lines(self, x: float, y: float, width: float, text: str, size: float, color: str = PALE) -> float:
        """Text broken into lines; returns where the next one would stand."""
        for line in wrapped(text, width, size):
            self.text(x, y, line, size, color)
            y += size * 1.25
        return y

    def svg(self, margin: int = 16) -> str:
        height = round(self.height + margin)
        return '\n'.join([
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {height}" width="{self.width}" '
            f'height="{height}" role="img" font-family="{FONT}">', f'<title>{escape(self.title)}</title>',
            '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
            f'orient="auto"><path d="M0 0 L8 4 L0 8 z" fill="{GREY}"/></marker></defs>', *self.parts, '</svg>', ''])


def text_width(text: str, size: float) -> float:
    return size * sum(WIDTHS.get(letter, 0.69 if letter.isupper() else 0.62) for letter in text)


def wrapped(text: str, width: float, size: float) -> list[str]:
    lines = ['']
    for word in text.split():
        longer = f'{lines[-1]} {word}'.strip()
        if lines[-1] and text_width(longer, size) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


# The network

DECODERS = ('light', 'dense')
SIZE, CLASSES = 256, 11
ROW, BOX = 92, 62
COLUMNS = {'encoder': (16, 196), 'decoder': (296, 220), 'logits': (606, 170), 'loss': (834, 150)}  # left, width
FILLS = {'encoder': '#cfe0f7', 'decoder': '#d3ecd2', 'logits': '#fbe6b8', 'loss': '#f6d0cb', 'image': '#dde1e7'}


def network_facts() -> dict[str, Any]:
    """What the drawing says of the network, found by running it on an input.

    Returns:
        'features': shapes by scale; 'stages': shapes by scale; 'heads': {scale: (shape of the logits, scales of the
        stages that it takes)}; 'parameters': {decoder: {'encoder', 'all', and of each stage by scale}}; 'refine':
        {decoder: {scale: kernels}}; 'weights': of the losses by scale.
    """
    facts: dict[str, Any] = {'parameters': {}, 'refine': {}}
    for decoder in DECODERS:
        model = rexnet_timm.MultiScaleUnet('rexnetv1', decoder_type=decoder, classes=CLASSES).eval()
        with torch.no_grad():
            features = model.encoder(torch.zeros(1, 3, SIZE, SIZE))
            stages = model.decoder(features, (SIZE, SIZE))
            logits = model.forward_scales(torch.zeros(1, 3, SIZE, SIZE))
        shapes = {
            'features': {scale: tuple(feature.shape[1:]) for scale, feature in enumerate(features)},
            'stages': {scale: tuple(stage.shape[1:]) for scale, stage in stages.items()},
            'heads': {scale: (tuple(values.shape[1:]), model.decoder.stages_of_head(scale))
                      for scale, values in logits.items()}}
        if facts.get('stages', shapes['stages']) != shapes['stages']:
            raise ValueError('The decoders have stages of different shapes: draw them apart.')
        facts |= shapes
        modules = {scale: model.decoder.scriptable_stage(scale) for scale in stages}
        facts['parameters'][decoder] = {
            'encoder': count(model.encoder), 'all': count(model), **{scale: count(modules[scale]) for scale in stages}}
        facts['refine'][decoder] = {scale: kernels(modules[scale].refine) for scale in stages}
    loss = rexnet_timm.MultiScaleLoss(nn.CrossEntropyLoss())
    facts['weights'] = dict(zip(facts['heads'], loss.scale_weights(tuple(facts['heads'])), strict=True))
    return facts


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def kernels(module: nn.Module) -> str:
    """The convolutions of a module in words."""
    found = [part for part in module.modules() if isinstance(part, nn.Conv2d)]
    return ', '.join(
        f'{conv.kernel_size[0]} × {conv.kernel_size[1]}' + (' depthwise' if conv.groups > 1 else '') for conv in found)


def short(number: int) -> str:
    return f'{number / 1e6:.2f} M' if number >= 1e6 else f'{number / 1e3:.1f} k' if number >= 1e3 else str(number)


def shape_of(shape: Sequence[int]) -> str:
    return ' × '.join(map(str, shape))


def of_scale(scale: int) -> str:
    return 'full size' if scale == 0 else f'1/{2 ** scale}'


def draw_network(facts: dict[str, Any]) -> str:
    """The multi-scale U-Net with the shapes of `network_facts`."""
    drawing = Drawing(1000, f'The multi-scale U-Net on an input of {SIZE} x {SIZE}')
    titles = {'encoder': 'encoder', 'decoder': 'decoder', 'logits': 'heads', 'loss': 'losses'}
    for name, title in titles.items():
        drawing.text(center(name), 26, title, 16, GREY, 'middle', bold=True)
    _draw_encoder(drawing, facts)
    _draw_decoder(drawing, facts)
    _draw_heads(drawing, facts)
    _draw_stage(drawing, facts, top(max(facts['features'])) + BOX + 52)
    return drawing.svg()


def top(scale: int) -> float:
    return 44 + ROW * scale


def middle(scale: int) -> float:
    return top(scale) + BOX / 2


def center(column: str) -> float:
    return COLUMNS[column][0] + COLUMNS[column][1] / 2


def right(column: str) -> float:
    return COLUMNS[column][0] + COLUMNS[column][1]


def labelled_box(drawing: Drawing, column: str, scale: int, lines: Sequence[str], fill: str | None = None) -> None:
    left, width = COLUMNS[column]
    drawing.box(left, top(scale), width, BOX, FILLS[fill or column])
    first = middle(scale) + 5 - 9 * (len(lines) - 1)
    for index, line in enumerate(lines):
        size = 15 if index == 0 else 14 if index == 1 else 12.5
        drawing.text(left + width / 2, first + 18 * index, line, size, INK if index < 2 else PALE, 'middle', index == 0)


def _draw_encoder(drawing: Drawing, facts: dict[str, Any]) -> None:
    for scale, shape in facts['features'].items():
        is_image = scale == 0
        labelled_box(drawing, 'encoder', scale, [
            'image' if is_image else f'features at {of_scale(scale)}', shape_of(shape)], 'image' if is_image else None)
        if scale:
            drawing.arrow(f'M{center("encoder"):g} {top(scale - 1) + BOX:g} V{top(scale) - 2:g}')


def _draw_decoder(drawing: Drawing, facts: dict[str, Any]) -> None:
    coarsest = max(facts['stages'])
    for scale, shape in facts['stages'].items():
        sizes = [short(facts['parameters'][decoder][scale]) for decoder in DECODERS]
        told = f'{sizes[0]} parameters' if len(set(sizes)) == 1 else ', '.join(
            f'{decoder} {size}' for decoder, size in zip(DECODERS, sizes, strict=True))
        labelled_box(drawing, 'decoder', scale, [f'stage at {of_scale(scale)}', shape_of(shape), told])
        drawing.arrow(f'M{right("encoder"):g} {middle(scale):g} H{COLUMNS["decoder"][0] - 2:g}')
        if scale < coarsest:
            drawing.arrow(f'M{center("decoder"):g} {top(scale + 1):g} V{top(scale) + BOX + 2:g}')
    last = max(facts['features'])
    drawing.arrow(
        f'M{right("encoder"):g} {middle(last):g} H{center("decoder") - 12:g} '
        f'q12 0 12 -12 V{top(coarsest) + BOX + 2:g}')


def _draw_heads(drawing: Drawing, facts: dict[str, Any]) -> None:
    start, end = right('decoder'), COLUMNS['logits'][0]
    for scale, (shape, stages) in facts['heads'].items():
        labelled_box(drawing, 'logits', scale, [f'logits, scale {scale}', shape_of(shape)])
        for stage in stages:
            bend = (start + end) / 2
            drawing.arrow(f'M{start:g} {middle(stage):g} C{bend:g} {middle(stage):g} {bend:g} {middle(scale):g} '
                          f'{end - 2:g} {middle(scale):g}', is_dashed=stage > max(scale, min(facts['stages'])))
        drawing.arrow(f'M{right("logits"):g} {middle(scale):g} H{COLUMNS["loss"][0] - 2:g}')
        labelled_box(drawing, 'loss', scale, [
            f'loss × {facts["weights"][scale]:.2f}', f'labels {shape_of(shape[1:])}'])
        if scale:
            drawing.arrow(f'M{center("loss"):g} {top(scale - 1) + BOX:g} V{top(scale):g}', has_head=False)
    last = max(facts['heads'])
    drawing.arrow(f'M{center("loss"):g} {top(last) + BOX:g} V{top(last + 1) - 2:g}')
    labelled_box(drawing, 'loss', last + 1, ['loss', 'their weighted sum'])
    told = 'In training all logits come out, in evaluation those of scale 0.'
    drawing.lines(COLUMNS['logits'][0] - 30, middle(last + 1) - 14, COLUMNS['logits'][1] + 64, told, 14, GREY)


def _draw_stage(drawing: Drawing, facts: dict[str, Any], y: float) -> None:
    """What happens in a stage, and what the two decoders differ in."""
    parameters = facts['parameters']
    drawing.text(16, y, 'A stage', 16, GREY, bold=True)
    y += 18
    steps = {'coarser features': [16, y], 'encoder features': [16, y + 62]}
    for name, (x, place) in steps.items():
        drawing.box(x, place, 150, 44, FILLS['decoder' if name.startswith('coarser') else 'encoder'])
        drawing.text(x + 75, place + 27, name, 14, INK, 'middle')
        drawing.arrow(f'M{x + 150:g} {place + 22:g} H{x + 176:g}')
        drawing.box(x + 178, place, 120, 44, FILLS['image'])
        drawing.text(x + 238, place + 27, '1 × 1, norm', 14, INK, 'middle')
    drawing.arrow(f'M314 {y + 22:g} H340')
    drawing.box(342, y, 110, 44, FILLS['image'])
    drawing.text(397, y + 27, 'enlarge × 2', 14, INK, 'middle')
    center_y = y + 53
    drawing.arrow(f'M452 {y + 22:g} H480 L492 {center_y - 16:g}')
    drawing.arrow(f'M314 {y + 84:g} H480 L492 {center_y + 16:g}')
    drawing.box(484, center_y - 15, 30, 30, FILLS['decoder'], 15)
    drawing.text(499, center_y + 6, '+', 18, INK, 'middle')
    drawing.arrow(f'M514 {center_y:g} H544')
    drawing.box(546, center_y - 22, 70, 44, FILLS['image'])
    drawing.text(581, center_y + 5, 'ReLU', 14, INK, 'middle')
    drawing.arrow(f'M616 {center_y:g} H668')
    drawing.box(670, center_y - 22, 100, 44, FILLS['decoder'])
    drawing.text(720, center_y + 5, 'refine', 14, INK, 'middle', True)
    drawing.arrow(f'M770 {center_y:g} H803')
    drawing.arrow(f'M640 {center_y:g} V{center_y - 46:g} H820 V{center_y - 17:g}')
    drawing.box(805, center_y - 15, 30, 30, FILLS['decoder'], 15)
    drawing.text(820, center_y + 6, '+', 18, INK, 'middle')
    drawing.arrow(f'M835 {center_y:g} H868')
    drawing.box(870, center_y - 22, 70, 44, FILLS['image'])
    drawing.text(905, center_y + 5, 'ReLU', 14, INK, 'middle')
    y += 146
    for decoder in DECODERS:
        of_kernels: dict[str, list[int]] = {}
        for scale, words in facts['refine'][decoder].items():
            of_kernels.setdefault(words, []).append(scale)
        told = '; '.join(
            f'{words} at {", ".join(map(of_scale, sorted(scales)))}' for words, scales in of_kernels.items())
        drawing.text(16, y, f'{decoder}:', 14, GREY, bold=True)
        y = drawing.lines(76, y, 900, f'refines by {told}. {short(parameters[decoder]["all"])} parameters in all, '
                          f'{short(parameters[decoder]["encoder"])} of them in the encoder.', 14, GREY) + 6


# The package

ROOMS = {
    'cli': 'what did the user type', 'deployment': 'how is it used', 'training': 'how does it learn',
    'data': 'where does the data come from', 'models': 'what is the network', 'ground': 'what all of them need'}
LAYERS = (('cli', 4),), (('deployment', 4),), (('training', 1), ('data', 2), ('models', 1)), (('ground', 4),)
ROOM_FILLS = {
    'cli': '#f6d0cb', 'deployment': '#fbe6b8', 'training': '#e2d7f5', 'data': '#d3ecd2', 'models': '#cfe0f7',
    'ground': '#dde1e7', 'doors': '#dde1e7'}
WIDTH, GAP, INNER, NAME, COMMENT = 1000, 12, 12, 14.5, 13


def package_files(text: str) -> dict[str, dict[str, str]]:
    """Comments of the files of each room, by their paths below it, from the tree of CONTRIBUTING.md."""
    tree = re.search(r'```\n(rexnet_timm/.*?)```', text, re.DOTALL).group(1)
    files: dict[str, dict[str, str]] = {}
    folders: list[str] = []
    for line in filter(str.strip, tree.splitlines()):
        name, _, comment = line.strip().partition(' ')
        depth = (len(line) - len(line.lstrip())) // 2
        folders[depth:] = [name]
        if name.endswith('/'):
            continue
        path = ''.join(folders)
        top_folder, _, below = path.removeprefix('rexnet_timm/').rpartition('/') if path.startswith('rexnet_timm/') \
            else ('scripts', '', path.removeprefix('scripts/'))
        room, _, inside = top_folder.partition('/')
        below = f'{inside}/{below}' if inside else below
        if not room:
            room = 'doors' if below in ('__init__.py', '__main__.py') else 'ground'
        if not below.endswith('.yaml'):
            files.setdefault(room, {})[below] = comment.strip()
    return files


def imported_rooms() -> dict[str, list[str]]:
    """The rooms that the modules of each room import from, in the order of `ROOMS`."""
    package = ROOT / 'rexnet_timm'
    found: dict[str, set[str]] = {room: set() for room in ROOMS}
    for path in package.rglob('*.py'):
        parts = path.relative_to(package).parts
        room = parts[0] if len(parts) > 1 else 'ground'
        if parts[0] not in ('__init__.py', '__main__.py'):
            targets = relative_imports(ast.parse(path.read_text(encoding='utf-8')), parts)
            found[room] |= {target if target in ROOMS else 'ground' for target in targets}
    return {room: [other for other in ROOMS if other in found[room] - {room}] for room in ROOMS}


def relative_imports(tree: ast.AST, parts: Sequence[str]) -> Iterator[str]:
    """The first part below the package of every module that a module at `parts` imports from it."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom) or not node.level:
            continue
        here = list(parts[:len(parts) - node.level]) + (node.module.split('.') if node.module else [])
        yield from [here[0]] if here else (alias.name for alias in node.names)


def draw_package(files: dict[str, dict[str, str]], imports: dict[str, list[str]]) -> str:
    """The rooms of the package over each other, as imports point, with their files."""
    drawing = Drawing(WIDTH, 'The rooms of the package, and which way imports point')
    y = _draw_doors(drawing, files, 12.)
    for layer in LAYERS:
        drawing.arrow(f'M{WIDTH / 2:g} {y + 4:g} v24')
        y += 34
        x, ends = float(GAP), []
        unit = (WIDTH - GAP - GAP * len(layer)) / sum(share for _, share in layer)
        for room, share in layer:
            ends.append(_lay_out(None, room, files[room], imports[room], (x, y, unit * share), share))
            x += unit * share + GAP
        x = float(GAP)
        for room, share in layer:  # boxes beside each other end at one height
            drawing.box(x, y, unit * share, max(ends) - y, ROOM_FILLS[room], 10)
            _lay_out(drawing, room, files[room], imports[room], (x, y, unit * share), share)
            x += unit * share + GAP
        y = max(ends)
    return drawing.svg()


def _draw_doors(drawing: Drawing, files: dict[str, dict[str, str]], y: float) -> float:
    """The doors of the package and the scripts, which are above all rooms."""
    texts = [f'{name}: {comment}' for name, comment in files['doors'].items()]
    texts.append(f'scripts/: {", ".join(files["scripts"])}')
    lines = [line for text in texts for line in wrapped(text, WIDTH - 2 * GAP - 2 * INNER, COMMENT + 1)]
    drawing.box(GAP, y, WIDTH - 2 * GAP, 18 * len(lines) + 18, ROOM_FILLS['doors'], 10)
    for index, line in enumerate(lines):
        drawing.text(GAP + INNER, y + 22 + 18 * index, line, COMMENT + 1)
    return y + 18 * len(lines) + 18


def _lay_out(
        drawing: Drawing | None,
        room: str,
        files: dict[str, str],
        imports: Sequence[str],
        place: tuple[float, float, float],
        columns: int,
) -> float:
    """Write a room at (left, top, width), or only measure it; returns where it ends."""
    left, y, width = place
    y += 26
    told = f'imports {", ".join(imports)}' if imports else 'imports none of the others'
    step = (width - 2 * INNER) / columns
    if drawing is not None:
        drawing.text(left + INNER, y, 'the ground floor' if room == 'ground' else f'{room}/', 18, bold=True)
        drawing.text(left + INNER, y + 19, ROOMS[room], COMMENT + 1)
    head = wrapped(told, width - 2 * INNER, COMMENT + 1)
    for index, line in enumerate(head):
        if drawing is not None:
            drawing.text(left + INNER, y + 37 + 17 * index, line, COMMENT + 1, PALE)
    y += 46 + 17 * len(head)
    heights = {name: 18 + 16.25 * len(wrapped(comment, step - INNER, COMMENT)) + 7 for name, comment in files.items()}
    limit, column, at = fitting_height(list(heights.values()), columns), 0, 0.
    for name, comment in files.items():
        if at + heights[name] > limit + 0.1:
            column, at = column + 1, 0.
        if drawing is not None:
            x = left + INNER + column * step
            drawing.text(x, y + at + 12, name, NAME, bold=True)
            drawing.lines(x, y + at + 28, step - INNER, comment, COMMENT)
        at += heights[name]
    return y + limit + 2


def fitting_height(heights: Sequence[float], columns: int) -> float:
    """The least height of columns that hold things of these heights in their order."""
    def needed(limit: float) -> int:
        number, at = 1, 0.
        for height in heights:
            number, at = (number + 1, height) if at + height > limit + 0.1 else (number, at + height)
        return number

    limit = max(*heights, sum(heights) / columns) if len(heights) > 1 else heights[0]
    while needed(limit) > columns:
        limit += 1
    return limit


def drawings() -> dict[str, str]:
    """The drawings by the names of their files."""
    files = package_files((ROOT / 'CONTRIBUTING.md').read_text(encoding='utf-8'))
    return {NETWORK: draw_network(network_facts()), PACKAGE: draw_package(files, imported_rooms())}


def main(argv: Sequence[str] | None = None) -> int:
    """Write the drawings; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--output', type=Path, default=ROOT / 'docs', help='folder (default: docs)')
    args = parser.parse_args(argv)
    for name, content in drawings().items():
        (args.output / name).write_text(content, encoding='utf-8')
        print(args.output / name)
    return 0


if __name__ == '__main__':
    sys.exit(main())
