"""Tar files of WebDataset's form that others wrote: the samples that the package webdataset reads, by their number."""
import io
import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
import trees
from PIL import Image

from rexnet_timm.data import DatasetError, Layout, SegmentationFolder, describe_data, write_shards
from rexnet_timm.data.formats import tars as module
from rexnet_timm.data.loader import EvaluationBatches
from rexnet_timm.data.sampling import TrainingSampler


def encoded(pixels: np.ndarray, form: str) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, pixels) if form == 'npy' else Image.fromarray(pixels).save(buffer, {'jpg': 'JPEG'}.get(form, form))
    return buffer.getvalue()


def sample(index: int, image: str = 'jpg', mask: str = 'seg.png', **more: bytes) -> dict[str, bytes]:
    pixels, classes = trees.picture(index)
    return {image: encoded(pixels, image.rpartition('.')[2]), mask: encoded(classes, {'npy': 'npy'}.get(mask, 'png')),
            **more}


def write(path: Path, samples: list[dict[str, bytes]], key: str = '{:06}', **options) -> Path:
    """A tar file as tar writes it, of members that are named KEY.ENDING."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, 'w', **options) as tar:
        for index, parts in enumerate(samples):
            for ending, content in parts.items():
                head = tarfile.TarInfo(f'{key.format(index)}.{ending}')
                head.size = len(content)
                tar.addfile(head, io.BytesIO(content))
    return path


def folder(root: Path, **options) -> Path:
    """Two tar files for training of three and two samples, and one for validation."""
    for name, indices in (('train-000000', range(3)), ('train-000001', range(3, 5)), ('val-000000', range(5, 7))):
        write(root / f'{name}.tar', [sample(index) for index in indices], **options)
    return root


def expect(dataset: SegmentationFolder, indices: list[int]) -> None:
    assert len(dataset) == len(indices)
    for place, index in enumerate(indices):
        image, mask = dataset[place]
        assert np.array_equal(mask.numpy(), trees.picture(index)[1])
        assert image.shape == (3, *trees.SIZE) and abs(
            image.numpy().mean() - trees.picture(index)[0].mean()) < 2


def test_shard_writer_of_webdataset(tmp_path):
    webdataset = pytest.importorskip('webdataset', reason='an independent writer: pip install webdataset')
    for split, first, number in (('train', 0, 5), ('val', 5, 2)):
        with webdataset.ShardWriter(str(tmp_path / f'set-{split}-%06d.tar'), maxcount=2, verbose=0) as writer:
            for index in range(first, first + number):
                pixels, classes = trees.picture(index)
                writer.write({'__key__': f'city/{index:05}', 'jpg': pixels, 'mask.png': classes, 'json': {'id': index}})
    data = describe_data(tmp_path)
    assert data.source.format == 'webdataset' and data.source.splits == ('train', 'val')
    train = SegmentationFolder(data, 'train', 3)
    expect(train, [0, 1, 2, 3, 4])
    expect(SegmentationFolder(data, 'validation', 3), [5, 6])
    theirs = list(webdataset.WebDataset(sorted(map(str, tmp_path.glob('set-train-*.tar'))), shardshuffle=False))
    for index, found in enumerate(theirs):
        image, mask = train.paths(index)
        assert image.open().read() == found['jpg'] and mask.open().read() == found['mask.png']
        assert image.name == f'{found["__key__"]}.jpg'


@pytest.mark.parametrize('options', [{}, {'format': tarfile.GNU_FORMAT}, {'format': tarfile.PAX_FORMAT},
                                     {'key': 'straße/{:06}'}, {'key': 'a' * 120 + '/{:06}'}, {'key': './{:06}'}])
def test_every_form_of_tar(options, tmp_path):
    expect(SegmentationFolder(folder(tmp_path, **options), 'train', 3), [0, 1, 2, 3, 4])


@pytest.mark.parametrize('image, mask', [
    ('jpg', 'png'), ('png', 'mask.png'), ('jpg', 'seg'), ('image.jpg', 'label.png'), ('JPG', 'SEG.PNG'),
    ('jpg', 'npy'), ('rgb.png', 'annotation.png'), ('image.png', 'png'), ('jpeg', 'semantic_mask.png')])
def test_names_that_are_plain(image, mask, tmp_path):
    parts = [sample(index, image.lower(), mask.lower(), json=b'{}', cls=b'3') for index in range(4)]
    if image == 'JPG':
        parts = [{name.upper(): content for name, content in part.items()} for part in parts]
    write(tmp_path / '000000.tar', parts)
    data = describe_data(tmp_path)
    found = [SegmentationFolder(data, split, 3) for split in ('train', 'validation')]
    assert [len(dataset) for dataset in found] == [3, 1]
    masks = {mask.numpy().astype(np.uint8).tobytes() for dataset in found for _, mask in dataset}
    assert masks == {trees.picture(index)[1].tobytes() for index in range(4)}


def test_ambiguous_names_are_asked_for_and_the_answer_is_taken(tmp_path):
    depth = encoded(np.zeros(trees.SIZE, np.uint8), 'png')
    write(tmp_path / 'train-0.tar', [{**sample(0, 'jpg', 'seg.png'), 'gt.png': depth}])
    text = 'must be plain: 1 of 1 samples in .*train-0.tar, such as 000000, have gt.png, jpg, seg.png; say it, as by '
    with pytest.raises(DatasetError, match=f'{text}image_suffix=.jpg and mask_suffix=.gt.png'):
        SegmentationFolder(tmp_path, 'train', 3)
    expect(SegmentationFolder(tmp_path, 'train', 3, layout=Layout(image_suffix='.jpg', mask_suffix='.seg.png')), [0])
    expect(SegmentationFolder(tmp_path, 'train', 3, layout=Layout(mask_suffix='.seg.png')), [0])
    with pytest.raises(DatasetError, match='3 in .*train-0.tar do not, such as the image 000000, without 000000.png; '):
        SegmentationFolder(tmp_path, 'train', 3, layout=Layout(image_suffix='.jpg', mask_suffix='.png'))


def test_two_plain_png_are_asked_for(tmp_path):
    write(tmp_path / 'train-0.tar', [sample(0, 'a.png', 'b.png')])
    with pytest.raises(DatasetError, match='have a.png, b.png; say it, as by image_suffix=.a.png and mask_suffix=.b.p'):
        SegmentationFolder(tmp_path, 'train', 3)
    expect(SegmentationFolder(tmp_path, 'train', 3, layout=Layout(image_suffix='.a.png', mask_suffix='.b.png')), [0])


def test_members_whose_keys_differ_are_matched_by_their_ends(tmp_path):
    with tarfile.open(tmp_path / 'train-0.tar', 'w') as tar:
        for ends in ('_mask.png', '.png'):  # all masks first
            for index in range(3):
                content = encoded(trees.picture(index)[ends == '_mask.png'], 'png')
                head = tarfile.TarInfo(f'{index}{ends}')
                head.size = len(content)
                tar.addfile(head, io.BytesIO(content))
    with pytest.raises(DatasetError, match=r'6 of 6 in .* do not, such as 0_mask with png; say how their names end'):
        SegmentationFolder(tmp_path, 'train', 3)
    layout = Layout(image_suffix='.png', mask_suffix='_mask.png')
    expect(SegmentationFolder(tmp_path, 'train', 3, layout=layout), [0, 1, 2])


def test_folders_of_splits_patterns_and_single_files(tmp_path):
    for split, indices in (('train', (0, 1)), ('val', (2,))):
        for index in indices:
            write(tmp_path / 'set' / split / f'{index:06}.tar', [sample(index)])
    expect(SegmentationFolder(tmp_path / 'set', 'train', 3), [0, 1])
    expect(SegmentationFolder(tmp_path / 'set', 'val', 3), [2])
    folder(tmp_path / 'flat')
    data = describe_data(tmp_path / 'flat' / 'train-{000000..000001}.tar')
    assert data.source.splits == ('train',) and data.source.root == tmp_path / 'flat'
    expect(SegmentationFolder(data, 'train', 3), [0, 1, 2, 3, 4])
    single = describe_data(tmp_path / 'set' / 'train' / '000000.tar')
    assert single.source.splits == ('train', 'validation')  # divided
    with pytest.raises(DatasetError, match=r'of .* 2 of 4 are not, such as .*train-000002.tar; correct the numbers'):
        describe_data(tmp_path / 'flat' / 'train-{000000..000003}.tar')
    with pytest.raises(DatasetError, match='There is no split "test" in .*flat, read as webdataset: it has train, val'):
        SegmentationFolder(tmp_path / 'flat', 'test', 3)


def test_the_index_is_made_once_and_anew_after_a_change(tmp_path, monkeypatch):
    folder(tmp_path)
    calls = []
    own = module._members
    monkeypatch.setattr(module, '_members', lambda path: calls.append(path.name) or own(path))
    expect(SegmentationFolder(tmp_path, 'train', 3), [0, 1, 2, 3, 4])
    expect(SegmentationFolder(tmp_path, 'train', 3), [0, 1, 2, 3, 4])
    assert calls == ['train-000000.tar', 'train-000001.tar']
    moved = tmp_path.rename(tmp_path.parent / f'{tmp_path.name}-moved')  # the index goes along
    expect(SegmentationFolder(moved, 'train', 3), [0, 1, 2, 3, 4])
    assert len(calls) == 2 and len(list(moved.glob('.webdataset-train-*.npy'))) == 1
    write(moved / 'train-000001.tar', [sample(9)])
    expect(SegmentationFolder(moved, 'train', 3), [0, 1, 2, 9])
    assert len(calls) == 4 and len(list(moved.glob('.webdataset-train-*.npy'))) == 1
    next(moved.glob('.webdataset-train-*.npy')).write_bytes(b'damaged')
    expect(SegmentationFolder(moved, 'train', 3), [0, 1, 2, 9])
    moved.rename(tmp_path)


def test_a_folder_that_takes_no_index(tmp_path, monkeypatch):
    """Root writes where it may not, so that the place itself is taken by something else."""
    folder(tmp_path / 'set')
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    own = module.atomic_path

    def read_only(path):
        if Path(path).parent == tmp_path / 'set':
            raise PermissionError(13, 'Permission denied', str(path))
        return own(path)

    monkeypatch.setattr(module, 'atomic_path', read_only)
    for _ in range(2):
        expect(SegmentationFolder(tmp_path / 'set', 'train', 3), [0, 1, 2, 3, 4])
    assert len(list((tmp_path / 'cache' / 'rexnet_timm').glob('.webdataset-train-*.npy'))) == 1
    assert not list((tmp_path / 'set').glob('.webdataset-*'))


def test_ranks_share_them_without_overlap_or_loss_and_processes_map_the_index(tmp_path):
    dataset = SegmentationFolder(folder(tmp_path), 'train', 3)
    sent = pickle.dumps(dataset)
    assert b'000001.jpg' not in sent and torch.equal(pickle.loads(sent)[4][1], dataset[4][1])
    numbers = []
    for rank in range(5):
        sampler = TrainingSampler(dataset, 1, 5, rank, seed=1)
        numbers += [index for _, index in sampler]
    assert sorted(numbers) == list(range(5))
    parts = [EvaluationBatches(dataset.sample_sizes(), 2, 2, rank) for rank in range(2)]
    assert sorted(index for part in parts for index in sum(part.batches, [])[:part.num_valid_samples]) == list(range(5))


def test_they_become_shards(tmp_path):
    write_shards(describe_data(folder(tmp_path / 'set')), tmp_path / 'out')
    ours, theirs = (SegmentationFolder(tmp_path / name, 'val', 3) for name in ('out', 'set'))
    assert len(ours) == 2 and all(torch.equal(*pair) for pair in zip(ours[1], theirs[1], strict=True))


def truncated(root: Path) -> None:
    os.truncate(root / 'train-000000.tar', 3000)


def compressed(root: Path) -> None:
    for path in root.glob('*.tar'):
        with tarfile.open(path.with_suffix('.tar.gz'), 'w:gz'):
            pass
        path.unlink()


def without_masks(root: Path) -> None:
    write(root / 'train-000000.tar', [sample(0), {'jpg': b'1', 'json': b'{}'}])


def of_a_tree(root: Path) -> None:
    with tarfile.open(root / 'train-000000.tar', 'w') as tar:
        for name in ('images/1.jpg', 'masks/1.png'):
            tar.addfile(tarfile.TarInfo(name), io.BytesIO())


def with_links(root: Path) -> None:
    with tarfile.open(root / 'train-000000.tar', 'a') as tar:
        for ending in ('jpg', 'png'):
            head = tarfile.TarInfo(f'x.{ending}')
            head.type, head.linkname = tarfile.SYMTYPE, '/etc/passwd'
            tar.addfile(head)


@pytest.mark.parametrize('damage, message', [
    (truncated, 'Every tar file must be readable: .*000000.tar is not .*; copy or write it again'),
    (compressed, r'must not be compressed, .*: .*tar.gz is; unpack .* only, as "gunzip train-000000.tar.gz"'),
    (without_masks, '1 of 2 in .* do not, such as 000001 with jpg, json; say how their names end by image_suffix and '),
    (of_a_tree, 'such as images/1 with jpg; .* folder of images and one of masks, unpack it, as its tree is read then'),
    (lambda root: (root / 'train-000000.tar').write_bytes(b'no tar' * 999), 'must be readable: .*000000.tar is not'),
    (lambda root: write(root / 'train-000000.tar', [sample(0)] * 2, key='a'), 'has a.jpg twice; write it again'),
])
def test_what_is_refused(damage, message, tmp_path):
    damage(folder(tmp_path))
    with pytest.raises(DatasetError, match=message) as error:
        SegmentationFolder(tmp_path, 'train', 3)
    assert '\n' not in str(error.value)


def test_links_are_no_members_and_a_changed_file_is_told(tmp_path):
    with_links(folder(tmp_path))
    dataset = SegmentationFolder(tmp_path, 'train', 3)
    expect(dataset, [0, 1, 2, 3, 4])
    write(tmp_path / 'train-000001.tar', [sample(9, 'png', 'mask.png')])  # while a run goes on
    with pytest.raises(DatasetError, match='000001.tar has no 000000.jpg at byte 512; remove the index'):
        dataset[3]


def test_other_folders_are_not_taken_for_tar_files(tmp_path):
    trees.beside(tmp_path, '{split}/images/{name}.jpg', '{split}/masks/{name}.png')
    write(tmp_path / 'backup.tar', [sample(0)])
    assert describe_data(tmp_path).source.format == 'folders'
    trees.voc(tmp_path / 'voc')
    write(tmp_path / 'voc' / 'VOCtrainval_11-May-2012.tar', [sample(0)])
    assert describe_data(tmp_path / 'voc').source.format == 'voc'
