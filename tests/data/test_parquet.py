"""Pictures in Parquet files: read in place by their row, in an order that reads each row group once."""
import io
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import trees
from networks import brightest
from PIL import Image
from torch.utils.data import DataLoader

import rexnet_timm
from rexnet_timm.data import DatasetError, SegmentationFolder, describe_data, sampling
from rexnet_timm.data import parquet as module
from rexnet_timm.data.loader import EvaluationBatches
from rexnet_timm.data.sampling import SeededSamples, TrainingSampler

pa = pytest.importorskip('pyarrow', reason='needs the extra stream')
pq = pytest.importorskip('pyarrow.parquet', reason='needs the extra stream')


def encoded(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, 'PNG')
    return buffer.getvalue()


def write(path: Path, indices, rows: int = 2, as_struct: bool = True) -> Path:
    """A Parquet file of pictures in row groups of some rows, as Hugging Face's or as plain bytes, and of text."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pairs = [tuple(map(encoded, trees.picture(index))) for index in indices]
    columns = {'text': [f'{index}' for index in indices]}
    for place, name in enumerate(('image', 'label')):
        values = [pair[place] for pair in pairs]
        columns[name] = [{'bytes': value, 'path': None} for value in values] if as_struct else values
    pq.write_table(pa.table(columns), path, row_group_size=rows)
    return path


def folder(root: Path, **options) -> Path:
    """Files of five, four and two samples, of which the last is for validation."""
    write(root / 'data' / 'train-00000-of-00002.parquet', range(5), **options)
    write(root / 'data' / 'train-00001-of-00002.parquet', range(5, 9), **options)
    write(root / 'data' / 'validation-00000-of-00001.parquet', range(9, 11), **options)
    return root


def expect(dataset: SegmentationFolder, indices) -> None:
    assert len(dataset) == len(indices)
    for place, index in enumerate(indices):
        pixels, classes = trees.picture(index)
        assert np.array_equal(dataset[place][0].permute(1, 2, 0), pixels)
        assert np.array_equal(dataset[place][1], classes)


@pytest.mark.parametrize('options', [{}, {'rows': 1}, {'rows': 100}, {'as_struct': False}])
def test_rows_are_read_in_place(options, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'datasets', None)  # which would copy them
    data = describe_data(folder(tmp_path, **options))
    assert data.source.format == 'huggingface' and data.source.splits == ('train', 'validation')
    train = SegmentationFolder(data, 'train', 3)
    expect(train, range(9))
    expect(SegmentationFolder(data, 'val', 3), range(9, 11))
    assert train.sample_sizes() == [trees.SIZE] * 9 and str(train.paths(7)[1]) == 'train-000007-label'
    expect(pickle.loads(pickle.dumps(train)), range(9))
    counts = np.bincount(train.groups().of_sample).tolist()
    assert counts == {1: [1] * 9, 100: [5, 4]}.get(options.get('rows', 2), [2, 2, 1, 2, 2])


def test_folders_of_splits_and_a_share(tmp_path):
    write(tmp_path / 'set' / 'train' / '0000.parquet', range(3))
    write(tmp_path / 'set' / 'test' / '0000.parquet', range(3, 4))
    expect(SegmentationFolder(tmp_path / 'set', 'train', 3), range(3))
    expect(SegmentationFolder(tmp_path / 'set', 'test', 3), [3])
    write(tmp_path / 'one' / 'pictures.parquet', range(10))
    parts = [SegmentationFolder(tmp_path / 'one', split, 3) for split in ('train', 'val')]
    assert [len(part) for part in parts] == [8, 2]
    rows = [part.paths(index)[0].row for part in parts for index in range(len(part))]
    assert sorted(rows) == list(range(10)) and rows[:8] == sorted(rows[:8])
    expect(parts[0], rows[:8])
    parts[0].leave_out([0, 7])
    expect(parts[0], rows[1:7])
    assert parts[0].groups().of_sample.tolist() == [row // 2 for row in rows[1:7]]


@pytest.mark.parametrize('processes', [1, 2, 3])
def test_the_order_of_training(processes, tmp_path, monkeypatch):
    """Every sample once over all processes and workers, groups one after the other, the same again from any batch."""
    monkeypatch.setattr(sampling, 'WINDOW', 1)
    write(tmp_path / 'train.parquet', range(24), rows=4)
    write(tmp_path / 'val.parquet', range(2))
    dataset = SegmentationFolder(tmp_path, 'train', 3, transform=lambda image, mask: mask)

    def order(epoch: int, batch: int = 0, seed: int = 1) -> list[list[int]]:
        parts = []
        for rank in range(processes):
            sampler = TrainingSampler(dataset, 2, processes, rank, seed)
            sampler.start_at(epoch, batch)
            parts.append([index for _, index in sampler])
            assert sampler.samples_of(batch) == parts[-1][:2]
        return parts

    first = order(3)
    numbers = [number for row in zip(*first, strict=True) for number in row]
    assert sorted(numbers) == list(range(24)) and order(3) == first
    assert order(3, 2) == [part[4:] for part in first]  # goes on where it stopped
    assert order(4) != first and order(3, seed=2) != first
    groups = [number // 4 for number in numbers]
    assert [groups[place] for place in range(0, 24, 4)] != list(range(6))
    assert all(len(set(groups[place:place + 4])) == 1 for place in range(0, 24, 4))
    assert any(numbers[place:place + 4] != sorted(numbers[place:place + 4]) for place in range(0, 24, 4))

    sampler = TrainingSampler(dataset, 2, processes, processes - 1, 1)
    sampler.set_epoch(3)
    loader = DataLoader(SeededSamples(dataset, 1), 2, sampler=sampler, num_workers=2 if processes == 2 else 0)
    masks = [mask for batch in loader for mask in batch]
    assert all(np.array_equal(mask, trees.picture(number)[1]) for mask, number in zip(masks, first[-1], strict=True))
    parts = [EvaluationBatches(dataset.sample_sizes(), 5, processes, rank) for rank in range(processes)]
    counted = [index for part in parts for index in sum(part.batches, [])[:part.num_valid_samples]]
    assert sorted(counted) == list(range(24))


def test_processes_that_do_not_come_out_even_and_crops(tmp_path):
    dataset = SegmentationFolder(folder(tmp_path), 'train', 3)
    dataset.crops = 3
    parts = [list(TrainingSampler(dataset, 1, 2, rank)) for rank in range(2)]
    numbers = [index for part in parts for _, index in part]
    assert len(numbers) == 28 and set(numbers) == set(range(27))


def test_groups_of_64_mib_are_shuffled_together(tmp_path, monkeypatch):
    dataset = SegmentationFolder(write(tmp_path / 'train.parquet', range(12), rows=2).parent, 'train', 3)
    dataset.leave_out([])
    sampler = TrainingSampler(dataset, 1)
    numbers = [index for _, index in sampler]
    groups = dataset.groups().of_sample[numbers]
    assert (groups[::2][:len(groups) // 2] != groups[1::2]).any()  # one window: no group stays together


def test_each_group_is_read_once_an_epoch(tmp_path, monkeypatch):
    monkeypatch.setattr(sampling, 'WINDOW', 1)
    write(tmp_path / 'train.parquet', range(24), rows=4)
    write(tmp_path / 'val.parquet', range(2))
    dataset = SegmentationFolder(tmp_path, 'train', 3)
    table = dataset.paths(0)[0].table
    monkeypatch.setattr(module, '_KEPT', int(table.largest))  # room for one
    reads = []
    own = pq.ParquetFile.read_row_group
    monkeypatch.setattr(pq.ParquetFile, 'read_row_group', lambda self, number, *rest, **options: (
        reads.append(number), own(self, number, *rest, **options))[1])
    table._forget()
    sampler = TrainingSampler(dataset, 2)
    for batch in DataLoader(SeededSamples(dataset, 0), 2, sampler=sampler, collate_fn=list):
        assert len(batch) == 2
    assert sorted(reads) == list(range(6)) and len(table._kept) == 1


@pytest.mark.slow
def test_large_row_groups_are_copied_once(tmp_path, monkeypatch, caplog):
    datasets = pytest.importorskip('datasets', reason='needs the extra stream')
    monkeypatch.setattr(datasets.config, 'HF_DATASETS_CACHE', tmp_path / 'cache')
    from rexnet_timm.data.formats import FORMATS
    monkeypatch.setitem(FORMATS['huggingface'].describe.__globals__, 'LARGEST_GROUP', 10)
    caplog.set_level('INFO')
    train = SegmentationFolder(folder(tmp_path / 'set'), 'train', 3)
    assert 'too much to read for a row: the files are copied into the cache of the library datasets' in caplog.text
    expect(train, range(9))
    assert train.groups() is None and (tmp_path / 'cache').exists()


@pytest.mark.parametrize('damage, message', [
    (lambda path: path.write_bytes(b'PAR1'), 'Every Parquet file must be readable: .*train-00001.* is not .*; replace'),
    (lambda path: os.truncate(path, 2000), 'Every Parquet file must be readable: .*train-00001.* is not'),
    (lambda path: pq.write_table(pa.table({'image': [b'1']}), path), 'All files .*: .*train-00001.* has no label;'),
])
def test_what_is_refused(damage, message, tmp_path):
    damage(folder(tmp_path) / 'data' / 'train-00001-of-00002.parquet')
    with pytest.raises(DatasetError, match=message) as error:
        SegmentationFolder(tmp_path, 'train', 3)
    assert '\n' not in str(error.value)


def test_damaged_pages_and_rows_without_a_picture_are_named(tmp_path):
    path = folder(tmp_path) / 'data' / 'train-00000-of-00002.parquet'
    content = bytearray(path.read_bytes())
    content[4:2000] = bytes(1996)  # the first pages
    path.write_bytes(content)
    with pytest.raises(DatasetError, match='Every Parquet file must be readable: .*train-00000'):
        SegmentationFolder(tmp_path, 'train', 3)[0]
    pq.write_table(pa.table({'image': [b'1'], 'label': pa.array([None], pa.binary())}), path)
    with pytest.raises((DatasetError, FileNotFoundError), match='train-000000-image|row 0 has no picture'):
        SegmentationFolder(tmp_path, 'train', 3)[0]


@pytest.mark.slow
def test_a_stream_is_refused_and_the_remedy_works(tmp_path):
    datasets = pytest.importorskip('datasets', reason='needs the extra stream')
    files = [str(write(tmp_path / 'remote.parquet', range(4)))]
    stream = datasets.load_dataset('parquet', data_files=files, split='train', streaming=True)
    text = r"IterableDataset has no length. Name .* of a stream data.to_parquet\('DATA/train.parquet', batch_size="
    with pytest.raises(ValueError, match=text):
        rexnet_timm.train(stream, model='rexnetv1_unet_1_0')
    with pytest.raises(ValueError, match=text):
        rexnet_timm.evaluate(brightest(), stream)
    (tmp_path / 'DATA').mkdir()
    stream.to_parquet(tmp_path / 'DATA' / 'train.parquet', batch_size=100)
    write(tmp_path / 'DATA' / 'val.parquet', range(4, 5))
    expect(SegmentationFolder(tmp_path / 'DATA', 'train', 3), range(4))


MEMORY = '''
import resource, sys
from rexnet_timm.data import SegmentationFolder, parquet
from rexnet_timm.data.sampling import SeededSamples, TrainingSampler
from torch.utils.data import DataLoader

parquet._KEPT = 2 ** 22  # which the smaller set fills too

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

small, large = (SegmentationFolder(sys.argv[1], split, 3) for split in ('train', 'validation'))
for dataset in (small, large):
    for batch in DataLoader(SeededSamples(dataset, 0), 4, sampler=TrainingSampler(dataset, 4)):
        pass
    print(len(dataset), peak())
'''


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_samples(tmp_path):
    row = tuple(map(encoded, trees.picture(0)))
    rest = np.random.default_rng(0).integers(0, 256, 8_000, np.uint8).tobytes()  # a PNG may have anything at its end
    for split, number in (('train', 600), ('validation', 10_000)):
        with pq.ParquetWriter(tmp_path / f'{split}.parquet', pa.schema(
                [('image', pa.binary()), ('mask', pa.binary())]), compression='none') as writer:
            for _ in range(number // 100):
                writer.write_table(pa.table({'image': [row[0] + rest] * 100, 'mask': [row[1]] * 100}))
    result = subprocess.run(
        [sys.executable, '-c', MEMORY, str(tmp_path)], capture_output=True, text=True, check=True,
        env={**os.environ, 'PYTHONPATH': str(Path(__file__).parents[2])})
    (small, before), (large, after) = (map(float, line.split()) for line in result.stdout.splitlines())
    assert (small, large) == (600, 10_000)
    assert after - before < 16, f'{before} to {after} MiB'  # their pictures are 90 MiB
