"""`rexnet report` and `rexnet train --report` as a user calls them, and the page in a real browser."""
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from trained import trained_run

from rexnet_timm.__main__ import main
from rexnet_timm.cli import report as command


def write_run(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / 'args.yaml').write_text(yaml.safe_dump({'model': 'rexnetv1', 'eval_metric': 'top1', 'epochs': 2}))
    (folder / 'summary.csv').write_text('epoch,train_loss,eval_top1,lr\n0,2.0,50.0,0.1\n1,1.0,60.0,0.1\n')
    return folder


@pytest.mark.parametrize('words, message', [
    ([], 'the following arguments are required: RUN'),
    (['gone'], "There is no run 'gone': name the folder of one, as training told it at its end."),
    (['empty'], "A report is of a run of training, and 'empty' holds none: name a folder with args.yaml, summary.csv"),
    (['runs'], "A report is of a run, and 'runs' holds several: name one of them, or more (runs/a, runs/b)."),
    (['one'], "A report is of a run, and 'one' is not one but holds one: name one/a."),
    (['notes.txt'], "A report is of a run, and 'notes.txt' is a file that is no checkpoint of one: name its folder."),
    (['runs/a', '--output', 'a.pdf'], "--output must end in .html, got 'a.pdf': a report is an HTML file."),
    (['runs/a', '--output', 'empty'], "--output must be a file, and 'empty' is a folder: name one in it"),
    (['runs/a', '--output', 'mine.html'],
     "'mine.html' exists and is no report: name another --output, or pass --overwrite to replace it."),
    (['runs/a', '--output', 'none/a.html'], "There is no folder"),
    (['runs/a', 'runs/b', '--data-dir', '.'], 'A comparison looks at no images: leave out --data-dir and --split.'),
    (['runs/a', '--no-validation', '--split', 'test'], '--no-validation looks at no images: leave out --data-dir and'),
    (['--checkpoint', 'runs/a'], 'There is no option --checkpoint.'),
    (['runs/a', '--data', '.'], 'There is no option --data. Did you mean --data-dir?'),
    (['runs/a', '--images', '-1'], '--images must be at least 0, got -1.'),
])
def test_mistakes_are_one_line(words, message, tmp_path, monkeypatch, capsys):
    pytest.importorskip('matplotlib', reason='needs the extra report')
    monkeypatch.chdir(tmp_path)
    for name in ('runs/a', 'runs/b', 'one/a'):
        write_run(Path(name))
    Path('empty').mkdir()
    for name in ('notes.txt', 'mine.html'):
        Path(name).touch()
    before = sorted(tmp_path.rglob('*'))
    assert main(['report', *words, '--device', 'cpu']) == 2
    error = capsys.readouterr().err
    lines = error.splitlines()
    if words and words[0] in ('gone', 'empty', 'runs', 'one', 'notes.txt'):
        assert len(lines) == 1, 'nothing is said to be done with what is no run'
    lines = [line for line in lines if not line.startswith('The model is run')]
    assert len(lines) == 1 and lines[0].startswith(f'rexnet report: error: {message}'), error
    assert sorted(tmp_path.rglob('*')) == before


def test_a_missing_package_is_told_before_the_work(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, 'matplotlib', None)
    for words in (['report', str(write_run(tmp_path / 'a'))],
                  ['train', '--dataset', 'synthetic', '--model', 'rexnetv1_unet_test', '--report', '--output',
                   str(tmp_path / 'runs')]):
        assert main(words) == 2
        assert "needs matplotlib, which cannot be imported here: pip install 'rexnet-timm[report]'" in \
            capsys.readouterr().err
    assert not (tmp_path / 'runs').exists()


def test_reports_are_written_where_they_belong(tmp_path, monkeypatch, capsys):
    pytest.importorskip('matplotlib', reason='needs the extra report')
    monkeypatch.chdir(tmp_path)
    for name in ('runs/a', 'runs/b'):
        write_run(Path(name))
    assert main(['report', 'runs/a/', '--no-validation']) == 0
    assert capsys.readouterr().out.startswith('runs/a/report.html: 0.')
    assert main(['report', 'runs/a', '--no-validation', '--output', 'a.htm']) == 0
    assert main(['report', 'runs/a', 'runs/b']) == 0
    assert Path('a.htm').exists() and Path('runs/comparison.html').exists()
    text = Path('runs/a/report.html').read_text()
    assert 'Finished: 2 of 2 epochs are done.' in text and 'rexnet train --config runs/a/args.yaml' in text


def test_a_report_that_fails_leaves_the_run(tmp_path, monkeypatch, caplog):
    def fail(*_, **__):
        raise KeyError('x')

    monkeypatch.setattr(command, 'report', fail)
    command.report_after(str(tmp_path), 'cpu')
    assert 'The run is complete, and its report could not be written (KeyError' in caplog.text
    assert f'"rexnet report {tmp_path}" tries again' in caplog.text


TINY = (
    '--dataset synthetic --synthetic-images 8 --num-classes 6 --model rexnetv1_unet_test --img-size 64 --batch-size 4 '
    '--workers 0 --epochs 1 --warmup-epochs 0 --device cpu --experiment a').split()


@pytest.mark.slow
def test_at_the_end_of_a_training(tmp_path, monkeypatch):
    pytest.importorskip('matplotlib', reason='needs the extra report')
    monkeypatch.chdir(tmp_path)
    assert main(['train', *TINY, '--output', 'my runs', '--report']) == 0
    text = Path('my runs/a/report.html').read_text()
    for words in (
            'Finished: 1 of 1 epochs are done.', '<span>&#39;my</span> <span>runs&#39;</span>', 'scale 4',
            'rexnet app --checkpoint &#39;my runs/a&#39;', 'load_model(&#34;my runs/a&#34;)', 'Time of each epoch'):
        assert words in text, words
    Path('my runs/a/report.html').unlink()
    assert main(['train', *TINY, '--output', 'my runs', '--report', '--resume', 'auto']) == 0  # with nothing left to do
    assert Path('my runs/a/report.html').exists()


@pytest.mark.slow
@pytest.mark.parametrize('task', ['segmentation', 'depth', 'classification'])
def test_the_page_in_a_real_browser(task, browser, tmp_path):
    pytest.importorskip('matplotlib', reason='needs the extra report')
    paths = [tmp_path / 'a.html', tmp_path / 'b.html']
    run = str(trained_run(task))
    assert main(['report', run, '--output', str(paths[0]), '--device', 'cpu']) == 0
    assert main(['report', run, run, '--output', str(paths[1])]) == 0
    assert paths[0].stat().st_size < 1_000_000
    for path in paths:
        pages = {}
        for width in (1280, 390):
            for scheme in ('light', 'dark'):
                page = browser.new_page(viewport={'width': width, 'height': 800}, color_scheme=scheme)
                asked, said = [], []
                page.on('request', lambda request, asked=asked: asked.append(request.url))
                page.on('console', lambda message, said=said: said.append(message.text))
                page.goto(path.as_uri())
                assert [url for url in asked if not url.startswith('data:')] == [path.as_uri()] and not said
                assert page.evaluate('document.documentElement.scrollWidth') <= width, 'nothing sticks out'
                broken = '[...document.images].filter(image => !image.complete || !image.naturalWidth).length'
                assert page.evaluate(broken) == 0
                picture = tmp_path / f'{path.stem}-{width}-{scheme}.png'
                page.screenshot(path=picture)
                pages[width, scheme] = np.array(Image.open(picture).convert('L'))
                page.close()
        for width in (1280, 390):
            assert np.median(pages[width, 'light']) > 200 and np.median(pages[width, 'dark']) < 60
