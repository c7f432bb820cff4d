"""The report of a run: what it reads, what it shows, and that nothing in it acts or reaches out."""
import base64
import csv
import io
import json
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from trained import trained_run

import rexnet_timm
from rexnet_timm.deployment.built_in import built_in_set
from rexnet_timm.deployment.pictures import depth_error_map
from rexnet_timm.deployment.report import report, require_packages
from rexnet_timm.deployment.report_figures import Line, curves, stacked
from rexnet_timm.deployment.run_facts import FINISHED, RUNNING, STOPPED, UNKNOWN, read_run
from rexnet_timm.training.record import RunRecord

HOSTILE = '</td></style><script>alert(1)</script><img src="http://x/y" onerror=\'a()\'>&amp;$\\frac{ {{ 7919*7907 }}'
VOID = {'meta', 'link', 'img', 'br', 'path', 'use', 'rect'}
TAGS = {
    'html', 'head', 'meta', 'title', 'link', 'style', 'body', 'header', 'h1', 'h2', 'h3', 'p', 'nav', 'a', 'section',
    'div', 'dl', 'dt', 'dd', 'figure', 'figcaption', 'ul', 'li', 'i', 'table', 'thead', 'tbody', 'tr', 'th', 'td',
    'span', 'img', 'code', 'pre', 'details', 'summary', 'footer', 'svg', 'g', 'defs', 'path', 'use', 'text',
    'clippath', 'rect', 'tspan'}
ATTRIBUTES = {
    'lang', 'charset', 'http-equiv', 'content', 'name', 'rel', 'href', 'class', 'style', 'id', 'src', 'alt',
    'aria-hidden', 'viewbox', 'd', 'x', 'y', 'width', 'height', 'transform', 'clip-path'}


class Page(HTMLParser):
    """The text of a page and its pictures; asserts on the way that nothing in it acts or reaches out."""

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        self.source = Path(path).read_text(encoding='utf-8')
        self.words, self.pictures, self.open = [], [], []
        self.feed(self.source)
        assert not self.open, 'every element is closed'
        self.text = ' '.join(' '.join(self.words).split())
        policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
        assert f'<meta http-equiv="Content-Security-Policy" content="{policy}">' in self.source

    def handle_starttag(self, tag, attributes):
        assert tag in TAGS, tag
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attributes:
            assert name in ATTRIBUTES, (tag, name)
            if name in ('src', 'href'):
                assert value.startswith(('#', 'data:image/png;base64,', 'data:image/jpeg;base64,')) or value == 'data:,'
            if name == 'style':
                assert 'url(' not in value and ';;' not in value
            if name == 'clip-path':
                assert value.startswith('url(#')
        if tag == 'img':
            self.pictures.append(Image.open(io.BytesIO(base64.b64decode(dict(attributes)['src'].partition(',')[2]))))

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == 'style':
            assert 'http' not in data and 'url(' not in data and '@import' not in data
        else:
            self.words.append(data)


def start(**facts) -> dict:
    return {'time': '2026-01-02T03:04:05+00:00', 'command': 'rexnet train DATA', 'epochs': 3, 'parameters': 1_230_000,
            'task': 'segmentation', 'versions': {'torch': '9.9'}, 'machine': {'device': 'cpu', 'memory': 8e9},
            'git': {'folder': {'commit': 'abcdef0123456789', 'branch': 'main', 'changed': 1}}, **facts}


def write_run(folder: Path, epochs: int = 3, starts: list | None = None, names=('sky', 'road'), **arguments) -> Path:
    """The folder of a run without a checkpoint."""
    folder.mkdir(parents=True)
    options = {'model': 'rexnetv1_unet_test', 'eval_metric': 'miou', 'epochs': 3, 'data_dir': 'gone', **arguments}
    (folder / 'args.yaml').write_text(yaml.safe_dump(options))
    (folder / 'run.json').write_text(json.dumps({'starts': [start(end='finished')] if starts is None else starts}))
    columns = ['epoch', 'train_loss', 'train_loss_scale_0', 'train_loss_scale_1', 'eval_loss', 'eval_miou', 'lr',
               *(f'eval_iou_{name}' for name in names)]
    with open(folder / 'summary.csv', 'w', newline='') as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows([i, 2 / (i + 1), 1 / (i + 1), 3 / (i + 1), 0.5, 40 + 10 * i - 15 * (i == 2), 0.1,
                          *(50 + i for _ in names)] for i in range(epochs))
    rows = ['epoch,batches,data,step,validation,memory', *(f'{i},8,1,6,3,2000000000' for i in range(epochs))]
    (folder / 'times.csv').write_text('\n'.join(rows) + '\n')
    return folder


def read(*sources: Path, **options) -> Page:
    pytest.importorskip('matplotlib', reason='needs the extra report')
    return Page(report(list(sources) if len(sources) > 1 else sources[0], **options))


def test_what_the_folder_tells_is_on_the_page(tmp_path):
    page = read(write_run(tmp_path / 'a'))
    for words in (
            'Finished: 3 of 3 epochs are done.', 'best mIoU 50.0 % epoch 1', 'last mIoU 45.0 % epoch 2',
            'parameters 1.23 M', 'time 30.0 s 10.0 s an epoch', 'memory 2.00 GB', 'scale 0 scale 1',
            'Training steps 60%, waiting for data 10%, validation 30%.', 'sky 51.0', 'the validation of epoch 1',
            'There is no checkpoint yet, so that no image can be shown.', 'rexnet train DATA', 'torch 9.9',
            'abcdef012345 on main, 1 file changed', 'eval-metric miou', 'rexnet predict PHOTOS --checkpoint'):
        assert words in page.text, words
    assert page.source.count('<svg') == 5  # losses, scales, mIoU, rate, time
    assert len(page.source) < 300_000


def test_hostile_names_are_text(tmp_path):
    folder = write_run(
        tmp_path / '<b onclick="x">a&b', names=(HOSTILE, '_b'), data_dir=HOSTILE, model=HOSTILE,
        starts=[start(command=HOSTILE, end=HOSTILE, versions={HOSTILE: HOSTILE}, place=HOSTILE)], **{HOSTILE: HOSTILE})
    (folder / 'summary.csv').write_text((folder / 'summary.csv').read_text().replace(
        'eval_loss', '"eval_' + HOSTILE.replace('"', '""') + '"'))
    page = read(folder)
    assert page.text.count(HOSTILE) >= 7 and '62615533' not in page.text
    assert '<b onclick="x">a&b' in page.text
    assert HOSTILE in read(folder, write_run(tmp_path / 'other', data_dir='x')).text  # of options that differ


@pytest.mark.parametrize('starts, state, words', [
    ([start(end='finished')], FINISHED, 'Finished: 2 of 3'),
    ([start()], STOPPED, 'Stopped: 2 of 3 epochs are done. Its process was killed, or its machine stopped.'),
    ([start(), start(end='SIGTERM: stopped in epoch 2 after batch 5.')], STOPPED, 'It ended with: SIGTERM: stopped in'),
    ([], UNKNOWN, '2 of 3 epochs are done. Training'),
    ([{'versions': 3, 'git': [], 'machine': 'x', 'epochs': 'many', 'parameters': '9'}], STOPPED, 'Stopped: 2 of 3'),
])
def test_the_state_of_a_run(starts, state, words, tmp_path):
    folder = write_run(tmp_path / 'a', epochs=2, starts=starts)
    assert read_run(folder).state == state
    page = read(folder)
    assert words in page.text and ('no record of its command' in page.text) == (not starts)
    assert ('Start 2 of 2' in page.text) == (len(starts) == 2)


def test_a_run_in_progress(tmp_path):
    folder = write_run(tmp_path / 'a', epochs=0, starts=[start()])
    (folder / 'lock').touch()
    code = f'import fcntl; f = open({str(folder / "lock")!r}, "a"); fcntl.lockf(f, fcntl.LOCK_EX); print(1, flush=True)'
    with subprocess.Popen(
            [sys.executable, '-S', '-c', f'{code}; input()'], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        holder.stdout.readline()
        assert read_run(folder).state == RUNNING
        page = read(folder)
        holder.communicate(b'\n')
    assert 'In progress: 0 of 3 epochs are done.' in page.text and 'there is no curve to draw' in page.text
    assert read_run(folder).state == STOPPED
    with RunRecord(folder, {}, torch.device('cpu')):  # in this process, whose lock is not touched
        assert read_run(folder).state == RUNNING


def test_rows_that_are_cut_off(tmp_path):
    folder = write_run(tmp_path / 'a')
    with open(folder / 'summary.csv', 'a') as file:
        file.write('1,9,9,9,9,nan,inf,x,\nno,1\n3,0.1')
    run = read_run(folder)
    assert [row['epoch'] for row in run.rows] == [0, 1, 2] and run.best == (2, 45.)
    assert 'eval_iou_sky' not in run.rows[1] and np.isnan(run.rows[1]['eval_miou'])  # the later row of the epoch
    page = read(folder)
    assert '2 rows of summary.csv cannot be read and are left out.' in page.text
    assert 'best mIoU 45.0 %' in page.text
    (folder / 'args.yaml').write_text('a: [')
    (folder / 'run.json').write_text('[')
    (folder / 'times.csv').write_bytes(b'\xff\x00')
    assert 'args.yaml cannot be read' in read(folder).text


def test_an_earlier_validation_is_shown(tmp_path):
    folder = write_run(tmp_path / 'a')
    (folder / 'validate-test').mkdir()
    classes = {name: {'iou': 12.3, 'dice': None, 'pixels': pixels} for name, pixels in (('sky', 1), ('road', 3))}
    results = {'split': 'test', 'images': 7, 'miou': 33.3, 'class_names': ['sky', 'road'], 'classes': classes,
               'confusion': [[1, 0], [1, 2]]}
    (folder / 'validate-test' / 'results.json').write_text(json.dumps(results))
    page = read(folder, validate=False)
    for words in ('7 images of the split test', 'as an earlier validation left them', 'mIoU 33.3 %',
                  'sky 12.3 - 25.00 %', 'road taken for sky (33.3 %).', 'None are shown',
                  'rexnet validate gone --checkpoint', '--split test rexnet predict'):
        assert words in page.text, words
    for broken in ('{"classes": 3, "confusion": [[1]], "class_names": 4, "images": null}', '[]', '{', '{"miou": "<b>"}',
                   '{"classes": {"a": 1}, "confusion": [["x"]]}'):
        (folder / 'validate-test' / 'results.json').write_text(broken)
        assert 'mIoU 33.3' not in read(folder, validate=False).text


def test_a_confusion_that_rounds_to_nothing_is_not_named(tmp_path):
    folder = write_run(tmp_path / 'a')
    (folder / 'validate-test').mkdir()
    results = {'split': 'test', 'class_names': ['sky', 'road'], 'confusion': [[9996, 4], [5, 9995]]}
    (folder / 'validate-test' / 'results.json').write_text(json.dumps(results))
    assert 'Most often: road taken for sky (0.1 %).' in read(folder, validate=False).text


@pytest.mark.parametrize('arguments, words', [
    (dict(data_dir='my data'), "rexnet validate 'my data' --checkpoint"),
    (dict(data_dir=None), 'rexnet validate DATA --checkpoint'),
    (dict(dataset='synthetic', seed=42), 'rexnet validate --dataset synthetic --checkpoint'),
    (dict(dataset='synthetic', seed=0), 'rexnet validate --dataset synthetic --seed 0 --checkpoint')])
def test_the_command_that_validates_again_names_the_data_and_their_part(arguments, words, tmp_path):
    page = read(write_run(tmp_path / 'a', **arguments), validate=False)
    assert words in page.text and '--split validation rexnet predict' in page.text
    assert 'rexnet validate now --checkpoint' in read(tmp_path / 'a', data='now', validate=False).text


def test_runs_are_compared(tmp_path):
    runs = [write_run(tmp_path / name / 'run', epochs, lr=lr) for name, epochs, lr in (('x', 3, 0.1), ('_y', 2, 0.2))]
    page = read(*runs)
    assert (tmp_path / 'x' / 'comparison.html').exists()
    for words in ('x/run', '_y/run', 'mIoU 50.0 %', '3 of 3', '2 of 3', 'lr 0.1 0.2', 'sky 51.0 51.0',
                  'mIoU against time', '2 runs'):
        assert words in page.text, words
    assert page.source.count('<svg') == 5
    same = read(runs[0], runs[0], output=tmp_path / 'same.html')
    assert 'run (1)' in same.text and 'None: the runs were begun with the same options.' in same.text
    with pytest.raises(ValueError, match='A comparison looks at no images: leave out data and split.'):
        report(runs, data=tmp_path)


def test_a_file_that_is_no_report_stays(tmp_path):
    folder = write_run(tmp_path / 'a')
    path = Path(report_or_skip(folder))
    assert path == folder / 'report.html' and Path(report(folder)) == path, 'a report is replaced'
    path.write_text('mine')
    with pytest.raises(ValueError, match="report.html' exists and is no report: name another output, or pass"):
        report(folder)
    assert path.read_text() == 'mine'
    report(folder, overwrite=True)
    assert Page(path).text
    with pytest.raises(ValueError, match='output must end in .html, got'):
        report(folder, tmp_path / 'a.txt')
    with pytest.raises(ValueError, match='output must be a file, and'):
        report(folder, tmp_path)
    with pytest.raises(FileNotFoundError, match='There is no folder'):
        report(folder, tmp_path / 'none' / 'a.html')


def report_or_skip(*args, **options) -> str:
    pytest.importorskip('matplotlib', reason='needs the extra report')
    return report(*args, **options)


def test_folders_without_a_run(tmp_path):
    for name in ('a', 'b'):
        write_run(tmp_path / 'runs' / name)
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'file.txt').touch()
    with pytest.raises(FileNotFoundError, match="There is no run 'gone': name the folder of one"):
        read_run('gone')
    with pytest.raises(ValueError, match="empty' holds none: name a folder with args.yaml, summary.csv or model_best"):
        read_run(tmp_path / 'empty')
    with pytest.raises(ValueError, match=r"holds several: name one of them, or more \(.*runs/a, .*runs/b\)\."):
        read_run(tmp_path / 'runs')
    with pytest.raises(ValueError, match='is a file that is no checkpoint of one: name its folder.'):
        read_run(tmp_path / 'file.txt')


@pytest.mark.parametrize('package', ['jinja2', 'matplotlib'])
def test_a_missing_package_is_named(package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match=rf"A report needs {package}, .*: pip install 'rexnet-timm\[report\]'"):
        require_packages()


def test_figures_take_the_colours_of_the_page():
    pytest.importorskip('matplotlib', reason='needs the extra report')
    figure = curves('A & b', [
        Line('$x_y', [(0, 1.), (1, float('nan')), (2, 1e-3)]), Line('_b', [(0, 2.), (1, 3.)], 1, dashed=True)],
        best=(2, 1e-3), may_be_logarithmic=True)
    assert figure.legend == [('$x_y', 0, False), ('_b', 1, True)]
    for colour in ('--c0', '--c1', '--ink', '--line'):
        assert f'var({colour})' in figure.svg
    assert '#0102' not in figure.svg and 'http' not in figure.svg and '<metadata' not in figure.svg
    assert '>0.01<' in figure.svg, 'a logarithmic axis'
    other = curves('A & c', [Line('x', [(0, 1.), (1, 2.)])])
    names = [{part.split('"')[0] for part in text.split('id="')[1:]} for text in (figure.svg, other.svg)]
    assert names[0] and names[1] and not names[0] & names[1], 'figures of a page do not share names'
    assert curves('nothing', [Line('x', [(0, float('nan'))])]) is None and stacked('nothing', [], [], '') is None


def test_a_name_that_a_user_gives_to_drawings_stays_out_of_figures():
    matplotlib = pytest.importorskip('matplotlib', reason='needs the extra report')
    if 'svg.id' not in matplotlib.rcParams:
        pytest.skip('this matplotlib names no drawings')
    figure = curves('A', [Line('x', [(0, 1.), (1, 2.)])])
    with matplotlib.rc_context({'svg.id': 'mine'}):
        assert curves('A', [Line('x', [(0, 1.), (1, 2.)])]) == figure


def test_errors_of_depth():
    target = torch.tensor([[2., 2., 2., 0.]])
    picture = np.array(depth_error_map(torch.tensor([[2., 2.5, 4., 1.]]), target, target > 0))
    assert picture[0].tolist() == [[236, 236, 236], [225, 138, 138], [214, 40, 40], [60, 60, 60]]


def copied(task: str, folder: Path, **arguments) -> Path:
    """A copy of a run, with other arguments."""
    shutil.copytree(trained_run(task), folder)
    options = yaml.safe_load((folder / 'args.yaml').read_text())
    (folder / 'args.yaml').write_text(yaml.safe_dump({**options, **arguments}))
    return folder


@pytest.mark.slow
def test_masks_of_the_built_in_set(tmp_path):
    run = copied('segmentation', tmp_path / 'run', synthetic_images=40)
    page = read(run, num_images=2)
    model = rexnet_timm.load_model(run)
    images = built_in_set('validation', 40, 42, model, model.description)
    results = rexnet_timm.evaluate(model, images, 'validation')
    assert '5 images of the split validation' in page.text and f'mIoU {results["miou"]:.1f} %' in page.text
    for name, scores in results['classes'].items():
        shown = ' '.join('-' if np.isnan(value) else f'{value:.1f}' for value in list(scores.values())[:-1])
        assert f'{name} {shown}' in page.text
    order = np.argsort([row['miou'] for row in results['per_image']])
    for place in (0, 1, -1, -2):
        row = results['per_image'][order[place]]
        assert f'{row["image"]}: mIoU {row["miou"]:.1f}' in page.text
    # four images of input, truth, prediction, errors and the four coarser scales
    assert len(page.pictures) == 32 and 'scale 4' in page.text
    image, labels = images[int(order[0])]
    colors = model.description.palette(6)
    assert np.array_equal(np.array(page.pictures[1].convert('RGB')), colors[labels.numpy()])
    predicted = model(((image.float() / 255 - torch.tensor(model.description.mean)[:, None, None]) / torch.tensor(
        model.description.std)[:, None, None])[None]).argmax(1)[0]
    assert np.array_equal(np.array(page.pictures[2].convert('RGB')), colors[predicted.numpy()])
    wrong = (np.array(page.pictures[3].convert('RGB')) == (214, 40, 40)).all(-1)
    assert np.array_equal(wrong, (predicted != labels).numpy())
    masks = torch.stack([mask for _, mask in (built_in_set('train', 40, 42, model, model.description)[i]
                                              for i in range(40))])
    assert f'{100 * (masks == 0).double().mean():.2f} %' in page.text, 'the share of the background'


@pytest.mark.slow
def test_depth_and_its_scales(tmp_path):
    page = read(copied('depth', tmp_path / 'run'))
    assert 'AbsRel' in page.text and 'Factors of depth' not in page.text.split('Scores')[0].split('Loss')[0]
    assert 'scale 3' in page.text and 'smooth' in page.text
    assert len(page.pictures) == 7 and 'Confusion' not in page.text  # one validation image


@pytest.mark.slow
def test_classes_of_images_with_and_without_the_images(tmp_path):
    data = trained_run('classification').parent / 'classes'
    page = read(copied('classification', tmp_path / 'there'))
    assert '10 images of the split validation' in page.text and len(page.pictures) == 8
    assert 'images, training images, validation' in page.text and '50.00 % 50.00 %' in page.text
    assert ', predicted ' in page.text
    moved = copied('classification', tmp_path / 'moved', data_dir='/no/longer')
    page = read(moved)
    assert 'The data are no longer where the run had them: there is no /no/longer.' in page.text
    assert 'rexnet report' in page.text and '--data-dir DIR' in page.text and not page.pictures
    assert len(read(moved, data=data).pictures) == 8
    with pytest.raises(ValueError, match='The data must be a folder: gone does not exist'):
        report(moved, data='gone')
    with pytest.raises(ValueError, match="There is no part 'test'"):
        report(moved, data=data, split='test')
    (moved / 'model_best.pth.tar').write_bytes(b'no weights')
    options = yaml.safe_load((moved / 'args.yaml').read_text())
    (moved / 'args.yaml').write_text(yaml.safe_dump({**options, 'data_dir': str(data)}))
    assert "The validation images could not be used: '" in read(moved).text
