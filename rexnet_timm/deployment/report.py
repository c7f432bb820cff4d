"""One HTML file of a run, finished or not, and one of how several runs compare. It asks nobody for anything.

What is known of a run is read by `run_facts` and `run_images`; `report_page` and `report_compare` make it the plain
values that the template `report.html` lays out. Names, paths and commands are text to the template, which escapes them.
"""
import importlib
import os
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import torch

from ..files import atomic_path
from ..version import __version__
from .report_compare import comparison_of
from .report_page import page_of, shortest
from .run_facts import RunFacts, read_run
from .run_images import stored_validation, validated

__all__ = ['report', 'require_packages']

REPORT, COMPARISON = 'report.html', 'comparison.html'
TEMPLATE = 'report.html'
GENERATOR = 'rexnet_timm'


def require_packages() -> None:
    """Raise ValueError where a package that draws reports cannot be imported."""
    for name in ('jinja2', 'matplotlib'):
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise ValueError(
                f"A report needs {name}, which cannot be imported here: pip install 'rexnet-timm[report]'") from error


def report(
        run: str | os.PathLike | Sequence[str | os.PathLike],
        output: str | os.PathLike | None = None,
        *,
        data: str | os.PathLike | None = None,
        split: str | None = None,
        validate: bool = True,
        num_images: int = 4,
        batch_size: int = 8,
        workers: int = 0,
        device: str | torch.device = 'cpu',
        overwrite: bool = False,
) -> str:
    """Write what a run has done into one HTML file; of several runs, how they compare.

    The file needs no other one and no network. A run may be in progress, stopped, or without its data: the page says
    what it lacks.

    Args:
        run: Folder of a run, or a checkpoint in it; a list of them for a comparison.
        output: The file; None is report.html in the folder of the run, or comparison.html beside the first of several.
        data: Folder of the validation images; None takes the place that the run had them in. This and the following
            six are for one run.
        split: Part of the data; None takes that on which the run was validated.
        validate: Whether the model is run on the validation images. Otherwise what the folder of the run holds is
            shown, with the scores of an earlier validation.
        num_images: Images that are shown of the best and of the worst.
        batch_size: Images at once.
        workers: Loading processes.
        device: Where the model runs.
        overwrite: Whether a file that is no report of this package may be replaced; one that is, is.

    Returns:
        The path of the file.

    Raises:
        FileNotFoundError: There is no such run.
        OSError: The file cannot be written.
        ValueError: A folder without a run, data that do not fit the model, a file that may not be replaced, or a
            missing package.
    """
    require_packages()
    sources = [run] if isinstance(run, (str, os.PathLike)) else list(run)
    if not sources:
        raise ValueError('A report is of at least one run, got none: name its folder.')
    runs = [read_run(source) for source in sources]
    path = _output(runs, output, overwrite)
    if len(runs) > 1:
        if data is not None or split is not None:
            raise ValueError('A comparison looks at no images: leave out data and split.')
        page = comparison_of(runs)
    else:
        images = validated(
            runs[0], data, split, num_images=num_images, batch_size=batch_size, workers=workers, device=device,
        ) if validate else stored_validation(runs[0])
        page = page_of(runs[0], images, data)
    text = _rendered(page)
    with atomic_path(path) as part, open(part, 'w', encoding='utf-8') as file:
        file.write(text)
    return path


def _output(runs: Sequence[RunFacts], output: str | os.PathLike | None, overwrite: bool) -> str:
    if output is None:
        path = os.path.join(runs[0].folder, REPORT)
        if len(runs) > 1:
            path = os.path.join(os.path.dirname(runs[0].folder), COMPARISON)
        path = shortest(path)
    else:
        path = os.fspath(output)
        if os.path.isdir(path):
            raise ValueError(f'output must be a file, and {path!r} is a folder: name one in it, such as {REPORT}.')
        if not path.lower().endswith(('.html', '.htm')):
            raise ValueError(f'output must end in .html, got {path!r}: a report is an HTML file.')
    if os.path.lexists(path) and not overwrite and not _is_report(path):
        raise ValueError(f'{path!r} exists and is no report: name another output, or pass overwrite to replace it.')
    return path


def _is_report(path: str) -> bool:
    try:
        with open(path, encoding='utf-8', errors='replace') as file:
            return f'<meta name="generator" content="{GENERATOR} ' in file.read(2000)
    except OSError:
        return False


def _rendered(page: Mapping[str, Any]) -> str:
    """The page as the template lays it out."""
    import jinja2
    from markupsafe import Markup
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(os.path.dirname(__file__)), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True)
    # what matplotlib has drawn is the only text that is not escaped: it holds no words of others
    figures = [(figure, Markup(figure.svg)) for figure in page['figures']]
    return environment.get_template(TEMPLATE).render({
        'generator': f'{GENERATOR} {__version__}', 'written': datetime.now().astimezone().isoformat(' ', 'minutes'),
        **page, 'figures': figures})
