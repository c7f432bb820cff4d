"""Shards: the samples of the files, read by number here and as a stream by webdataset; nothing of them is trusted."""
import io
import json
import os
import pickle
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
import trees
from PIL import Image
from torch.utils.data import DataLoader

from rexnet_timm.data import (
    DatasetError,
    DepthFolder,
    Layout,
    SegmentationFolder,
    describe_data,
    describe_depth,
    verify_shards,
    write_shards,
)
from rexnet_timm.data.description import DataDescription, DataSource
from rexnet_timm.data.loader import EvaluationBatches
from rexnet_timm.data.sampling import SeededSamples, TrainingSampler
from rexnet_timm.data.stream import MANIFEST


def plain(root: Path) -> Path:
    return trees.beside(root, '{split}/images/{name}.jpg', '{split}/masks/{name}.png')


def written(tmp_path: Path, images: int = 4, **options) -> Path:
    trees.beside(tmp_path / 'set', '{split}/images/{name}.jpg', '{split}/masks/{name}.png', images=images)
    write_shards(describe_data(tmp_path / 'set'), tmp_path / 'shards', **options)
    return tmp_path / 'shards'


@pytest.mark.parametrize('make, classes', [
    (plain, 3), (trees.voc, None), (trees.cityscapes, None), (trees.coco, None), (trees.coco_panoptic, None),
    (trees.camvid_of_kaggle, None), (trees.image_folder, 3), (trees.yolo_of_outlines, None)])
def test_samples_are_those_of_the_files(make, classes, tmp_path):
    data = describe_data(make(tmp_path / 'set'))
    seen = []
    manifest = write_shards(data, tmp_path / 'out', 20_000, progress=lambda *done: seen.append(done))
    assert verify_shards(tmp_path / 'out') == sum(len(part['shards']) + 1 for part in manifest['splits'].values())
    for split in data.source.splits:
        files, shards = (SegmentationFolder(source, split, classes) for source in (data, tmp_path / 'out'))
        assert len(files) == len(shards) == manifest['splits'][split]['samples'] and shards.form == 'shards'
        assert seen.count((split, len(files), len(files))) == 1
        assert files.class_names == shards.class_names and files.ignore_label == shards.ignore_label
        assert files.sample_sizes() == shards.sample_sizes()
        for index in range(len(files)):
            for one, other in zip(files[index], shards[index], strict=True):
                assert one.dtype == other.dtype and torch.equal(one, other)
            assert Path(files.paths(index)[0]).stem in Path(shards.paths(index)[0]).name
    keep = {'layout': {}, 'source': None}
    described = describe_data(tmp_path / 'out')
    assert {**described.to_dict(), **keep} == {**data.to_dict(), **keep}  # label maps, colours, ignored label


def test_depth_and_tables(tmp_path):
    root = trees.depth(tmp_path / 'set', '{split}/images/{name}.jpg', '{split}/depth/{name}.npy', np.save)
    write_shards(describe_depth(root, depth_scale=2.), tmp_path / 'out')
    files, shards = (DepthFolder(source, 'val', scale) for source, scale in ((root, 2.), (tmp_path / 'out', None)))
    for index in range(3):
        assert all(torch.equal(*pair) for pair in zip(files[index], shards[index], strict=True))
    assert shards.sample_sizes() == files.sample_sizes() and shards.measured(1, 40) == files.measured(1, 40)
    with pytest.raises(DatasetError, match='have depth, and segmentation was asked for: take a model such as rexdepth'):
        describe_data(tmp_path / 'out')
    with pytest.raises(DatasetError, match='have masks, and depth was asked for: take a model such as rexnetv1_unet'):
        describe_depth(written(tmp_path / 'masks'))


def test_tables_of_hugging_face(tmp_path):
    datasets = pytest.importorskip('datasets', reason="pip install 'rexnet-timm[stream]'")
    rows = {'image': [], 'mask': []}
    for index in range(3):
        for name, pixels in zip(rows, trees.picture(index), strict=True):
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, 'PNG')
            rows[name].append({'bytes': buffer.getvalue(), 'path': None})
    features = datasets.Features(dict.fromkeys(rows, datasets.Image()))
    datasets.Dataset.from_dict(rows, features).to_parquet(tmp_path / 'train-00000-of-00001.parquet')
    write_shards(describe_data(tmp_path), tmp_path / 'out')
    parts = [SegmentationFolder(tmp_path / 'out', split, 3) for split in ('train', 'validation')]
    for place in (0, 1):
        found = sorted(np.ascontiguousarray(sample[place].numpy().astype(np.uint8).transpose(
            *((1, 2, 0), (0, 1))[place])).tobytes() for part in parts for sample in part)
        assert found == sorted(trees.picture(index)[place].tobytes() for index in range(3))


def test_webdataset_reads_them(tmp_path):
    webdataset = pytest.importorskip('webdataset', reason='an independent reader: pip install webdataset')
    out = written(tmp_path, 9, shard_size=8_000)
    shards = sorted(map(str, out.glob('train-*.tar')))
    assert len(shards) > 2
    found = list(webdataset.WebDataset(shards, shardshuffle=False))
    ours = SegmentationFolder(out, 'train', 3)
    assert len(found) == len(ours) == 9
    for index, sample in enumerate(found):
        image, mask = ours.paths(index)
        assert sample['__key__'] == image.name.partition('.')[0]
        assert sample['jpg'] == image.open().read() and sample['mask.png'] == mask.open().read()
    decoded = next(iter(webdataset.WebDataset(shards, shardshuffle=False).decode('pil')))
    assert np.array_equal(np.array(decoded['mask.png'])[..., 0], ours[0][1].numpy())


def test_another_process_gets_the_index_by_its_name(tmp_path):
    dataset = SegmentationFolder(written(tmp_path, 40), 'train', 3)
    sent = pickle.dumps(dataset)
    assert b'train.index.npy' in sent and b'00000007-train07' not in sent  # its name, and none of its rows
    again = pickle.loads(sent)
    assert len(again) == 40 and all(torch.equal(*pair) for pair in zip(dataset[7], again[7], strict=True))


def test_the_same_data_give_the_same_bytes(tmp_path):
    first, second = (written(tmp_path / name) for name in 'ab')
    for path in first.iterdir():
        assert path.read_bytes() == (second / path.name).read_bytes()
    with tarfile.open(first / 'train-000000.tar') as tar:
        names = tar.getnames()
    assert names[:2] == ['00000000-train00.jpg', '00000000-train00.mask.png'] and len(set(names)) == 8


def test_ranks_and_workers_share_them_without_overlap_or_loss(tmp_path):
    dataset = SegmentationFolder(written(tmp_path, 10), 'train', 3, transform=lambda image, mask: mask)
    truth = {trees.picture(index)[1].tobytes() for index in range(10)}
    numbers = []
    for rank in range(2):  # training
        sampler = TrainingSampler(dataset, 2, 2, rank, seed=1)
        sampler.set_epoch(3)
        loader = DataLoader(SeededSamples(dataset, 1), 2, sampler=sampler, num_workers=2)
        masks = [mask.numpy().astype(np.uint8) for batch in loader for mask in batch]
        assert len(masks) == 5 and all(mask.tobytes() in truth for mask in masks)
        numbers += [index for _, index in sampler]
    assert sorted(numbers) == list(range(10))
    parts = [EvaluationBatches(dataset.sample_sizes(), 3, 2, rank) for rank in range(2)]
    counted = [index for part in parts for index in sum(part.batches, [])[:part.num_valid_samples]]
    assert sorted(counted) == list(range(10))


MEMORY = '''
import resource, sys
from torch.utils.data import DataLoader
from rexnet_timm.data import SegmentationFolder
from rexnet_timm.data.sampling import SeededSamples, TrainingSampler

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

small, large = (SegmentationFolder(sys.argv[1], split, 3) for split in ('train', 'validation'))
for dataset in (small, large):
    sampler = TrainingSampler(dataset, 4)
    for batch in DataLoader(SeededSamples(dataset, 0), 4, sampler=sampler):
        pass
    print(len(dataset), peak())
'''


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_samples(tmp_path):
    image = trees.save(tmp_path / 'a.jpg', trees.picture(0)[0])
    mask = trees.save(tmp_path / 'a.png', trees.picture(0)[1])
    numbers = {'train': 200, 'validation': 10_000}
    source = DataSource('test', tmp_path, tuple(numbers), lambda split: [(image, mask)] * numbers[split])
    write_shards(DataDescription(source=source), tmp_path / 'out')
    result = subprocess.run(
        [sys.executable, '-c', MEMORY, str(tmp_path / 'out')], capture_output=True, text=True, check=True,
        env={**os.environ, 'PYTHONPATH': str(Path(__file__).parents[2])})
    (small, before), (large, after) = (map(float, line.split()) for line in result.stdout.splitlines())
    assert (small, large) == (200, 10_000)
    assert after - before < 8, f'{before} to {after} MiB'  # their images alone would be 55 MiB


# What is not as it was written.


def changed(out: Path, change) -> Path:
    path = out / MANIFEST
    manifest = json.loads(path.read_text())
    change(manifest, manifest['splits']['train'])
    path.write_text(json.dumps(manifest))
    return out


def index(out: Path, **values) -> Path:
    rows = np.load(out / 'train.index.npy')
    for name, value in values.items():
        rows[name][0] = value
    np.save(out / 'train.index.npy', rows)
    return out


@pytest.mark.parametrize('damage, message', [
    (lambda out: changed(out, lambda all, train: train['shards'][0].update(file='../train-000000.tar')), 'plain names'),
    (lambda out: changed(out, lambda all, train: train['shards'][0].update(file='/etc/passwd')), 'plain names'),
    (lambda out: changed(out, lambda all, train: train.update(index='../../x.npy')), 'other than plain names'),
    (lambda out: changed(out, lambda all, train: train.update(index=3)), 'lacks something|plain names'),
    (lambda out: changed(out, lambda all, train: train.update(samples=5)), 'do not add up'),
    (lambda out: changed(out, lambda all, train: all.update(version=2)), 'its version is 2 and not 1'),
    (lambda out: changed(out, lambda all, train: all.update(splits=[])), 'it has no splits'),
    (lambda out: changed(out, lambda all, train: all.update(description={'task': 'x'})), 'description cannot be used'),
    (lambda out: (out / MANIFEST).write_text('{'), 'it is no JSON'),
    (lambda out: (out / 'train-000000.tar').unlink(), '000000.tar is missing; copy the folder of the shards again'),
    (lambda out: os.truncate(out / 'train-000000.tar', 4096), 'has 4096 bytes and not'),
    (lambda out: (out / 'train.index.npy').write_bytes(b'x'), 'Every index must be readable'),
    (lambda out: np.save(out / 'train.index.npy', np.ones(4)), 'is no index of shards'),
    (lambda out: np.save(out / 'train.index.npy', np.load(out / 'train.index.npy')[:3]), 'has 3 of 4'),
    (lambda out: np.save(out / 'train.index.npy', np.array([{}] * 4, object)), 'Every index must be readable'),
    (lambda out: index(out, image=1024), 'has no 00000000-train00.jpg at byte 1024'),
    (lambda out: index(out, image=2 ** 40), 'at byte 1099511627776'),
    (lambda out: index(out, image=0), 'at byte 0'),
    (lambda out: index(out, image_size=2 ** 40), 'has no 00000000-train00.jpg at byte 512'),
    (lambda out: index(out, key=b'../../x'), 'has a sample that is none'),
    (lambda out: index(out, image_end=b'/x'), 'has a sample that is none'),
    (lambda out: index(out, shard=7), 'has a sample that is none'),
])
def test_what_is_not_as_it_was_written_is_refused(damage, message, tmp_path):
    out = written(tmp_path)
    damage(out)
    with pytest.raises(DatasetError, match=message):
        SegmentationFolder(out, 'train', 3)[0]


def test_a_member_that_claims_more_than_there_is_is_not_read(tmp_path):
    out = written(tmp_path)
    path = out / 'train-000000.tar'
    content = bytearray(path.read_bytes())
    head = tarfile.TarInfo('00000000-train00.jpg')
    head.size = 2 ** 32  # a header and an index that agree, of a file that is not so long
    content[:512] = head.tobuf(tarfile.USTAR_FORMAT)
    path.write_bytes(content)
    with pytest.raises(DatasetError, match='has no 00000000-train00.jpg at byte 512'):
        SegmentationFolder(index(out, image_size=2 ** 32), 'train', 3)[0]


def test_a_changed_byte_is_found(tmp_path):
    out = written(tmp_path)
    path = out / 'val-000000.tar'
    content = bytearray(path.read_bytes())
    content[1000] ^= 1
    path.write_bytes(content)
    with pytest.raises(DatasetError, match='as it was written: .*val-000000.tar differs; copy the folder'):
        verify_shards(out)
    with pytest.raises(DatasetError, match='must have its manifest: there is no'):
        verify_shards(tmp_path)


def test_shards_are_replaced_only_where_that_is_said(tmp_path):
    out = written(tmp_path, shard_size=4000)
    (out / 'notes.txt').write_text('mine')
    with pytest.raises(ValueError, match='shards.json.* exists: pass overwrite to replace the shards in'):
        written(tmp_path)
    number = len(list(out.glob('*.tar')))
    written(tmp_path, overwrite=True)
    assert len(list(out.glob('*.tar'))) < number and (out / 'notes.txt').read_text() == 'mine'
    assert verify_shards(out) == 4


def test_files_that_do_not_fit_leave_no_shards(tmp_path):
    data = describe_data(plain(tmp_path / 'set'))
    trees.save(tmp_path / 'set/val/masks/val02.png', np.zeros((3, 3), np.uint8))
    with pytest.raises(DatasetError, match='same size: .*val02.jpg is 48 x 40 but .*val02.png is 3 x 3'):
        write_shards(data, tmp_path / 'out')
    assert not (tmp_path / 'out' / MANIFEST).exists()
    assert {path.name for path in (tmp_path / 'out').iterdir()} == {'train-000000.tar', 'train.index.npy'}
    with pytest.raises(DatasetError, match='written to the end: .*out has an index of some, and no shards.json; write'):
        SegmentationFolder(tmp_path / 'out', 'train', 3)
    as_they_are = SegmentationFolder(tmp_path / 'out', 'train', 3, layout=Layout(data_format='webdataset'))
    assert len(as_they_are) == 4
