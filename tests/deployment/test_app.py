"""The page without a browser: its controls, what they show, and where it is served."""
import errno
import os
import socket
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from trained import trained_run

from rexnet_timm.data.images import read_image
from rexnet_timm.deployment import app
from rexnet_timm.deployment.answers import Answerer
from rexnet_timm.deployment.load import load_model
from rexnet_timm.deployment.predict import Predictor


@pytest.fixture
def photo(tmp_path) -> str:
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / '<i>photo.png')
    return str(tmp_path / '<i>photo.png')


def predictor(task: str) -> Predictor:
    return Predictor(load_model(trained_run(task)), keep_probabilities=False)


def page_of(task: str, folder: Path) -> app.Page:
    pytest.importorskip('gradio', reason='needs the extra app')
    return app.Page(Answerer(predictor(task), 10_000, folder), '<b>run', 'facts & more')


@pytest.mark.slow
def test_a_mask_on_the_page(photo, tmp_path):
    page = page_of('segmentation', tmp_path)
    shown = page.drop(photo, 0, 0.5)
    answer = shown[page.state]
    assert shown[page.upload] is None, 'the next image can be dropped at once'
    assert shown[page.result]['visible'] and shown[page.controls]['visible'] and not shown[page.problem]['visible']
    assert answer.background == {0} and shown[page.picture] == answer.paint(0.5, [0])
    assert shown[page.download] == str(answer.file)
    assert shown[page.about] == '<p>&lt;i&gt;photo.png: 64 x 48 pixels</p>'
    choices, ticked = shown[page.classes]['choices'], shown[page.classes]['value']
    assert [index for _, index in choices] == list(answer.shares)
    assert ticked == [index for index in answer.shares if index != 0]
    for (text, index), share in zip(choices, answer.shares.values(), strict=True):
        assert text.startswith(f'{answer.preview.class_name(index)}: ') and text.endswith(' %')
        assert share < 0.001 or abs(float(text.split()[-2]) - 100 * share) <= 0.051
    assert shown[page.times].count('not run yet') == 4 and shown[page.times].count('class="now"') == 1


@pytest.mark.slow
def test_a_class_stays_off_at_another_scale(photo, tmp_path):
    page = page_of('segmentation', tmp_path)
    first = page.drop(photo, 0, 0.5)[page.state]
    off, *others = first.shares
    assert page.repaint(0.8, others, first) == first.paint(0.8, [off])
    shown = page.rescale(2, 0.8, others, first)
    second = shown[page.state]
    assert page.upload not in shown and second.scale == 2 and second.source == first.source
    assert off not in shown[page.classes]['value'] and shown[page.picture] == second.paint(0.8, [off])
    assert shown[page.times].count('not run yet') == 3 and '1/4' in shown[page.times]


@pytest.mark.slow
def test_depth_and_classes_have_their_own_controls(photo, tmp_path):
    page = page_of('depth', tmp_path)
    shown = page.drop(photo, 0, 1)
    assert (page.scale.visible, page.classes.visible, page.scores.visible, page.opacity.visible) == (
        False, False, False, True)
    assert page.opacity.value == 1 and ' m (light) to ' in shown[page.about] and 'ms' in shown[page.times]
    page = page_of('classification', tmp_path)
    scores = page.drop(photo, 0, 0)[page.scores]
    assert (page.scale.visible, page.classes.visible, page.scores.visible, page.opacity.visible) == (
        False, False, True, False)
    assert set(scores) == {'bright', 'dark'} and sum(scores.values()) == pytest.approx(1, abs=1e-5)


@pytest.mark.slow
def test_a_refused_image_takes_the_last_result_away(tmp_path):
    page = page_of('segmentation', tmp_path)
    path = tmp_path / 'a<b>.png'
    path.write_text('no image')
    shown = page.drop(str(path), 0, 0.5)
    assert shown[page.problem]['visible'] and shown[page.state] is None
    assert shown[page.problem]['value'].startswith('<p>Every image must be readable: a&lt;b&gt;.png is not (')
    assert not shown[page.result]['visible'] and not shown[page.controls]['visible']
    assert page.rescale(1, 0.5, [], None)[page.problem]['value'] == f'<p>{app.GONE}</p>'
    Image.new('RGB', (40, 50)).save(path)
    answer = page.drop(str(path), 0, 0.5)[page.state]
    path.unlink()
    assert page.rescale(1, 0.5, [], answer)[page.problem]['value'] == f'<p>{app.GONE}</p>'


@pytest.mark.slow
def test_the_title_is_text_and_ticks_have_the_colours(tmp_path):
    page = page_of('segmentation', tmp_path)
    heads = [block.value for block in page.blocks.blocks.values() if block.elem_id == 'head']
    assert heads == ['<h1>&lt;b&gt;run</h1><p>facts &amp; more</p>']
    red, green, blue = page.answerer.colors[5]
    assert f'name="5"] {{ color: rgb({red} {green} {blue})' in page.style


@pytest.mark.slow
def test_a_fault_of_the_program_is_not_told_as_the_users(photo, tmp_path, monkeypatch):
    page = page_of('segmentation', tmp_path)
    monkeypatch.setattr(page.answerer, '_timed', lambda *_: zip([1], [], strict=True).__next__())
    with pytest.raises(ValueError, match='zip'):
        page.drop(photo, 0, 0.5)


@pytest.mark.slow
def test_served_until_the_block_ends(tmp_path, monkeypatch):
    pytest.importorskip('gradio', reason='needs the extra app')
    monkeypatch.setenv('no_proxy', 'example.org')
    before = dict(os.environ)
    with app.serve(predictor('segmentation'), 'run', max_bytes=1000) as address:
        folder = Path(os.environ['GRADIO_TEMP_DIR']).parent
        assert address.startswith('http://127.0.0.1:') and folder.is_dir()
        assert urllib.request.urlopen(address, timeout=10).status == 200
        for path in ('gradio_api/file=/etc/passwd', 'gradio_api/file=' + str(tmp_path)):
            with pytest.raises(urllib.error.HTTPError) as error:
                urllib.request.urlopen(address + path, timeout=10)
            assert error.value.code in (403, 404)
        with pytest.raises(urllib.error.HTTPError) as error:
            urllib.request.urlopen(upload(address, b'0' * 2000), timeout=10)
        assert error.value.code == 413
        assert urllib.request.urlopen(upload(address, b'0' * 500), timeout=10).status == 200
    assert not folder.exists() and dict(os.environ) == before
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(address, timeout=10)


def upload(address: str, content: bytes) -> urllib.request.Request:
    body = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n' + content + b'\r\n--x--\r\n'
    return urllib.request.Request(
        address + 'gradio_api/upload', body, {'Content-Type': 'multipart/form-data; boundary=x'})


def test_without_gradio_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__('sys').modules, 'gradio', None)
    with pytest.raises(ValueError, match=r"The page needs gradio: pip install 'rexnet-timm\[app\]'"):
        with app.serve(predictor('segmentation'), 'run'):
            pass


@pytest.mark.parametrize('host, expected', [
    ('127.0.0.1', True), ('127.1.2.3', True), ('::1', True), ('localhost', True), ('0.0.0.0', False), ('::', False),
    ('192.168.0.7', False), ('example.org', False), ('', False)])
def test_loopback(host, expected):
    assert app.is_loopback(host) == expected


def test_a_port_in_use_is_refused():
    with socket.socket() as other:
        other.bind(('127.0.0.1', 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ValueError, match=f'^port must be free, and {port} is in use on 127.0.0.1: pass another.$'):
            app._free_port('127.0.0.1', (port,))
        assert app._free_port('127.0.0.1', range(port, port + 50)) > port


@pytest.mark.parametrize('host', ['192.0.2.1', 'a' * 70])
def test_a_host_of_another_machine_is_refused(host):
    with pytest.raises(ValueError, match=f"^host must be a name or an address of this machine, got '{host}'"):
        app._free_port(host, app.PORTS)


def told(error: Exception, path: str = '/tmp/x/gradio/123/a.png') -> str | None:
    return app.problem_of(error, path)


def test_problems_are_told_by_the_name_of_the_file(tmp_path):
    with pytest.raises(ValueError) as error:
        read_image(tmp_path / 'a.png', 3)
    assert told(error.value, str(tmp_path / 'a.png')).startswith('Every image must be readable: a.png is not')
    assert told(OSError(errno.ENOSPC, 'No space left on device')) == (
        'No space left on device: free space in the temporary folder, and drop the image again.')
    assert told(MemoryError()).startswith('The image does not fit into memory')
    assert told(KeyError('x')) is None and told(ValueError('of a library')) is None
