"""Pictures of a run as a command: they leave its numbers alone, and it goes on without those that fail."""
from pathlib import Path

import pytest
from killing import assert_same
from PIL import Image

from rexnet_timm.cli import train
from rexnet_timm.deployment.run_pictures import RunPictures
from rexnet_timm.files import load_checkpoint_file

ARGUMENTS = (
    '--dataset synthetic --synthetic-images 8 --model rexnetv1_unet_test --img-size 64 --batch-size 4 --workers 0 '
    '--drop-path 0.2 --opt adamw --lr 1e-3 --epochs 2 --warmup-epochs 0 --device cpu').split()


def learn(folder: Path, *words: object) -> dict:
    """Train, and return the last checkpoint without what differs between folders."""
    assert train.main([*ARGUMENTS, '--output', str(folder.parent), '--experiment', folder.name, *map(str, words)]) == 0
    content = load_checkpoint_file(folder / 'last.pth.tar')
    for name in ('experiment', 'picture_interval'):
        vars(content['args']).pop(name)
    return content


def pictures(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob('*.png')}


def test_a_run_with_pictures_is_the_run_without(tmp_path):
    with_them = learn(tmp_path / 'with')
    assert pictures(tmp_path / 'with') == {'progress.png', 'predictions/epoch-0.png', 'predictions/epoch-1.png'}
    without = learn(tmp_path / 'without', '--picture-interval', 0)
    assert not pictures(tmp_path / 'without')
    assert_same(with_them, without)
    assert (tmp_path / 'with' / 'summary.csv').read_bytes() == (tmp_path / 'without' / 'summary.csv').read_bytes()


def test_a_full_disk_costs_pictures_only(tmp_path, monkeypatch, caplog):
    def full(self, *args, **kwargs):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(Image.Image, 'save', full)
    learn(tmp_path / 'full')
    texts = [record.getMessage() for record in caplog.records if 'picture' in record.getMessage()]
    path = tmp_path / 'full' / 'predictions' / 'epoch-0.png'
    assert texts == [
        'A picture could not be made, and the run goes on without it. '
        f"The disk is full ({str(path)!r}), or a limit on files is reached: free space there."]
    assert not pictures(tmp_path / 'full')


@pytest.mark.slow
def test_a_fault_of_our_own_is_told_with_its_place(tmp_path, monkeypatch, caplog):
    def fault(self, epoch, model):
        raise RuntimeError('of ours')

    monkeypatch.setattr(RunPictures, 'draw', fault)
    learn(tmp_path / 'run')
    (record,) = [record for record in caplog.records if 'picture' in record.getMessage()]
    assert record.getMessage().endswith('This is a fault of the program:') and 'of ours' in str(record.exc_info[1])
