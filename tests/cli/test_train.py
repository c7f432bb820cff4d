"""`rexnet train` as a user calls it, on small data."""
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from running import ROOT, distributed, summary, write_class_folder

from rexnet_timm.cli import train
from rexnet_timm.cli.arguments import create_train_parser, parse_train_args
from rexnet_timm.cli.kinds import kind_of
from rexnet_timm.data import SyntheticShapes
from rexnet_timm.files import load_checkpoint_file

CAMVID = ROOT.parent / 'shared' / 'data' / 'camvid'


@pytest.fixture
def mask_folder(tmp_path) -> Path:
    """Images with masks whose label is the image's brightness; 255 is to be ignored."""
    root, rng = tmp_path / 'masks', np.random.default_rng(0)
    for split, number in (('train', 8), ('val', 3)):
        (root / split).mkdir(parents=True)
        (root / f'{split}annot').mkdir()
        for index in range(number):
            labels = rng.integers(0, 3, (4, 5), dtype=np.uint8).repeat(16, 0).repeat(16, 1)
            image = (labels * 100)[..., None] + rng.integers(0, 40, (64, 80, 3), dtype=np.uint8)
            labels[:4] = 255
            Image.fromarray(image.astype(np.uint8)).save(root / split / f'{index}.png')
            Image.fromarray(labels).save(root / f'{split}annot' / f'{index}.png')
    return root


def mask_arguments(folder: Path, tmp_path: Path, *args: str) -> list[str]:
    return [str(folder), *(
        '--model multiscaleunet --encoder-name rexnetv1_test --num-classes 3 --ignore-index 255 --val-split val '
        '--img-size 64 --batch-size 4 --workers 0 --opt adamw --lr 3e-3 --warmup-epochs 0 --epochs 2 --device cpu '
        '--experiment run').split(), '--output', str(tmp_path), *args]


def test_segmentation_trains_on_two_processes(mask_folder, tmp_path):
    result = distributed(2, *mask_arguments(mask_folder, tmp_path, '--batch-size', '2'), cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert 'FutureWarning' not in result.stderr  # of timm's call of DistributedDataParallel
    rows = summary(tmp_path / 'run')
    assert len(rows) == 2
    assert {'train_loss_scale_4', 'eval_miou', 'eval_mdice', 'eval_pixel_acc', 'eval_iou_class 2'} <= rows[0].keys()


def test_segmentation_learns_and_resumes(mask_folder, tmp_path):
    arguments = mask_arguments(mask_folder, tmp_path, '--scale', '1', '1', '--color-jitter', '0')
    assert train.main([*arguments, '--epochs', '10']) == 0
    rows = summary(tmp_path / 'run')
    assert float(rows[-1]['train_loss']) < 0.8 * float(rows[0]['train_loss'])
    last = str(tmp_path / 'run' / 'last.pth.tar')
    assert train.main([*arguments, '--epochs', '12', '--resume', last]) == 0
    assert [row['epoch'] for row in summary(tmp_path / 'run')] == [str(epoch) for epoch in range(12)]


def test_a_finished_run_is_left_as_it_is(mask_folder, tmp_path, caplog):
    arguments = mask_arguments(mask_folder, tmp_path, '--epochs', '1')
    assert train.main(arguments) == 0
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / 'run').iterdir()}
    with caplog.at_level('INFO', 'rexnet_timm.cli.train'):
        assert train.main([*arguments, '--resume', str(tmp_path / 'run' / 'last.pth.tar')]) == 0
    assert 'Nothing to train: 1 of 1 epochs are done; --epochs asks for more' in caplog.messages
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / 'run').iterdir()} == before


def test_the_built_in_set_trains(tmp_path):
    assert train.main(
        ['--dataset', 'synthetic', '--synthetic-images', '16', *mask_arguments(tmp_path, tmp_path)[1:],
         '--num-classes', '6', '--epochs', '1']) == 0
    assert 'eval_iou_background' in summary(tmp_path / 'run')[0]


def depth_arguments(tmp_path: Path, *args: str) -> list[str]:
    return [*(
        '--dataset synthetic-depth --synthetic-images 16 --model rexdepth --rex-width-mult 0.25 --rex-depth-mult 0.2 '
        '--input-size 3 32 48 --min-depth 1 --max-depth 60 --batch-size 8 --workers 0 --opt adamw --lr 3e-3 '
        '--warmup-epochs 0 --epochs 2 --device cpu --experiment run').split(), '--output', str(tmp_path), *args]


def test_depth_trains_keeps_the_lowest_error_and_resumes(tmp_path):
    assert train.main(depth_arguments(tmp_path, '--epochs', '4')) == 0
    rows = summary(tmp_path / 'run')
    assert {'train_loss_scale_3', 'train_loss_smooth', 'eval_abs_rel', 'eval_rmse', 'eval_delta3'} <= rows[0].keys()
    assert float(rows[-1]['train_loss']) < float(rows[0]['train_loss'])
    best = load_checkpoint_file(tmp_path / 'run' / 'model_best.pth.tar')['metric']
    assert best == pytest.approx(min(float(row['eval_abs_rel']) for row in rows))
    last = str(tmp_path / 'run' / 'last.pth.tar')
    assert train.main(depth_arguments(tmp_path, '--epochs', '5', '--resume', last)) == 0
    assert [row['epoch'] for row in summary(tmp_path / 'run')] == [str(epoch) for epoch in range(5)]


def test_options_of_a_depth_run(tmp_path):
    assert train.main(depth_arguments(
        tmp_path, '--epochs', '1', '--amp', '--channels-last', '--model-ema', '--scales', '1', '2', '--scale-weights',
        '1', '0.5', '--smoothness', '0.1', '--eval-metric', 'delta1', '--grad-checkpointing')) == 0
    written = yaml.safe_load((tmp_path / 'run' / 'args.yaml').read_text())
    assert (written['min_depth'], written['max_depth'], written['smoothness']) == (1, 60, 0.1)
    assert train.main(['--config', str(tmp_path / 'run' / 'args.yaml'), '--experiment', 'again']) == 0
    assert summary(tmp_path / 'again') == summary(tmp_path / 'run')


@pytest.mark.parametrize('args, message', [
    (['--dataset', 'synthetic'], 'learns depth, got --dataset synthetic: give a folder of images and depth, --dataset'),
    (['--num-classes', '3'], 'no classes, got --num-classes 3: leave it out'),
    (['--model', 'rexnetv1_unet'], 'has depth and no classes, got --model rexnetv1_unet for segmentation: pass --mod'),
    (['--model', 'rexnetv1'], 'got --model rexnetv1 for classification: pass --model rexdepth_1_0'),
    (['--max-depth', '0.5'], '--min-depth must be below --max-depth, got 1.0 and 0.5'),
    (['--smoothness', '-1'], 'smoothness must be at least 0, got -1'),
    (['--scale-weights', '1', '2'], 'got 2 weights for the 4 scales'),
    (['--in-chans', '1', '--img-size', '32'], 'RGB images, got 1 channels: take 3'),
    (['--eval-metric', 'miou'], "one of loss, abs_rel, rmse, delta1, delta2, delta3, got 'miou'"),
])
def test_mistakes_with_depth_end_with_one_line(args, message, tmp_path, capsys):
    arguments = depth_arguments(tmp_path, *args)
    if '--img-size' in args:
        start = arguments.index('--input-size')
        del arguments[start:start + 4]
    assert train.main(arguments) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if 'error' in line]
    assert line.startswith('rexnet train: error: ') and message in line


def test_a_depth_model_and_a_folder_of_masks_do_not_fit(mask_folder, tmp_path, capsys):
    assert train.main([str(mask_folder), *depth_arguments(tmp_path)[2:]]) == 2
    error = capsys.readouterr().err
    assert f'learns depth, and {str(mask_folder)!r} holds images with masks (' in error
    assert 'pass a model such as rexnetv1_unet_1_0, or name the folders by --image-dir and --depth-dir.' in error


@pytest.mark.parametrize('model', [
    ['unet', '--encoder-name', 'tu-rexnet_100'], ['fpn', '--encoder-name', 'rexnetv1_test'],
    ['rexnetv1_unet', '--rex-width-mult', '0.3', '--scales', '0', '2', '--scale-weights', '1', '0.5'],
])
def test_other_models_train_in_the_same_script(model, mask_folder, tmp_path):
    arguments = mask_arguments(mask_folder, tmp_path, '--epochs', '1')
    start = arguments.index('--model')
    del arguments[start:start + 4]  # the model and its encoder
    assert train.main([*arguments, '--model', *model]) == 0
    assert 0 <= float(summary(tmp_path / 'run')[0]['eval_miou']) <= 100


def test_options_of_a_run(mask_folder, tmp_path):
    assert train.main(mask_arguments(
        mask_folder, tmp_path, '--amp', '--channels-last', '--model-ema', '--grad-accum-steps', '2', '--clip-grad', '1',
        '--grad-checkpointing', '--seg-loss', 'ce+dice', '--scale-weights', 'same', '--sched-on-updates')) == 0
    assert len(summary(tmp_path / 'run')) == 2


@pytest.mark.skipif(not CAMVID.is_dir(), reason='needs the CamVid images of shared/data/camvid')
@pytest.mark.slow
def test_camvid_trains_on_two_processes(tmp_path):
    result = distributed(
        2, CAMVID, '--model', 'rexnetv1_unet_1_0', '--num-classes', '11', '--ignore-index', '11', '--val-split', 'val',
        '--opt', 'adamw', '--lr', '2e-3', '--warmup-epochs', '0', '--batch-size', '8', '--img-size', '96',
        '--epochs', '1', '--output', tmp_path, '--experiment', 'run', cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert float(summary(tmp_path / 'run')[0]['eval_miou']) > 5


def test_yaml_sets_defaults_and_the_command_line_wins(tmp_path):
    path = tmp_path / 'recipe.yaml'
    path.write_text('lr: 1e-3\nopt: adamw\nbatch-size: 16\namp: true\n')
    args = parse_train_args(['data', '--config', str(path), '--batch-size', '8'])
    assert (args.lr, args.opt, args.batch_size, args.amp) == (1e-3, 'adamw', 8, True)


def test_a_runs_own_arguments_repeat_it(mask_folder, tmp_path):
    assert train.main(mask_arguments(mask_folder, tmp_path)) == 0
    written = tmp_path / 'run' / 'args.yaml'
    repeated = vars(parse_train_args(['--config', str(written)]))
    first = yaml.safe_load(written.read_text())
    for key in ('model', 'lr', 'epochs', 'data_dir', 'scales', 'scale_weights', 'model_kwargs', 'device'):
        assert repeated[key] == first[key]


@pytest.mark.parametrize('name', [
    '--scales', '--scale-weights', '--scale-target', '--ignore-index', '--seg-loss', '--class-weights',
    '--rex-width-mult', '--rex-depth-mult', '--encoder-name', '--min-depth', '--max-depth', '--smoothness'])
def test_the_arguments_that_timm_does_not_have_are_explained(name):
    entry = re.search(rf'^  {name} .*(\n {{10,}}.*)*', create_train_parser().format_help(), re.MULTILINE)
    assert len(entry[0].split()) > 4, entry[0]  # the name, the value, and words on it


@pytest.mark.parametrize('args, change, message', [
    (['--model', 'rexnetv1_unet_1_O'], None, "got 'rexnetv1_unet_1_O'. Did you mean rexnetv1_unet_1_"),
    (['--encoder-name', 'rexnetv2'], None, "encoder name 'rexnetv2'. Did you mean rexnetv1"),
    (['--model', 'unet', '--encoder-name', 'rexnetv2'], None, "encoder name 'rexnetv2'. Did you mean rexnetv1"),
    (['--model', 'unet', '--rex-width-mult', '1.3'], None, '--model unet does not see --rex-width-mult: leave'),
    (['--scales', '9'], None, 'from 0 (the size of the input) to 4'),
    (['--scale-weights', 'half'], None, "same, exp, two, or numbers of at least 0, got 'half'"),
    (['--seg-loss', 'hinge'], None, "one of ce, dice, focal, lovasz"),
    (['--class-weights', '1', '2'], None, "class weights above 0, one for each class, got 2"),
    (['--batch-size', '1'], None, 'at least 2 images'),
    (['--epochs', '0'], None, '--epochs must be at least 1, got 0'),
    (['--grad-accum-steps', '0'], None, '--grad-accum-steps must be at least 1, got 0'),
    (['--log-interval', '0'], None, '--log-interval must be at least 1, got 0'),
    (['--checkpoint-hist', '0'], None, '--checkpoint-hist must be at least 1, got 0'),
    (['--drop-path', '2'], None, '--drop-path must be at least 0 and below 1, got 2.0'),
    (['--model-ema-decay', '1'], None, '--model-ema-decay must be at least 0 and below 1, got 1.0'),
    (['--clip-grad', '-1'], None, '--clip-grad must be above 0, or left out, got -1.0'),
    (['--opt', 'adamx'], None, "got 'adamx'. Did you mean adam"),
    (['--eval-metric', 'top1'], None, "--eval-metric must be one of loss, miou"),
    (['--interpolation', 'box'], None, "--interpolation must be one of nearest, bilinear, bicubic for --model"),
    (['--scale-target', 'object', '--background-classes', '3'], None, 'must be classes from 0 to 2, got 3'),
    (['--scale-weights', '1', '2'], None, '--scale-weights must have one entry for each'),
    (['--model', 'unet', '--encoder-name', 'resnet18', '--model-kwargs', 'depth=3'], None, 'has no argument depth'),
    (['--model', 'unet', '--encoder-name', 'resnet18', '--model-kwargs', 'encoder_depth=3'], None,
     "cannot be built with 'encoder_depth=3': Model depth is 3"),
    (['--model', 'unet', '--encoder-name', 'resnet18', '--encoder-weights', 'imagenet'], None,
     'The weights of --encoder-weights imagenet for --model unet cannot be fetched'),
    (['--model', 'unet', '--encoder-name', 'resnet18', '--encoder-weights', 'x'], None,
     'no --encoder-weights; --pretrained-path takes a file'),
    (['--model', 'dpt', '--encoder-name', 'tu-vit_tiny_patch16_224'], None, 'does not take images of 64 x 64'),
    (['--resume', 'gone.pth'], None, "no checkpoint 'gone.pth'"),
    (['--initial-checkpoint', 'gone.pth'], None, "no checkpoint 'gone.pth'"),
    (['--config', 'gone.yaml'], None, "no configuration file 'gone.yaml'"),
    (['--val-split', 'test'], None, 'test'),
    ([], lambda root: (root / 'trainannot' / '3.png').unlink(), '3.png'),
    ([], lambda root: (root / 'train' / '3.png').unlink(), '3.png'),
    ([], lambda root: Image.new('L', (10, 10)).save(root / 'trainannot' / '3.png'), '3.png'),
    ([], lambda root: Image.new('L', (80, 64), 7).save(root / 'trainannot' / '3.png'), '3.png'),
    (['--workers', '1'], lambda root: Image.new('L', (80, 64), 7).save(root / 'trainannot' / '3.png'), '3.png'),
    ([], lambda root: (root / 'train' / '3.png').write_bytes(b'nothing'), '3.png'),
    ([], lambda root: [path.unlink() for path in root.glob('train*/*')], 'train'),
])
def test_mistakes_end_with_one_line_that_says_what_to_do(args, change, message, mask_folder, tmp_path, capsys):
    if change is not None:
        change(mask_folder)
    assert train.main(mask_arguments(mask_folder, tmp_path, *args)) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if 'error' in line]
    assert line.startswith('rexnet train: error: ') and message in line
    assert 'Traceback' not in line


@pytest.mark.parametrize('options, told', [
    ('--drop 0.1 --gp avg', ['--drop has no effect on segmentation.', '--gp has no effect on segmentation.']),
    ('--scales 0 --fade-epochs 1 2 --scale-weights two --scale-target soft', [
        '--fade-epochs has no effect on one scale.', '--scale-weights has no effect on one scale.',
        '--scale-target has no effect without a coarse scale.']),
    ('--scales 2 --scale-target soft', []),
    ('--opt sgd --opt-betas 0.9 0.9 --opt-eps 0.1', [
        '--opt-betas has no effect on --opt sgd.', '--opt-eps has no effect on --opt sgd.']),
    ('--momentum 0.8', ['--momentum has no effect on --opt adamw.']),
    ('--sync-bn --pin-mem', ['--sync-bn has no effect on one process.', '--pin-mem has no effect on --device cpu.']),
    ('--sched none --warmup-epochs 1 --min-lr 0.1', [
        '--warmup-epochs has no effect with --sched none.', '--min-lr has no effect on --sched none.']),
    ('--interpolation bicubic --hflip 0 --seg-loss dice --clip-grad 1 --clip-mode value', []),
])
def test_options_without_effect_are_told(options, told, mask_folder, tmp_path, caplog):
    assert train.main(mask_arguments(mask_folder, tmp_path, '--epochs', '1', *options.split())) == 0
    said = [message for message in caplog.messages if 'has no effect' in message]
    assert sorted(said) == sorted([*told, *(
        ['--warmup-epochs has no effect with --sched none.'] if 'none' in options and not told else [])])


def test_a_built_in_set_takes_no_parts_and_no_ignored_label(tmp_path, caplog):
    arguments = mask_arguments(tmp_path, tmp_path, '--num-classes', '6', '--epochs', '1')[1:]
    assert train.main(['--dataset', 'synthetic', '--synthetic-images', '8', *arguments]) == 0
    said = [message for message in caplog.messages if 'has no effect' in message]
    assert said == [f'--{name} has no effect with a built-in --dataset.' for name in ('ignore-index', 'val-split')]


def test_folders_of_classes_are_refused_with_the_model_that_fits(mask_folder, tmp_path, capsys):
    write_class_folder(tmp_path / 'classes')
    assert train.main(mask_arguments(tmp_path / 'classes', tmp_path)) == 2
    assert 'holds folders of images without any: pass --model rexnetv1_1_0' in capsys.readouterr().err


@pytest.mark.parametrize('words', [[], ['--num-classes', '3']])
def test_data_that_are_not_found_come_before_their_classes(words, tmp_path, capsys):
    data = tmp_path / 'photos'
    data.mkdir()
    Image.new('RGB', (8, 8)).save(data / 'a.jpg')
    assert train.main([str(data), '--model', 'rexnetv1_unet_test', *words]) == 2
    error = capsys.readouterr().err
    assert 'No folders of images and masks for split "train"' in error and 'needed' not in error


def test_a_mistake_of_the_program_is_not_dressed_up(mask_folder, tmp_path, monkeypatch):
    def zips(*args, **kwargs):
        return list(zip([1], [1, 2], strict=True))

    def misses(*args, **kwargs):
        return {}['key']

    for name, error in ((zips, ValueError), (misses, KeyError)):
        for place in ('kinds.segmentation.create_segmentation_transform', 'kinds.segmentation.SegmentationTask',
                      'build.smp.create_model', 'kinds.dense.create_segmentation_loader', 'build.create_optimizer_v2'):
            with monkeypatch.context() as patch:
                patch.setattr(f'rexnet_timm.cli.{place}', name)
                with pytest.raises(error):
                    train.main(mask_arguments(mask_folder, tmp_path))


def test_a_typo_in_a_recipe_names_the_near_argument(tmp_path, capsys):
    path = tmp_path / 'recipe.yaml'
    path.write_text('batchsize: 16\n')
    assert train.main(['data', '--config', str(path)]) == 2
    assert "recipe.yaml', line 1: there is no option batchsize. Did you mean batch_size" in capsys.readouterr().err


def test_a_mistake_that_one_process_meets_is_told_once(mask_folder, tmp_path):
    (mask_folder / 'train' / '3.png').write_bytes(b'nothing')
    arguments = mask_arguments(mask_folder, tmp_path, '--batch-size', '2', '--epochs', '1')
    result = distributed(2, *arguments, cwd=tmp_path)
    assert result.returncode != 0
    assert result.stderr.count('rexnet train: error: ') == 1 and '3.png' in result.stderr
    assert 'Traceback' not in result.stderr + result.stdout


@pytest.mark.slow
def test_mistakes_on_several_processes_show_no_traceback(mask_folder, tmp_path):
    result = distributed(2, *mask_arguments(mask_folder, tmp_path, '--scales', '9'), cwd=tmp_path)
    assert result.returncode != 0
    assert result.stderr.count('rexnet train: error: --scales must be') == 1
    assert 'Traceback' not in result.stderr + result.stdout


def test_a_run_leaves_the_process_without_a_group():
    assert not torch.distributed.is_initialized()


@pytest.mark.parametrize('encoder, options, mean', [
    ('tu-tf_efficientnet_lite0', [], 0.5), ('tu-tf_efficientnet_lite0', ['--mean', '0.25'], 0.25),
    ('rexnetv1_test', [], 0.485), ('resnet18', [], 0.485)])
def test_images_are_normalised_as_the_encoder_was_trained(encoder, options, mean):
    args = parse_train_args([
        '--dataset', 'synthetic', '--model', 'unet', '--encoder-name', encoder, '--num-classes', '3', *options])
    description = kind_of(args.model).description(args, torch.nn.Identity(), SyntheticShapes(1, num_classes=3))
    assert description.mean[0] == mean
