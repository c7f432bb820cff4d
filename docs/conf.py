"""How Sphinx builds these pages: `make docs`. The commands and the names are those of the package that is imported."""
import contextlib
import inspect
import io
import os
import re

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx

from rexnet_timm import __version__
from rexnet_timm.__main__ import COMMANDS, main

project = 'rexnet_timm'
copyright = '2026, the rexnet_timm authors'
version = release = __version__

extensions = ['myst_parser', 'sphinx.ext.autodoc', 'sphinx.ext.napoleon', 'sphinx_copybutton']

root_doc = 'index'
exclude_patterns = ['build', '**.ipynb_checkpoints', 'measured.md']

myst_enable_extensions = ['dollarmath', 'deflist', 'attrs_inline']
myst_heading_anchors = 4

default_role = 'literal'  # the docstrings mark code with single backticks
autodoc_member_order = 'bysource'
autodoc_typehints = 'signature'
python_maximum_signature_line_length = 90

html_theme = 'furo'
html_title = f'rexnet_timm {__version__}'
html_static_path = ['static']
html_css_files = ['site.css']
html_show_sourcelink = False
html_copy_source = False
html_math_renderer = 'mathml'
copybutton_exclude = '.linenos, .gp, .go'

# `make docs` checks the links between the pages and their files, and no host; `make docs-links` asks the hosts.
linkcheck_ignore = [] if os.environ.get('DOCS_LINKS') == 'all' else [r'https?://']
linkcheck_timeout = 20
linkcheck_retries = 2
linkcheck_anchors_ignore_for_url = [r'https://github\.com/']  # made by scripts there


def help_of(command: str) -> str:
    """What `rexnet COMMAND --help` prints, or `rexnet --help` for an empty name."""
    written = io.StringIO()
    columns, os.environ['COLUMNS'] = os.environ.get('COLUMNS'), '96'
    try:
        with contextlib.redirect_stdout(written), contextlib.suppress(SystemExit):
            main([*command.split(), '--help'])
    finally:
        os.environ.pop('COLUMNS')
        if columns is not None:
            os.environ['COLUMNS'] = columns
    return written.getvalue()


def reference_of(command: str, text: str) -> str:
    """A section of Markdown for a command: its head, and a part for each group of options."""
    head, *groups = re.split(r'^(?=\S[^\n]*:\n  )', text, flags=re.MULTILINE)
    what = COMMANDS[command]
    parts = [f'## rexnet {command}\n\n{what[0].upper()}{what[1:]}.\n\n```text\n{head.strip()}\n```\n']
    for group in groups:
        title, _, body = group.partition(':\n')
        if title == 'options':  # which is --help alone
            continue
        parts.append(f'### {command}: {title}\n\n```text\n{body.rstrip()}\n```\n')
    return '\n'.join(parts)


def write_commands(app: Sphinx, name: str, source: list[str]) -> None:
    """Put the help of all commands into their page, in the place that is marked for it."""
    if name == 'commands':
        pages = [reference_of(command, help_of(command)) for command in COMMANDS]
        source[0] = source[0].replace('<!-- commands -->', '\n'.join(
            [f'```text\n{help_of("").rstrip()}\n```\n', *pages]))


def write_math(block: bool):
    """Formulas as MathML, which browsers draw themselves: no script of another host is needed."""
    def visit(translator, node: nodes.Element) -> None:
        formula = tex2mathml(node.astext(), as_block=block)
        translator.body.append(f'<div class="math">{formula}</div>' if block else formula)
        raise nodes.SkipNode
    return visit


def write_signature(app: Sphinx, what: str, name: str, item: object, *rest: object) -> tuple[str, str] | None:
    """The arguments of a class are those of its own __init__, whatever a metaclass of SMP takes."""
    if what != 'class':
        return None
    return re.sub(r'\b(?:\w+\.)+(?=[A-Z])', '', str(inspect.signature(item))).removesuffix(' -> None'), ''


def keep_returns_whole(app: Sphinx, what: str, name: str, item: object, options: object, lines: list[str]) -> None:
    """What a docstring says of the result is text: napoleon takes what stands before a colon for a type."""
    for number, line in enumerate(lines[:-1]):
        if line.strip() == 'Returns:':
            text = lines[number + 1].lstrip()
            lines[number + 1] = lines[number + 1].replace(text, f': {text}')


def setup(app: Sphinx) -> None:
    app.add_html_math_renderer('mathml', (write_math(False), None), (write_math(True), None))
    app.connect('autodoc-process-signature', write_signature)
    app.connect('autodoc-process-docstring', keep_returns_whole, priority=400)  # before napoleon
    app.connect('source-read', write_commands)
