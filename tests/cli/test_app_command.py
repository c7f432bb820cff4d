"""`rexnet app` as a user calls it, in a real browser where there is one."""
import io
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image
from running import ROOT, huge_png
from trained import trained_run

import rexnet_timm
from rexnet_timm.__main__ import main
from rexnet_timm.cli.app import create_parser
from rexnet_timm.data import SyntheticShapes
from rexnet_timm.deployment.load import load_model
from rexnet_timm.deployment.predict import Predictor
from rexnet_timm.deployment.runners import AtScale


@pytest.mark.parametrize('words, message', [
    (['--port', '0'], '--port must be at least 1 and at most 65535, got 0.'),
    (['--max-megapixels', '0'], '--max-megapixels must be above 0 and at most 89.478485, the most that is read'),
    (['--max-megapixels', '90'], '--max-megapixels must be above 0 and at most 89.478485, the most that is read'),
    (['--tile', '64', '64', '64'], '--tile must be one number or two, height and width, got 3.'),
    (['--server-port', '80'], 'There is no option --server-port. Did you mean --port?'),
    (['--share'], 'There is no option --share.'),
    (['--host', '192.0.2.1'], "--host must be a name or an address of this machine, got '192.0.2.1'"),
    (['--checkpoint', 'gone'], "There is no checkpoint 'gone'."),
])
def test_mistakes_are_one_line(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(['app', '--checkpoint', str(trained_run('segmentation')), '--device', 'cpu', *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f'rexnet app: error: {message}') and error.count('\n') == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('limit', [200_000_000, None])
def test_the_page_takes_what_is_read(limit, monkeypatch):
    """The limit is Pillow's, which a user may raise or switch off, and of which reading asks too."""
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', limit)
    args = create_parser().parse_args(['--checkpoint', 'x', '--max-megapixels', '200'])
    assert args.max_megapixels == 200


def test_a_port_in_use_is_named_by_its_option(capsys):
    with socket.socket() as other:
        other.bind(('127.0.0.1', 0))
        other.listen()
        port = other.getsockname()[1]
        assert main(['app', '--checkpoint', str(trained_run('segmentation')), '--port', str(port)]) == 2
    assert capsys.readouterr().err == (
        f'rexnet app: error: --port must be free, and {port} is in use on 127.0.0.1: pass another.\n')


class Server:
    """The command in folders of its own, until it is told to end."""

    def __init__(self, root: Path, *words: str) -> None:
        self.folders = [root / name for name in ('work', 'home', 'temporary')]
        for folder in self.folders:
            folder.mkdir()
        # who asks an outside host does so here, where nobody answers
        self.proxy = socket.create_server(('127.0.0.1', 0))
        proxy = f'http://127.0.0.1:{self.proxy.getsockname()[1]}'
        environment = {
            **os.environ, 'PYTHONPATH': str(ROOT), 'HOME': str(self.folders[1]), 'TMPDIR': str(self.folders[2]),
            'http_proxy': proxy, 'https_proxy': proxy, 'all_proxy': proxy,
            'MPLCONFIGDIR': str(root / 'fonts')}  # Gradio imports matplotlib where it is there, which notes its fonts
        for name in ('no_proxy', 'NO_PROXY', 'XDG_CACHE_HOME'):
            environment.pop(name, None)
        self.process = subprocess.Popen(
            [sys.executable, '-m', 'rexnet_timm', 'app', '--device', 'cpu', *words], cwd=self.folders[0],
            env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            # as in a terminal, also where the tests themselves run in the background of a shell, which ignores Ctrl-C
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
        line = self.process.stdout.readline()
        assert 'until Ctrl-C' in line, line + self.process.stderr.read()
        self.address = re.search(r'http://\S+', line)[0]

    def end(self, kind: signal.Signals) -> tuple[int, str, str]:
        """Status, further output and errors of the command."""
        self.process.send_signal(kind)
        output, errors = self.process.communicate(timeout=60)
        return self.process.returncode, output, errors

    def left(self) -> list[Path]:
        return [path for folder in self.folders for path in folder.rglob('*')]

    def asked_outside(self) -> bool:
        self.proxy.setblocking(False)
        try:
            self.proxy.accept()
        except BlockingIOError:
            return False
        return True


@pytest.fixture
def serve(tmp_path) -> Iterator[type[Server]]:
    pytest.importorskip('gradio', reason='needs the extra app')
    started = []

    def start(*words: str) -> Server:
        started.append(Server(tmp_path, *words))
        return started[-1]

    yield start
    for server in started:
        server.proxy.close()
        server.process.kill()
        server.process.communicate()


@pytest.mark.slow
@pytest.mark.parametrize('kind', [signal.SIGINT, signal.SIGTERM])
def test_it_ends_in_one_line_and_leaves_nothing(kind, serve):
    server = serve('--checkpoint', str(trained_run('segmentation')), '--host', '0.0.0.0')
    assert any(path.name.startswith('rexnet-app-') for path in server.left())
    assert server.end(kind) == (
        0, 'rexnet app: ended\n',
        'rexnet app: warning: everybody who reaches 0.0.0.0 can use the page: it has no authentication.\n')
    assert server.left() == [] and not server.asked_outside()


def shown(page) -> np.ndarray:
    """The pixels of the picture on the page."""
    source = page.locator('#picture img').get_attribute('src')
    return np.array(Image.open(io.BytesIO(page.request.get(source).body())).convert('RGB'))


def wait_for_another_picture(page, act) -> np.ndarray:
    before = page.locator('#picture img').get_attribute('src')
    act()
    page.wait_for_function('old => document.querySelector("#picture img").src !== old', arg=before)
    return shown(page)


def downloaded(page) -> Image.Image:
    with page.expect_download() as waiting:
        page.click('#download')
    assert waiting.value.suggested_filename == 'photo-mask.png'
    return Image.open(waiting.value.path())


@pytest.mark.slow
def test_an_image_in_a_real_browser(serve, browser, tmp_path):
    run = trained_run('segmentation')
    server = serve('--checkpoint', str(run), '--max-megapixels', '0.05', '--max-megabytes', '0.2')
    image, _ = SyntheticShapes(1, (150, 200), 6, seed=11)[0]
    photo, bomb, heavy = (tmp_path / name for name in ('photo.png', 'bomb.png', 'heavy.png'))
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(photo)
    bomb.write_bytes(huge_png())
    heavy.write_bytes(bytes(300_000))
    model = load_model(run)
    expected = rexnet_timm.predict(model, photo)

    page = browser.new_page(viewport={'width': 1280, 'height': 900})
    page.set_default_timeout(120_000)  # milliseconds, on a busy machine
    requests = []
    page.on('request', lambda request: requests.append(request.url))
    page.goto(server.address)
    assert page.locator('#head h1').inner_text() == 'segmentation' and page.title() == 'segmentation - rexnet'

    choose = '#upload input[type=file]'
    page.set_input_files(choose, bomb)
    page.wait_for_selector('#problem p')
    assert page.locator('#problem p').inner_text() == (
        'Every image must have at most 89478485 pixels: bomb.png has more; cut the image and its mask into smaller '
        'tiles, such as 2048 x 2048.')
    page.set_input_files(choose, heavy)
    page.get_by_text('exceed the maximum allowed size').wait_for()

    page.set_input_files(choose, photo)
    page.wait_for_selector('#picture img')
    assert not page.locator('#problem p').is_visible()
    assert np.array_equal(shown(page), np.array(expected.overlay(0.5)))
    assert page.locator('#about p').inner_text() == 'photo.png: 200 x 150 pixels'
    page.screenshot(path=tmp_path / 'wide.png', full_page=True)
    mask = downloaded(page)
    expected.save(tmp_path / 'expected.png')
    written = Image.open(tmp_path / 'expected.png')
    assert mask.mode == 'P' and mask.getpalette() == written.getpalette()
    assert np.array_equal(np.array(mask), np.array(written))

    names = page.locator('#classes label span').all_inner_texts()
    largest = int(np.bincount(expected.mask.ravel()).argmax())
    assert any(name.startswith(f'{expected.class_name(largest)}: ') for name in names)
    box = page.locator(f'#classes input[name="{largest}"]')
    others = set(range(1, 6)) ^ {largest}  # the background, class 0, is off at first
    picture = wait_for_another_picture(page, box.uncheck if largest else box.check)
    assert np.array_equal(picture, np.array(expected.overlay(0.5, others)))
    picture = wait_for_another_picture(page, lambda: page.locator('#opacity input[type=range]').press('ArrowRight'))
    assert np.array_equal(picture, np.array(expected.overlay(0.55, others)))

    assert page.locator('#times tr.now').inner_text().split()[:2] == ['scale', '0']
    page.locator('#scale input[type=range]').press('ArrowRight')
    page.locator('#times tr.now', has_text='scale 1').wait_for()
    coarse = AtScale(model, 1)
    coarse.description = model.description
    coarse = Predictor(coarse)(photo)
    assert np.array_equal(np.array(downloaded(page)), coarse.mask) and not np.array_equal(coarse.mask, expected.mask)
    assert re.findall(r'\d+ ms|not run yet', page.locator('#times').inner_text())[2:] == ['not run yet'] * 3
    assert np.array_equal(shown(page), np.array(coarse.overlay(0.55, others)))

    page.set_viewport_size({'width': 400, 'height': 800})
    assert page.evaluate('document.documentElement.scrollWidth <= window.innerWidth')
    page.screenshot(path=tmp_path / 'narrow.png', full_page=True)
    widths = [Image.open(tmp_path / name).size[0] for name in ('wide.png', 'narrow.png')]
    assert widths == [1280, 400]

    hosts = {urlsplit(url).netloc for url in requests if urlsplit(url).scheme not in ('data', 'blob')}
    assert hosts == {urlsplit(server.address).netloc}
    assert server.end(signal.SIGINT) == (0, 'rexnet app: ended\n', '')
    assert server.left() == [] and not server.asked_outside()
