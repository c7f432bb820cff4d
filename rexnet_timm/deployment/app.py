"""A local web page for a trained model: drop an image, see what the model says of it, download that.

Nothing of a visit outlasts the server: uploads and results lie in a temporary folder. The page fetches nothing from
other hosts, and nothing is sent to them. The server is Gradio's (the extra `app`), imported only where it is needed.
"""
import errno
import html
import logging
import os
import socket
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from ..errors import first_lines, is_told
from .answers import Answer, Answerer
from .predict import Predictor

__all__ = ['Page', 'is_loopback', 'problem_of', 'serve']

LOOPBACK = '127.0.0.1'
PORTS = range(7860, 7960)  # Gradio's own
MEGABYTE = 2 ** 20  # as Gradio counts them
LISTED = 60  # classes, the largest of an image
TOP = 5
SESSIONS, WAITING = 32, 32  # visitors whose last image is remembered, and calls that wait for the network
CLEAN_EVERY, KEEP = 600, 3600  # seconds, of uploads and downloads
GONE = 'The image is no longer here: drop it again.'
OPACITY = {'segmentation': 0.5, 'depth': 1.}
DOWNLOADS = {
    'segmentation': 'Download the mask (PNG)', 'depth': 'Download the depth (PNG, millimetres)',
    'classification': 'Download all scores (CSV)'}


class Page:
    """The page of a model, with the controls that its task and scales have; `blocks` is Gradio's object of it.

    Args:
        answerer: Gives the answers.
        title: Name of the model.
        facts: A line about it and the images that it takes.

    Raises:
        ValueError: Gradio is missing.
    """

    def __init__(self, answerer: Answerer, title: str, facts: str = '') -> None:
        self.answerer, self._gr = answerer, _gradio()
        head = f'<h1>{html.escape(title)}</h1><p>{html.escape(facts)}</p>'
        self.blocks = self._gr.Blocks(
            title=f'{title} - rexnet', analytics_enabled=False, delete_cache=(CLEAN_EVERY, KEEP))
        with self.blocks:
            self._gr.HTML(head, elem_id='head')
            self.state = self._gr.State(None)  # the visitor's last answer
            with self._gr.Row():
                with self._gr.Column(scale=3, min_width=320):
                    self._lay_out_images()
                with self._gr.Column(scale=1, min_width=280, visible=False) as self.controls:
                    self._lay_out_controls()
            self._connect()

    @property
    def style(self) -> str:
        """CSS, with which each class is ticked in its colour."""
        rules = [Path(__file__).with_suffix('.css').read_text(encoding='utf-8')]
        for index, (red, green, blue) in enumerate(self.answerer.colors):
            rules.append(f'#classes input[name="{index}"] {{ color: rgb({red} {green} {blue}) !important; }}')
        return '\n'.join(rules)

    def _lay_out_images(self) -> None:
        gr = self._gr
        self.upload = gr.File(label='Image', height=130, elem_id='upload')
        self.problem = gr.HTML(visible=False, elem_id='problem')
        with gr.Column(visible=False) as self.result:
            self.picture = gr.Image(
                show_label=False, format='png', interactive=False, buttons=['download', 'fullscreen'],
                elem_id='picture')
            self.about = gr.HTML(elem_id='about')
            self.download = gr.DownloadButton(DOWNLOADS[self.answerer.task], variant='primary', elem_id='download')

    def _lay_out_controls(self) -> None:
        gr, task, scales = self._gr, self.answerer.task, self.answerer.scales
        finest, coarsest = min(scales, default=0), max(scales, default=1)
        self.scale = gr.Slider(
            finest, coarsest, finest, step=1, label='Scale', info='Coarser ones leave out the finer stages.',
            visible=bool(scales), elem_id='scale')
        self.times = gr.HTML(elem_id='times')
        self.opacity = gr.Slider(
            0, 1, OPACITY.get(task, 0), step=0.05, label='Opacity', visible=task in OPACITY, elem_id='opacity')
        self.classes = gr.CheckboxGroup(
            label='Classes', show_select_all=True, visible=task == 'segmentation', elem_id='classes')
        self.scores = gr.Label(
            label='Classes', num_top_classes=TOP, show_heading=False, visible=task == 'classification',
            elem_id='scores')

    def _connect(self) -> None:
        shown = [
            self.state, self.problem, self.result, self.controls, self.picture, self.about, self.download, self.times,
            self.classes, self.scores]
        network = dict(concurrency_limit=1, concurrency_id='network', api_visibility='private')
        self.upload.upload(
            self.drop, [self.upload, self.scale, self.opacity], [self.upload, *shown], show_progress_on=[self.upload],
            **network)
        self.scale.input(
            self.rescale, [self.scale, self.opacity, self.classes, self.state], shown, show_progress_on=[self.times],
            trigger_mode='always_last', **network)
        for control in (self.opacity, self.classes):
            control.input(
                self.repaint, [self.opacity, self.classes, self.state], [self.picture], show_progress='hidden',
                trigger_mode='always_last', concurrency_limit=4, api_visibility='private')

    def drop(self, path: str, scale: float, opacity: float) -> dict[Any, Any]:
        """What is shown of an uploaded file; its place becomes free for the next one."""
        return {self.upload: None, **self._show(path, scale, opacity)}

    def rescale(self, scale: float, opacity: float, ticked: Collection[int], earlier: Answer | None) -> dict[Any, Any]:
        """What is shown of the last image at another scale."""
        if earlier is None or not earlier.source.is_file():  # many others came, or much time has passed
            return self._refuse(GONE)
        return self._show(str(earlier.source), scale, opacity, _hidden(earlier, ticked), earlier)

    def repaint(self, opacity: float, ticked: Collection[int], earlier: Answer | None) -> Any:
        """The picture with other colours."""
        return self._gr.skip() if earlier is None else earlier.paint(opacity, _hidden(earlier, ticked))

    def _show(
            self,
            path: str,
            scale: float,
            opacity: float,
            hidden: Collection[int] = (),
            earlier: Answer | None = None,
    ) -> dict[Any, Any]:
        try:
            answer = self.answerer(Path(path), scale, earlier)
        except Exception as error:
            text = problem_of(error, path)
            if text is None:
                raise
            return self._refuse(text)
        # a background that has not been listed before is off, as it is at first
        hidden = {*hidden, *(answer.background - set(() if earlier is None else _listed(earlier)))}
        listed, visible = _listed(answer), self._gr.update(visible=True)
        return {
            self.state: answer, self.problem: self._gr.update(visible=False), self.result: visible,
            self.controls: visible, self.picture: answer.paint(opacity, hidden), self.about: _about(answer),
            self.download: str(answer.file), self.times: _times(answer, self.answerer.scales),
            self.classes: self._gr.update(
                choices=[(_legend(answer, index), index) for index in listed],
                value=[index for index in listed if index not in hidden]),
            self.scores: None if answer.preview.scores is None else dict(answer.preview.top(TOP))}

    def _refuse(self, text: str) -> dict[Any, Any]:
        hidden = self._gr.update(visible=False)
        return {
            self.problem: self._gr.update(value=f'<p>{html.escape(text)}</p>', visible=True), self.state: None,
            self.result: hidden, self.controls: hidden}


def problem_of(error: Exception, path: str) -> str | None:
    """What is wrong with an uploaded file, on one line with its own name; None for a fault of the program."""
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return f'{error.strerror}: free space in the temporary folder, and drop the image again.'
    # torch has a class of this error for accelerators only
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error):
        return 'The image does not fit into memory: take a smaller one, or run the model in tiles.'
    if isinstance(error, ValueError) and is_told(error):
        return ' '.join(str(error).split()).replace(path, os.path.basename(path))
    return None


def _listed(answer: Answer) -> list[int]:
    """The classes of an image that can be switched off."""
    return list(answer.shares)[:LISTED]


def _hidden(answer: Answer, ticked: Collection[int]) -> set[int]:
    return set(_listed(answer)) - set(ticked)


def _legend(answer: Answer, index: int) -> str:
    share = answer.shares[index]
    return f'{answer.preview.class_name(index)}: {"<0.1" if share < 0.001 else f"{100 * share:.1f}"} %'


def _about(answer: Answer) -> str:
    height, width = answer.size
    text = f'{answer.source.name}: {width} x {height} pixels'
    if answer.preview.depth is not None:
        depth = answer.preview.depth
        text += f'; depth from {depth.min():.3g} m (light) to {depth.max():.3g} m (dark)'
    return f'<p>{html.escape(text)}</p>'


def _times(answer: Answer, scales: Sequence[int]) -> str:
    rows = []
    for scale in scales or (None,):
        name = 'Time' if scale is None else f'scale {scale}'
        size = '' if scale is None else 'full size' if scale == 0 else f'1/{2 ** scale}'
        seconds = answer.seconds.get(scale)
        time = 'not run yet' if seconds is None else f'{1000 * seconds:.0f} ms'
        now = ' class="now"' if scale == answer.scale else ''
        rows.append(f'<tr{now}><td>{name}</td><td>{size}</td><td>{time}</td></tr>')
    return f'<table>{"".join(rows)}</table>'


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server at `host`, a name or an address."""
    try:
        return host == 'localhost' or ip_address(host).is_loopback
    except ValueError:
        return False


@contextmanager
def serve(
        predictor: Predictor,
        title: str,
        facts: str = '',
        *,
        host: str = LOOPBACK,
        port: int | None = None,
        max_bytes: int = 20 * MEGABYTE,
        max_pixels: int = 16_000_000,
        open_browser: bool = False,
) -> Iterator[str]:
    """Serve the page of a model until the block ends; yields its address.

    Uploads, results and everything else that is written lie in a temporary folder, which is removed at the end.
    Gradio keeps to the folder of its first time in a process: where a process serves again, that is left behind, empty.

    Args:
        predictor: Of the model.
        title: Name of the model.
        facts: A line about it.
        host: Name or address to listen at. There is no authentication: beyond loopback, everybody who reaches it may
            use the page.
        port: Port to listen at; None takes the first free one of `PORTS`.
        max_bytes: Of an uploaded file.
        max_pixels: Of an uploaded image.
        open_browser: Whether the page is opened in the browser of this machine.

    Raises:
        ValueError: Gradio is missing, or there is no listening at that host and port.
    """
    logging.getLogger('httpx').setLevel(logging.WARNING)  # with which Gradio asks whether the server runs
    port = _free_port(host, PORTS if port is None else (port,))
    with TemporaryDirectory(prefix='rexnet-app-') as folder, _environment(
            GRADIO_TEMP_DIR=os.path.join(folder, 'gradio'), GRADIO_ANALYTICS_ENABLED='False',
            HF_HUB_DISABLE_TELEMETRY='True',  # which Gradio sets itself, and would leave set
            no_proxy=_without_proxy(host)):
        facts += f' Images may have up to {max_bytes / MEGABYTE:g} MB and {max_pixels / 1e6:g} megapixels.'
        page = Page(Answerer(predictor, max_pixels, folder), title, facts.strip())
        blocks = page.blocks.queue(max_size=WAITING)
        try:
            _, url, _ = blocks.launch(
                server_name=f'[{host}]' if ':' in host else host, server_port=port, max_file_size=max_bytes,
                state_session_capacity=SESSIONS, share=False, quiet=True, prevent_thread_lock=True,
                inbrowser=open_browser, css=page.style, theme=_gradio().themes.Default(primary_hue='blue'),
                footer_links=[], run_history=False, enable_monitoring=False, mcp_server=False, pwa=False,
                ssr_mode=False)
            yield url
        finally:
            blocks.close(verbose=False)


def _gradio() -> Any:
    try:
        import gradio
    except ImportError as error:
        raise ValueError(f"The page needs gradio: pip install 'rexnet-timm[app]' ({error}).") from error
    return gradio


@contextmanager
def _environment(**values: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _without_proxy(host: str) -> str:
    """The hosts that are reached without a proxy, and among them the server, which Gradio asks whether it runs."""
    given = os.environ.get('no_proxy') or os.environ.get('NO_PROXY')
    return ','.join(filter(None, [given, 'localhost', LOOPBACK, host]))


def _free_port(host: str, ports: Sequence[int]) -> int:
    """The first port at which a server can listen. ValueError where there is none."""
    problem = None
    for port in ports:
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            with socket.socket(family, kind, protocol) as listener:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # of a server that has just ended
                listener.bind(address)
            return port
        except (OSError, UnicodeError) as error:
            problem = error
            if getattr(error, 'errno', None) != errno.EADDRINUSE:
                break
    if getattr(problem, 'errno', None) == errno.EADDRINUSE:
        found = str(ports[0]) if len(ports) == 1 else f'every one from {ports[0]} to {ports[-1]}'
        raise ValueError(f'port must be free, and {found} is in use on {host}: pass another.') from problem
    if isinstance(problem, PermissionError):
        raise ValueError(f'port must be one that you may use, and {port} is not: pass 1024 or more.') from problem
    raise ValueError(
        f'host must be a name or an address of this machine, got {host!r} ({first_lines(problem, 1)}): leave it out '
        f'for {LOOPBACK}.') from problem
