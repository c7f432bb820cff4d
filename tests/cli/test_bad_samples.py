"""Bad samples before a run: named, or left out, the same on every process."""
import csv
import json
from pathlib import Path

import numpy as np
import pytest
import trees
from PIL import Image
from running import distributed, summary

from rexnet_timm.__main__ import main
from rexnet_timm.cli import bad_samples as rule

WORDS = ('--model rexnetv1_unet_test --num-classes 3 --img-size 32 --batch-size 2 --workers 0 --epochs 1 '
         '--warmup-epochs 0 --device cpu --experiment run').split()


def folder(root: Path) -> Path:
    return trees.beside(root, '{split}/images/{name}.png', '{split}/masks/{name}.png', images=7)


def train(data: Path, output: Path, *words: str) -> int:
    return main(['train', str(data), *WORDS, '--output', str(output), *words])


def spoil(data: Path) -> None:
    """Three bad samples: by the size, by the pages, and by pixels that end too soon."""
    trees.save(data / 'train' / 'masks' / 'train01.png', np.zeros((8, 8), np.uint8))
    pages = [Image.new('RGB', (48, 40), color) for color in ('red', 'blue')]
    pages[0].save(data / 'val' / 'images' / 'val02.png', save_all=True, append_images=pages[1:])
    path = data / 'val' / 'images' / 'val04.png'
    path.write_bytes(path.read_bytes()[:600])


def test_the_first_bad_file_is_named_before_anything_is_made(tmp_path, capsys):
    data = folder(tmp_path / 'set')
    spoil(data)
    assert train(data, tmp_path / 'runs') == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if 'error: ' in line]
    assert 'Image and mask must have the same size' in line and 'train01.png is 8 x 8 (width x height)' in line
    assert f' And another sample cannot be used: "rexnet check {data}" lists all, ' \
        'and --skip-bad-samples 2 leaves them out.' in line
    assert not (tmp_path / 'runs').exists()
    # the check, to which the message sends, knows of the third one too
    assert main(['check', str(data), '--results-dir', str(tmp_path / 'found'), *WORDS[:2], '--device', 'cpu']) == 2
    assert '1 of 7 samples of train' in (text := capsys.readouterr().out) and '2 of 7 samples of val' in text


def test_bad_samples_are_left_out_and_listed(tmp_path, capsys, caplog):
    data = folder(tmp_path / 'set')
    spoil(data)
    assert train(data, tmp_path / 'runs', '--skip-bad-samples', '2') == 2  # reading whole finds a third one
    assert '--skip-bad-samples 3 leaves them out' in capsys.readouterr().err
    assert train(data, tmp_path / 'runs', '--skip-bad-samples', '3') == 0
    assert '3 samples cannot be used and are left out, of 3 that --skip-bad-samples allows:' in caplog.messages
    with open(tmp_path / 'runs' / 'run' / rule.FILE, newline='') as file:
        rows = list(csv.DictReader(file))
    assert [Path(row['image']).name for row in rows] == ['train01.png', 'val02.png', 'val04.png']
    assert [row['split'] for row in rows] == ['train', 'validation', 'validation']
    assert 'has 2 pages or frames' in rows[1]['reason']
    # without the bad ones, nothing is different
    for row in rows:
        Path(row['image']).unlink()
        Path(row['mask']).unlink()
    assert train(data, tmp_path / 'runs', '--experiment', 'without') == 0
    scores = [summary(tmp_path / 'runs' / name)[0] for name in ('run', 'without')]
    assert scores[0]['eval_miou'] == scores[1]['eval_miou'] and scores[0]['train_loss'] == scores[1]['train_loss']
    assert not (tmp_path / 'runs' / 'without' / rule.FILE).exists()


def test_a_file_that_turns_bad_later_is_named(tmp_path, capsys, monkeypatch):
    data = folder(tmp_path / 'set')
    looked = rule.bad_samples

    def then_spoilt(dataset, *args, **options):
        found = looked(dataset, *args, **options)
        path = Path(dataset.paths(3)[0])
        path.write_bytes(path.read_bytes()[:600])
        return found

    monkeypatch.setattr(rule, 'bad_samples', then_spoilt)
    assert train(data, tmp_path, '--skip-bad-samples', '5') == 2
    assert 'train03.png is not (' in capsys.readouterr().err


@pytest.mark.slow
def test_processes_leave_out_the_same(tmp_path):
    data = folder(tmp_path / 'set')
    spoil(data)
    with Image.open(data / 'val' / 'images' / 'val00.png') as image:  # another size, for batches of several sizes
        image.resize((64, 64)).save(data / 'val' / 'images' / 'val00.png')
    with Image.open(data / 'val' / 'masks' / 'val00.png') as mask:
        mask.resize((64, 64), Image.Resampling.NEAREST).save(data / 'val' / 'masks' / 'val00.png')
    words = [*WORDS, '--skip-bad-samples', '3', '--output', str(tmp_path)]
    finished = distributed(2, str(data), *words, cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr[-2000:]
    with open(tmp_path / 'run' / rule.FILE, newline='') as file:
        bad = [row for row in csv.DictReader(file)]
    assert len(bad) == 3
    # too many of them end both processes, told once
    finished = distributed(2, str(data), *words, '--skip-bad-samples', '1', '--overwrite', cwd=tmp_path)
    assert finished.returncode != 0 and finished.stderr.count('leaves them out') == 1
    # one process on the data without them measures the same
    for row in bad:
        Path(row['image']).unlink()
        Path(row['mask']).unlink()
    assert main(['validate', str(data), '--checkpoint', str(tmp_path / 'run'), '--split', 'val', '--device', 'cpu',
                 '--workers', '0', '--results-dir', str(tmp_path / 'one')]) == 0
    results = json.loads((tmp_path / 'one' / 'results.json').read_text())
    row = summary(tmp_path / 'run')[0]
    assert results['images'] == 5
    assert {key: float(row[f'eval_{key}']) for key in ('miou', 'pixel_acc')} == pytest.approx(
        {key: results[key] for key in ('miou', 'pixel_acc')}, abs=1e-3)
