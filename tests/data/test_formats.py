"""Each format on a miniature of its true layout: what is found, and the labels as classes."""
import json
import pickle

import numpy as np
import pytest
import torch
import torchvision
import trees
from PIL import ExifTags, Image

from rexnet_timm.data import DatasetError, Layout, SegmentationFolder, describe_data
from rexnet_timm.data.formats import FORMATS, data_above, holds_masks
from rexnet_timm.data.formats import drawn as drawn_module
from rexnet_timm.data.formats.folders import flat_folders


def both(root, **options) -> tuple[SegmentationFolder, SegmentationFolder]:
    description = describe_data(root, **options)
    return tuple(SegmentationFolder(description, split) for split in ('train', 'validation'))


def expect(dataset: SegmentationFolder, index: int, classes: np.ndarray) -> None:
    image, mask = dataset[index]
    assert image.shape[-2:] == mask.shape and mask.dtype == torch.int64
    assert np.array_equal(mask.numpy(), classes)


def test_voc(tmp_path):
    train, val = both(trees.voc(tmp_path))
    assert train.form == 'voc' and len(train) == len(val) == 4
    assert train.num_classes == 21 and train.class_names[15] == 'person' and train.ignore_index == 255
    assert train.description.palette(21)[1].tolist() == [128, 0, 0]
    assert train.description.palette(21)[20].tolist() == [0, 64, 128]
    classes = np.array([0, 8, 15])[trees.picture(1)[1]]
    classes[:2] = 255
    expect(train, 1, classes)
    # the folder of the year, and that of all years
    for root in (tmp_path / 'VOCdevkit', tmp_path / 'VOCdevkit' / 'VOC2012'):
        assert len(SegmentationFolder(root, 'trainval')) == 2
    with pytest.raises(DatasetError, match='names 1 of 1 that are not .2009_000001.; add them or take them off'):
        SegmentationFolder(tmp_path, 'train', layout=Layout(split_file='ImageSets/Main/{split}.txt'))


def test_an_export_of_cvat(tmp_path):
    """Coloured masks, a table of their colours and one list for all."""
    trees.beside(tmp_path, 'JPEGImages/{name}.jpg', 'SegmentationClass/{name}.png',
                 lambda classes: trees.COLORS[classes], ('default',), images=10)
    names = ''.join(f'default{index:02}\n' for index in range(10))
    trees.write(tmp_path / 'ImageSets' / 'Segmentation' / 'default.txt', names)
    trees.write(tmp_path / 'labelmap.txt',
                '# label:color_rgb:parts:actions\nbackground:0,0,0::\ncrack:64,128,64::\nrust:192,0,128::\n')
    train, val = both(tmp_path)
    assert (len(train), len(val)) == (8, 2) and train.class_names == ['background', 'crack', 'rust']
    index = int(train.paths(0)[0].stem[-2:])
    expect(train, 0, np.array([1, 2, 0])[trees.picture(index)[1]])
    assert train.description.colors[1] == (64, 128, 64)


def test_cityscapes(tmp_path):
    train, val = both(trees.cityscapes(tmp_path))
    assert (len(train), len(val)) == (4, 3) and train.num_classes == 19
    assert train.class_names[0] == 'road' and train.class_names[18] == 'bicycle'
    classes = np.array([0, 13, 11])[trees.picture(trees.hash_of('bochum') + 1)[1]]
    classes[-4:] = 255  # id 1 is of no class
    assert train.paths(3)[0].name == 'bochum_000001_000019_leftImg8bit.png'
    expect(train, 3, classes)
    assert train.unlisted_labels() == ({1: pytest.approx(0.1)}, 4)
    # the same by templates, as one says them
    said = Layout(image_dir='leftImg8bit/{split}', mask_dir='gtFine/{split}', image_suffix='_leftImg8bit.png',
                  mask_suffix='_gtFine_labelIds.png')
    again = SegmentationFolder(tmp_path, 'val', layout=said, label_map='cityscapes')
    assert torch.equal(again[2][1], val[2][1]) and again.num_classes == 19
    for path in tmp_path.rglob('*_labelIds.png'):
        path.rename(str(path).replace('_labelIds', '_labelTrainIds'))
    assert both(tmp_path)[0].ignore_index == 255


def test_ade20k(tmp_path):
    train, val = both(trees.ade20k(tmp_path))
    assert train.num_classes == 150 and train.class_names[149] == 'name 150' and (len(train), len(val)) == (4, 4)
    expect(train, 0, np.array([255, 0, 149])[trees.picture(0)[1]])
    table = tmp_path / 'ADEChallengeData2016' / 'objectInfo150.txt'
    trees.write(table, table.read_text().replace('\n150\t', '\n151\t'))
    with pytest.raises(DatasetError, match='must list the labels 1 to 150'):
        both(tmp_path)


@pytest.mark.parametrize('make', [trees.camvid_of_kaggle, trees.camvid_of_the_release])
def test_camvid_in_colours(make, tmp_path):
    train, val = both(make(tmp_path))
    assert train.form.startswith('camvid') and train.class_names == ['Animal', 'Archway']
    assert (len(train), len(val)) == ((4, 4) if make is trees.camvid_of_kaggle else (8, 2))
    seed = int(train.paths(0)[0].stem[-2:])
    expect(train, 0, np.array([0, 1, 255])[trees.picture(seed)[1]])
    assert train.unlisted_labels()[0] == {2: pytest.approx(trees_share(train), abs=1e-6)}


def trees_share(dataset: SegmentationFolder) -> float:
    masks = [dataset[index][1] for index in range(len(dataset))]
    return sum((mask == 255).sum().item() for mask in masks) / sum(mask.numel() for mask in masks)


def test_camvid_of_the_tutorial_by_name(tmp_path):
    trees.beside(tmp_path, '{split}/{name}.png', '{split}annot/{name}.png')
    assert describe_data(tmp_path).source.format == 'folders' and describe_data(tmp_path).num_classes is None
    train = SegmentationFolder(tmp_path, 'train', layout=Layout('camvid'))
    assert train.num_classes == 11 == train.ignore_index and train.class_names[8] == 'car'


def test_pet_as_torchvision_reads_it(tmp_path):
    trees.pet(tmp_path)
    train, val = both(tmp_path)
    test = SegmentationFolder(tmp_path, 'test')
    assert (len(train), len(val), len(test)) == (4, 1, 1) and train.class_names == ['background', 'pet']
    theirs = torchvision.datasets.OxfordIIITPet(tmp_path, 'test', 'segmentation')
    image, trimap = theirs[0]
    assert np.array_equal(test[0][0].permute(1, 2, 0).numpy(), np.array(image))
    expect(test, 0, np.array([-1, 1, 0, 255])[np.array(trimap)])


def test_nnunet(tmp_path):
    train, val = both(trees.nnunet(tmp_path))
    assert (len(train), len(val)) == (4, 1) and train.class_names == ['background', 'road'] and train.ignore_index == 2
    test = SegmentationFolder(tmp_path, 'test')
    expect(test, 0, trees.picture(100)[1])
    path = tmp_path / 'dataset.json'
    content = json.loads(path.read_text())
    for change, text in (
            ({'file_ending': '.nii.gz'}, "file_ending '.nii.gz'; write the slices"),
            ({'labels': {'background': 0, 'whole': [1, 2]}}, 'has regions, which are sets'),
            ({'labels': {'background': 0, 'a': 2}}, 'must be 0, 1, 2')):
        path.write_text(json.dumps({**content, **change}))
        with pytest.raises(DatasetError, match=text):
            describe_data(tmp_path)
    path.write_text(json.dumps(content))
    trees.save(tmp_path / 'imagesTr' / 'case_Tr00_0001.png', trees.picture(0)[0])
    with pytest.raises(DatasetError, match='case_Tr00_0001.png is a second channel; join'):
        describe_data(tmp_path)


@pytest.mark.parametrize('with_tools', [True, False])
def test_coco_instances(tmp_path, with_tools, monkeypatch):
    if with_tools:
        pytest.importorskip('pycocotools', reason='needs the extra coco')
    else:
        monkeypatch.setattr(drawn_module, '_coco_mask', lambda: None)
    train, val = both(trees.coco(tmp_path))
    assert train.form == 'coco' and train.class_names == ['background', 'car', 'dog']
    assert (len(train), len(val)) == (4, 4)
    expect(train, 0, trees.coco_classes())
    assert str(train.paths(0)[1]).endswith('instances_train2017.json, outlines of 000000000000.jpg')


def test_both_ways_of_filling_agree_but_for_edges(monkeypatch):
    pytest.importorskip('pycocotools', reason='needs the extra coco')
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    circle = np.stack([60 + 40.3 * np.cos(angles), 50 + 30.7 * np.sin(angles)], axis=-1).ravel().tolist()
    theirs = drawn_module._fill([circle, trees.rectangle(0, 0, 9, 7)], (100, 120))
    monkeypatch.setattr(drawn_module, '_coco_mask', lambda: None)
    ours = drawn_module._fill([circle, trees.rectangle(0, 0, 9, 7)], (100, 120))
    assert theirs[:7, :9].all() and ours[:7, :9].all()
    assert (ours != theirs).sum() < 0.04 * theirs.sum()


def test_packed_run_lengths(tmp_path, monkeypatch):
    tools = pytest.importorskip('pycocotools.mask', reason='needs the extra coco')
    trees.coco(tmp_path)
    path = tmp_path / 'annotations' / 'instances_train2017.json'
    content = json.loads(path.read_text())
    inside = np.asfortranarray((trees.coco_classes() == 2).astype(np.uint8))
    packed = {'size': list(trees.SIZE), 'counts': tools.encode(inside)['counts'].decode()}
    content['annotations'] = [{'image_id': 50, 'category_id': 18, 'segmentation': packed, 'iscrowd': 1, 'area': 9}]
    path.write_text(json.dumps(content))
    dataset = SegmentationFolder(tmp_path, 'train')
    expect(dataset, 0, inside * 2)  # 1 is the car, which no annotation has
    monkeypatch.setattr(drawn_module, '_coco_mask', lambda: None)
    with pytest.raises(ValueError, match=r"need pycocotools: pip install 'rexnet-timm\[coco\]'"):
        dataset[0]


def test_coco_of_roboflow(tmp_path):
    """Images beside the file of their split, and a first category that sums up the others."""
    trees.coco(tmp_path / 'coco')
    for split, name in (('train2017', 'train'), ('val2017', 'valid')):
        (tmp_path / 'coco' / split).rename(tmp_path / name)
        content = json.loads((tmp_path / 'coco' / 'annotations' / f'instances_{split}.json').read_text())
        content['categories'] = [
            {'id': 0, 'name': 'things', 'supercategory': 'none'},
            *({**category, 'supercategory': 'things'} for category in content['categories'])]
        trees.write(tmp_path / name / '_annotations.coco.json', json.dumps(content))
    train, val = both(tmp_path)
    assert train.class_names == ['background', 'car', 'dog'] and len(val) == 4
    expect(val, 0, trees.coco_classes())


def test_coco_with_boxes_only_or_without_images(tmp_path):
    trees.coco(tmp_path)
    path = tmp_path / 'annotations' / 'instances_train2017.json'
    content = json.loads(path.read_text())
    for entry in content['annotations']:
        entry['segmentation'] = []
    path.write_text(json.dumps(content))
    with pytest.raises(DatasetError, match='has boxes only; export it with segmentations'):
        SegmentationFolder(tmp_path, 'train')
    (tmp_path / 'val2017').rename(tmp_path / 'pictures')
    with pytest.raises(DatasetError, match='names 100000000000.jpg, which is not in .*val2017'):
        SegmentationFolder(tmp_path, 'val')


def test_one_file_of_coco(tmp_path):
    trees.coco(tmp_path)
    path = tmp_path / 'annotations' / 'instances_val2017.json'
    assert len(SegmentationFolder(path, 'train')) == 4
    with pytest.raises(DatasetError, match='name one of them as the split, or pass val_share=0.2 to keep'):
        SegmentationFolder(path, 'validation')
    assert len(SegmentationFolder(path, 'validation', layout=Layout(val_share=0.2))) == 1


def test_outlines_on_a_photo_as_stored(tmp_path):
    """The sizes of the annotations are those of the file, which is shown turned: they are turned with it."""
    trees.coco(tmp_path)
    path = tmp_path / 'train2017' / '000000000000.jpg'
    photo = Image.open(path)
    photo.load()
    exif = photo.getexif()
    exif[ExifTags.Base.Orientation] = 6
    photo.save(path, exif=exif)
    image, labels = SegmentationFolder(tmp_path, 'train')[0]
    assert image.shape[1:] == labels.shape == trees.SIZE[::-1]
    assert np.array_equal(labels.numpy(), np.rot90(trees.coco_classes(), -1))  # by a quarter to the right


def test_coco_panoptic(tmp_path):
    train, val = both(trees.coco_panoptic(tmp_path))
    assert train.form == 'coco-panoptic' and train.class_names == ['car', 'dog']
    expect(train, 2, np.array([255, 1, 0])[trees.picture(2)[1]])
    assert train.description.file_labels == (3, 18)


def test_yolo_of_outlines(tmp_path):
    train, val = both(trees.yolo_of_outlines(tmp_path))
    assert train.form == 'yolo' and train.class_names == ['background', 'cat', 'dog']
    classes = np.zeros(trees.SIZE, np.uint8)
    classes[10:20, 12:24] = 2
    expect(train, 0, classes)
    assert not train[1][1].any() and not train[2][1].any()  # an empty text, and none
    assert len(SegmentationFolder(tmp_path / 'data.yaml', 'val')) == 3
    for line, text in (('1 0.5 0.5 0.2 0.2', 'has a box in line 1'), ('2 0 0 0 1 1 1', 'a class from 0 to 1 and at'),
                       ('1 0 0 0 1 1', "has '1 0 0 0 1 1' in line 1"), ('dog 0 0 0 1 1 1', 'in line 1; correct')):
        trees.write(tmp_path / 'labels' / 'train' / '1.txt', line)
        with pytest.raises(DatasetError, match=text):
            train[1]


def test_yolo_of_masks(tmp_path):
    train, val = both(trees.yolo_of_masks(tmp_path))
    assert train.class_names == ['cat', 'dog'] and train.ignore_index == 255
    expect(val, 1, np.array([0, 1, 255])[trees.picture(101)[1]])


def test_mmsegmentation(tmp_path):
    trees.mmseg(tmp_path)
    trees.save(tmp_path / 'img_dir/train/city/a_leftImg8bit.png', trees.picture(7)[0])
    trees.save(tmp_path / 'ann_dir/train/city/a_gtFine_labelTrainIds.png', trees.picture(7)[1])
    train = SegmentationFolder(tmp_path, 'train', 3)
    assert train.form == 'mmseg' and len(train) == 5
    expect(train, 0, trees.picture(7)[1])


def test_an_image_folder_of_hugging_face(tmp_path):
    trees.image_folder(tmp_path)
    description = describe_data(tmp_path)
    assert description.source.format == 'huggingface' and description.source.splits == ('train', 'validation')
    expect(SegmentationFolder(description, 'val', 3), 2, trees.picture(2)[1])
    (tmp_path / 'train' / 'masks' / '1.png').unlink()
    with pytest.raises(DatasetError, match='metadata.jsonl names .*1.png; correct the table'):
        describe_data(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize('form', ['parquet', 'saved', 'one_split'])
def test_tables_of_hugging_face(tmp_path, form, monkeypatch):
    datasets = pytest.importorskip('datasets', reason='needs the extra stream')
    monkeypatch.setattr(datasets.config, 'HF_DATASETS_CACHE', tmp_path / 'cache')
    pairs = [trees.picture(seed) for seed in range(4)]
    kind = datasets.Image()
    features = datasets.Features({'image': kind, 'label': kind, 'text': datasets.Value('string')})
    table = datasets.Dataset.from_dict({
        'image': [Image.fromarray(image) for image, _ in pairs], 'text': list('abcd'),
        'label': [Image.fromarray(classes) for _, classes in pairs]}, features)
    root = tmp_path / 'set'
    if form == 'saved':
        datasets.DatasetDict({'train': table, 'validation': table.select([1])}).save_to_disk(root)
    else:
        (root / 'data').mkdir(parents=True)
        table.to_parquet(root / 'data' / 'train-00000-of-00001.parquet')
        if form == 'parquet':
            table.select([1]).to_parquet(root / 'data' / 'validation-00000-of-00001.parquet')
    description = describe_data(root)
    train, val = (SegmentationFolder(description, split, 3) for split in ('train', 'val'))
    assert (len(train), len(val)) == ((3, 1) if form == 'one_split' else (4, 1))
    expect(train, 0, trees.picture(0)[1]) if form != 'one_split' else train[0]
    expect(val, 0, trees.picture(1)[1]) if form != 'one_split' else val[0]
    assert np.array_equal(train[0][0].permute(1, 2, 0).numpy(), pairs[train.paths(0)[0].row][0])
    assert train.sample_sizes() == [trees.SIZE] * len(train)


# --- folders as they are said ---

def test_splits_in_lists(tmp_path):
    trees.beside(tmp_path, 'photos/{name}.jpg', 'truth/{name}.png', splits=('a',))
    trees.write(tmp_path / 'lists' / 'train.txt', 'a00\na02\n')
    trees.write(tmp_path / 'lists' / 'val.txt', 'photos/a01.jpg\n')
    layout = Layout(image_dir='photos', mask_dir='truth', split_file='lists/{split}.txt')
    train, val = (SegmentationFolder(tmp_path, split, 3, layout=layout) for split in ('train', 'validation'))
    assert [path.stem for path, _ in (train.paths(0), train.paths(1), val.paths(0))] == ['a00', 'a02', 'a01']
    with pytest.raises(DatasetError, match='there is no .*lists/test.txt; lists there are of train, val'):
        SegmentationFolder(tmp_path, 'test', 3, layout=layout)
    # one name in two folders
    for name in ('photos/more/a00.jpg', 'truth/more/a00.png'):
        trees.save(tmp_path / name, trees.picture(0)[name.startswith('truth')])
    with pytest.raises(DatasetError, match="train.txt has 'a00', which is .*/a00.jpg and .*; write their paths"):
        SegmentationFolder(tmp_path, 'train', 3, layout=layout)
    trees.write(tmp_path / 'lists' / 'train.txt', 'more/a00\nphotos/a00\n')
    assert SegmentationFolder(tmp_path, 'train', 3, layout=layout).paths(0)[0].parent.name == 'more'
    # pairs of paths that begin elsewhere, as the SegNet tutorial's
    trees.write(tmp_path / 'lists' / 'train.txt', '/SegNet/set/photos/a03.jpg /SegNet/set/truth/a03.png\n')
    assert SegmentationFolder(tmp_path, 'train', 3, layout=layout).paths(0)[1] == tmp_path / 'truth' / 'a03.png'


def test_a_share_for_validation(tmp_path):
    trees.beside(tmp_path, 'images/{name}.jpg', 'masks/{name}.png', splits=('',), images=20)

    def names(split: str, **options) -> list[str]:
        dataset = SegmentationFolder(tmp_path, split, 3, layout=Layout(**options))
        return [dataset.paths(index)[0].stem for index in range(len(dataset))]

    train, val = names('train'), names('val')
    assert (len(train), len(val)) == (16, 4) and not set(train) & set(val) and len(set(train) | set(val)) == 20
    assert names('val') == val != names('val', split_seed=1) and len(names('val', val_share=0.5)) == 10
    assert set(val) < set(names('val', val_share=0.5))
    with pytest.raises(DatasetError, match='no split "test" in .*20% of it kept for validation: it has train, val'):
        names('test')
    for index in range(20, 25):  # no image changes sides into training when others are added
        trees.save(tmp_path / 'images' / f'{index}.jpg', trees.picture(index)[0])
        trees.save(tmp_path / 'masks' / f'{index}.png', trees.picture(index)[1])
    assert len(set(val) & set(names('val'))) >= 3


def test_a_share_of_the_training_split(tmp_path):
    trees.beside(tmp_path, '{split}/images/{name}.jpg', '{split}/masks/{name}.png', splits=('train', 'test'))
    layout = Layout(val_share=0.25)
    sizes = [len(SegmentationFolder(tmp_path, split, 3, layout=layout)) for split in ('train', 'val', 'test')]
    assert sizes == [3, 1, 4]
    trees.beside(tmp_path, '{split}/images/{name}.jpg', '{split}/masks/{name}.png', splits=('valid',))
    with pytest.raises(DatasetError, match="without a split for validation, and .* has 'valid'; leave it out"):
        SegmentationFolder(tmp_path, 'train', 3, layout=layout)


@pytest.mark.parametrize('image_end, mask_end', [('', '_mask'), ('_rgb', '_seg'), ('.sat', '-label')])
def test_ends_that_all_names_have(tmp_path, image_end, mask_end):
    trees.beside(tmp_path, f'{{split}}/images/{{name}}{image_end}.png', f'{{split}}/masks/{{name}}{mask_end}.png')
    train = SegmentationFolder(tmp_path, 'train', 3)
    assert len(train) == 4
    expect(train, 3, trees.picture(3)[1])


def test_folders_that_are_not_there(tmp_path):
    trees.beside(tmp_path, 'x/{split}/{name}.png', 'y/{split}/{name}.png')
    with pytest.raises(DatasetError, match='there is no .*z/train; splits there are train, val; correct'):
        SegmentationFolder(tmp_path, 'train', 3, layout=Layout(image_dir='x/{split}', mask_dir='z/{split}'))
    with pytest.raises(DatasetError, match=r'must both have \{split\}, or neither'):
        SegmentationFolder(tmp_path, 'train', 3, layout=Layout(image_dir='x/{split}', mask_dir='y'))
    with pytest.raises(ValueError, match='belong together, got only image_dir: pass mask_dir too'):
        Layout(image_dir='x')
    with pytest.raises(DatasetError, match=r'has no file ending in _L.png; correct mask_suffix'):
        SegmentationFolder(tmp_path, 'train', 3, layout=Layout(
            image_dir='x/{split}', mask_dir='y/{split}', mask_suffix='_L.png'))


@pytest.mark.parametrize('name', [name for name in FORMATS if name not in ('folders', 'huggingface')])
def test_a_named_format_says_what_it_needs(name, tmp_path):
    (tmp_path / 'pictures').mkdir()
    with pytest.raises(DatasetError, match=f'Data of the format {name} must have .*: .* has pictures; name another'):
        describe_data(tmp_path, Layout(name))


def test_a_format_that_there_is_not(tmp_path):
    with pytest.raises(ValueError, match="one of auto, shards, voc.*got 'cityscape'. Did you mean cityscapes"):
        describe_data(tmp_path, Layout('cityscape'))


def test_masks_as_jpeg_are_told(tmp_path):
    trees.beside(tmp_path, '{split}/images/{name}.png', '{split}/masks/{name}.jpg')
    with pytest.raises(DatasetError, match='JPEG files, which it has, blur labels, so save the masks as PNG'):
        SegmentationFolder(tmp_path, 'train', 3)


@pytest.mark.parametrize('make', [trees.cityscapes, trees.camvid_of_kaggle, trees.coco, trees.coco_panoptic, trees.pet,
                                  trees.yolo_of_outlines, trees.image_folder])
def test_a_loader_can_send_the_data_to_other_processes(make, tmp_path):
    """As those of spawned processes need it."""
    dataset = SegmentationFolder(make(tmp_path), 'train', 3 if make is trees.image_folder else None)
    again = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(again[1][1], dataset[1][1]) and again.class_names == dataset.class_names


def test_no_picture_is_opened_at_the_start(tmp_path, monkeypatch):
    trees.cityscapes(tmp_path)
    monkeypatch.setattr(Image, 'open', lambda *args: pytest.fail('a picture was opened'))
    assert len(describe_data(tmp_path).source.samples('train')) == 4


@pytest.mark.parametrize('images, masks', [('photos', 'masks'), ('images', 'truth'), ('photos', 'labels')])
def test_one_of_two_folders_may_have_a_name_of_its_own(images, masks, tmp_path):
    trees.beside(tmp_path, f'{images}/{{name}}.jpg', f'{masks}/{{name}}.png', splits=('all',), images=6)
    train, val = (SegmentationFolder(tmp_path, split, 3) for split in ('train', 'validation'))
    assert (len(train), len(val)) == (5, 1)
    assert all((image.parent.name, mask.parent.name) == (images, masks) for image, mask in map(train.paths, range(5)))


def test_two_classes_of_images_are_no_images_and_masks(tmp_path):
    for name in ('masks', 'faces'):
        for index in range(3):
            trees.save(tmp_path / name / f'{name}{index}.png', np.zeros((8, 8, 3), np.uint8))
    assert holds_masks(tmp_path, 'train') is None
    trees.beside(tmp_path / 'far', 'images/{name}.png', 'depth/{name}.png', splits=('all',))
    assert flat_folders(tmp_path / 'far') == []
    trees.save(tmp_path / 'third' / 'a.png', np.zeros((8, 8, 3), np.uint8))  # nothing tells which of three is which
    assert flat_folders(tmp_path) == []


def test_a_split_that_is_not_there_names_those_that_are(tmp_path):
    data = describe_data(trees.voc(tmp_path))
    with pytest.raises(DatasetError, match='lists there are of train, trainval, val; name one of them as the split'):
        data.source.samples('test')


def test_a_part_of_a_data_set_tells_the_whole(tmp_path):
    data = trees.cityscapes(tmp_path / 'city')
    for part in (data / 'gtFine', data / 'leftImg8bit' / 'train'):
        assert data_above(part) == (str(data), 'cityscapes')
    assert data_above(data) is data_above(tmp_path) is None


def test_a_split_without_truth_is_told(tmp_path):
    data = trees.cityscapes(tmp_path)
    for path in (data / 'gtFine' / 'val').rglob('*_labelIds.png'):
        Image.fromarray(np.zeros((40, 48), np.uint8)).save(path)
    with pytest.raises(DatasetError, match='correct the map, or take another split where this one has no truth'):
        SegmentationFolder(data, 'val').told_of_labels()
