"""Classification through the scripts, on small data: NAVER's recipe and timm's options."""
import argparse
import importlib.util
import struct
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from running import distributed, summary, write_class_folder
from timm.layers import SyncBatchNormAct

import rexnet_timm
from rexnet_timm.cli import build, train
from rexnet_timm.cli.arguments import parse_train_args

SEED_RECIPE = (
    '--model rexnetv1 --rex-width-mult 1.0 --opt sgd --amp --lr 0.5 --weight-decay 1e-5 --batch-size 128 --epochs 400 '
    '--sched cosine --remode pixel --reprob 0.2 --drop 0.2 --aa rand-m9-mstd0.5').split()


@pytest.fixture(scope='module')
def class_folder(tmp_path_factory) -> Path:
    return write_class_folder(tmp_path_factory.mktemp('classes'))


@pytest.fixture
def fashion_folder(tmp_path) -> Path:
    """Files as Fashion-MNIST's, of 16 and 4 images whose brightness is their label."""
    folder = tmp_path / 'FashionMNIST' / 'raw'
    folder.mkdir(parents=True)
    for prefix, number in (('train', 16), ('t10k', 4)):
        labels = (np.arange(number) % 10).astype(np.uint8)
        images = labels[:, None, None] * np.full((28, 28), 20, np.uint8)
        (folder / f'{prefix}-labels-idx1-ubyte').write_bytes(struct.pack('>II', 0x801, number) + labels.tobytes())
        (folder / f'{prefix}-images-idx3-ubyte').write_bytes(
            struct.pack('>IIII', 0x803, number, 28, 28) + images.tobytes())
    return tmp_path


def arguments(folder: Path, output: Path, *args: str) -> list[str]:
    return [str(folder), *(
        '--model rexnetv1_test --num-classes 2 --img-size 32 --batch-size 4 --workers 0 --opt adamw --lr 3e-3 '
        '--warmup-epochs 0 --epochs 1 --device cpu --experiment run').split(), '--output', str(output), *args]


def checkpoint(folder: Path) -> dict:
    with torch.serialization.safe_globals([argparse.Namespace]):  # timm's saver keeps the arguments too
        return torch.load(folder / 'last.pth.tar', weights_only=True)


def test_the_seed_recipe_parses_word_for_word():
    args = parse_train_args(['/imagenet/', *SEED_RECIPE])
    assert (args.data_dir, args.model, args.rex_width_mult, args.opt) == ('/imagenet/', 'rexnetv1', 1.0, 'sgd')
    assert (args.amp, args.lr, args.weight_decay, args.batch_size, args.epochs) == (True, 0.5, 1e-5, 128, 400)
    assert (args.sched, args.remode, args.reprob, args.drop, args.aa) == (
        'cosine', 'pixel', 0.2, 0.2, 'rand-m9-mstd0.5')


@pytest.mark.slow
def test_the_seed_recipe_trains_on_two_processes(class_folder, tmp_path):
    # word for word, with fewer images, epochs and a smaller network behind it
    result = distributed(
        2, class_folder, *SEED_RECIPE, '--rex-width-mult', '0.3', '--batch-size', '4', '--epochs', '1', '--lr', '0.01',
        '--num-classes', '2', '--img-size', '32', '--workers', '1', '--device', 'cpu', '--output', tmp_path,
        '--experiment', 'run', cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert '2 process(es) on cpu' in result.stderr + result.stdout
    (row,) = summary(tmp_path / 'run')
    assert 0 <= float(row['eval_top1']) <= 100
    assert (tmp_path / 'run' / 'model_best.pth.tar').is_file()


@pytest.mark.parametrize('options', [
    '', '--model-ema --model-ema-warmup', pytest.param('--model-ema --model-ema-decay 0.8', marks=pytest.mark.slow)])
def test_dark_and_bright_are_told_apart(options, class_folder, tmp_path):
    assert train.main(arguments(
        class_folder, tmp_path, '--epochs', '15', '--color-jitter', '0', *options.split())) == 0
    # the best epoch: there are ten images, and processors and releases of Pillow differ by one or two
    assert max(float(row['eval_top1']) for row in summary(tmp_path / 'run')) >= 90


@pytest.fixture(scope='module')
def plain(class_folder, tmp_path_factory) -> Path:
    """Folder of a run of one epoch without any option, against which others show what they change."""
    return run(class_folder, tmp_path_factory.mktemp('plain'), '')


def run(class_folder: Path, output: Path, options: str) -> Path:
    # steps so small that they do not blow up the rounding
    assert train.main(arguments(class_folder, output, '--lr', '1e-5', *options.split())) == 0
    return output / 'run'


@pytest.mark.parametrize('options', [
    '--mixup 0.5', '--cutmix 1.0', '--mixup 0.5 --bce-loss', '--reprob 1 --recount 3', '--aa rand-m9-mstd0.5',
    '--drop 0.5', '--drop-path 0.5', '--smoothing 0', '--no-aug'])
def test_each_option_changes_the_loss(options, class_folder, plain, tmp_path):
    # everything else is the same, down to the seed
    other = run(class_folder, tmp_path, options)
    assert float(summary(other)[0]['train_loss']) != pytest.approx(float(summary(plain)[0]['train_loss']), rel=1e-6)


@pytest.mark.parametrize('options', [
    pytest.param('--torchcompile eager', marks=pytest.mark.slow), '--grad-checkpointing', '--channels-last'])
def test_what_computes_the_same_leaves_the_loss_the_same(options, class_folder, plain, tmp_path):
    other = run(class_folder, tmp_path, options)
    assert float(summary(other)[0]['train_loss']) == pytest.approx(float(summary(plain)[0]['train_loss']), rel=1e-3)


def test_an_update_is_made_of_several_batches(class_folder, plain, tmp_path):
    # 24 images in batches of 4
    for folder, updates in ((plain, 6), (run(class_folder, tmp_path, '--grad-accum-steps 4'), 2)):
        assert {float(state['step']) for state in checkpoint(folder)['optimizer']['state'].values()} == {updates}


def test_the_average_of_the_weights_is_kept(class_folder, plain, tmp_path):
    content = checkpoint(run(class_folder, tmp_path, '--model-ema --model-ema-decay 0.8'))
    key = 'head.fc.weight'
    assert not torch.equal(content['state_dict_ema'][key], content['state_dict'][key])
    torch.testing.assert_close(content['state_dict'], checkpoint(plain)['state_dict'])


@pytest.mark.parametrize('options, warned', [
    ('--model-ema', True), ('--model-ema --model-ema-warmup', False), ('--model-ema --model-ema-decay 0.4', False),
    ('', False)])
def test_an_average_of_the_initial_weights_is_told(options, warned, class_folder, tmp_path, caplog):
    run(class_folder, tmp_path, options)
    text = 'will consist of the initial ones to 100 % after 6 updates: add --model-ema-warmup'
    assert (text in caplog.text) == warned == ('initial ones' in caplog.text)


def test_other_files_of_images_and_one_channel(fashion_folder, tmp_path, capsys):
    data = ['--dataset', 'torch/fashion_mnist', '--in-chans', '1', '--num-classes']
    assert train.main(arguments(fashion_folder, tmp_path, *data, '10')) == 0
    assert checkpoint(tmp_path / 'run')['state_dict']['stem.conv.weight'].shape[1] == 1
    assert 0 <= float(summary(tmp_path / 'run')[0]['eval_top1']) <= 100
    assert train.main(arguments(fashion_folder, tmp_path / 'other', *data, '9')) == 2
    assert "--num-classes is 9, and the 'train' part of" in capsys.readouterr().err
    assert train.main(arguments(fashion_folder / 'FashionMNIST', tmp_path / 'other', *data, '10')) == 2
    assert 'must be of --dataset torch/fashion_mnist: Dataset not found' in capsys.readouterr().err


@pytest.mark.parametrize('create', [
    lambda: timm.create_model('rexnetv1_test'), lambda: timm.create_model('rexnetv1_lite_1_0'),
    lambda: rexnet_timm.MultiScaleUnet('rexnetv1_test', classes=3)], ids=['rexnetv1', 'lite', 'unet'])
def test_batch_norm_over_processes_keeps_the_network(create):
    model, x = create().eval(), torch.randn(1, 3, 64, 64)
    expected = model(x)
    model = build.synchronize_batch_norm(model, torch.device('cuda'))  # moves nothing there
    assert any(isinstance(module, SyncBatchNormAct) for module in model.modules())
    assert not any(type(module).__name__.startswith('BatchNorm') for module in model.modules())
    # not to the bit, as convolutions do not take in this BatchNorm
    torch.testing.assert_close(model.eval()(x), expected, rtol=0, atol=1e-5 * expected.std().item())


@pytest.mark.slow
def test_batch_norm_over_processes_needs_an_accelerator(class_folder, tmp_path):
    result = distributed(2, *arguments(class_folder, tmp_path, '--sync-bn'), cwd=tmp_path)
    assert result.returncode != 0 and 'Traceback' not in result.stderr
    assert result.stderr.count('rexnet train: error: --sync-bn needs an accelerator, since torch does not have it') == 1


@pytest.mark.parametrize('options, message', [
    ('--train-split trian', "must have a folder 'trian' with a folder of images for each class, and has the folders"),
    ('--val-split vall', "must have a folder 'vall' with"),
    ('--in-chans 4', 'got 4 channels'),
    ('--mixup 0.2 --batch-size 3', 'need an even --batch-size, got 3'),
    ('--class-map gone.txt', "--class-map must be a file of class names, one a line, and 'gone.txt' is none"),
    ('--gp foo', '--model rexnetv1_test cannot be built with --gp: '),
    ('--model vit_tiny_patch16_224', 'does not take images of 32 x 32'),
    ('--model rexnetv1_1_0.nope', "no pretrained tag 'nope': take rexnetv1_1_0 without a tag. Did you mean"),
    ('--model somewhere:model', "got 'somewhere:model'"),
    ('--model resnet18 --pretrained', 'The weights of --pretrained for --model resnet18 cannot be fetched'),
    ('--dataset hfds/no/thing', 'needs a package that is not installed'),
])
def test_mistakes_with_classes_end_with_one_line(options, message, class_folder, tmp_path, capsys):
    if 'hfds' in options and importlib.util.find_spec('datasets'):
        pytest.skip('the package is installed')
    assert train.main(arguments(class_folder, tmp_path, *options.split())) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if 'error:' in line]
    assert line.startswith('rexnet train: error: ') and message in line


@pytest.mark.parametrize('config', ['{}', '[1]', '{"architecture": 5}', '{"architecture": "nope"}', 'no json'])
def test_a_saved_model_without_an_architecture_is_refused(config, class_folder, tmp_path, capsys):
    (tmp_path / 'config.json').write_text(config)
    assert train.main(arguments(class_folder, tmp_path, '--model', f'local-dir:{tmp_path}')) == 2
    assert "must be a model that timm's save_for_hf" in capsys.readouterr().err


def test_parts_of_other_classes_are_refused(tmp_path, capsys):
    root = write_class_folder(tmp_path / 'classes')
    (root / 'validation' / 'dark').rename(root / 'validation' / 'dusk')
    assert train.main(arguments(root, tmp_path)) == 2
    assert 'must have the same classes' in (error := capsys.readouterr().err) and 'dark, dusk' in error


@pytest.mark.parametrize('images, masks', [
    ('train/images', 'train/masks'), ('images', 'labels'), ('training', 'trainingannot'),
    ('images/train', 'masks/train')])
def test_images_with_masks_are_refused(images, masks, tmp_path, capsys):
    for name in (images, masks):
        (tmp_path / name).mkdir(parents=True)
    assert train.main(arguments(tmp_path, tmp_path)) == 2
    assert 'holds images with masks' in (error := capsys.readouterr().err) and 'rexnetv1_unet_1_0' in error


def test_two_folders_of_masks_are_still_masks(tmp_path, capsys):
    for name in ('images', 'masks', 'labels'):
        (tmp_path / 'train' / name).mkdir(parents=True)
    assert train.main(arguments(tmp_path, tmp_path)) == 2
    assert 'holds images with masks' in capsys.readouterr().err


def test_options_without_effect_on_classes_are_told(class_folder, tmp_path, caplog):
    run(class_folder, tmp_path, '--aa rand-m9 --color-jitter 0.2 --seg-loss dice --recount 2 --interpolation box')
    assert sorted(message for message in caplog.messages if 'has no effect' in message) == [
        '--color-jitter has no effect with --aa, which changes colours.',
        '--recount has no effect without --reprob.', '--seg-loss has no effect on classification.']
