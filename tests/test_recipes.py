"""docs/recipes.md: each command, with its own words but for sizes, epochs and paths, learns a miniature of its data."""
import re
import shlex
from pathlib import Path

import pytest
import timm
import torch
from pages import DATA, DOCS, blocks_of, in_small, words_of_rexnet
from running import summary

from rexnet_timm.__main__ import main
from rexnet_timm.cli.arguments import parse_train_args

TEXT = (DOCS / 'recipes.md').read_text()
BLOCKS = [block for block in blocks_of(DOCS / 'recipes.md') if block.language == 'bash']
# the kind of data, the sizes of batch and epochs here, and the score that it must reach at least
RECIPES = {
    'Small data': ('flat', '--batch-size 4 --crops-per-image 12 --epochs 3', 'eval_miou', 60),
    'Many classes': ('ade20k', '--batch-size 4 --crops-per-image 16 --epochs 4', 'eval_iou_name 1', 30),
    'Classes of few pixels': ('named', '--batch-size 4 --crops-per-image 16 --epochs 4', 'eval_miou', 50),
    'Binary masks': ('binary', '--batch-size 2 --epochs 12', 'eval_iou_foreground', 60),
    'Microscopy and medical images of 16 bits': (
        '16-bit', '--batch-size 4 --crops-per-image 12 --epochs 3', 'eval_iou_foreground', 60),
    'Aerial images': ('bands', '--batch-size 4 --crops-per-image 24 --epochs 2', 'eval_miou', 50),
    'Depth': ('depth', '--batch-size 2 --epochs 8', 'eval_abs_rel', None),  # which has to fall
    'Classes of images': ('classes', '--batch-size 4 --epochs 8', 'train_loss', None)}


def test_each_recipe_is_tried():
    assert [block.title for block in BLOCKS] == list(RECIPES)
    for block in BLOCKS:
        assert RECIPES[block.title][0] == block.said.get('data', RECIPES[block.title][0])
        words = words_of_rexnet(block.commands()[0])
        args = parse_train_args(words[1:])
        assert args.experiment and args.epochs >= 30


def test_the_table_of_defaults_is_that_of_the_parser():
    (table,) = re.findall(r'^## What need not be said\n.*?\n(\| .*?)\n\n', TEXT, re.DOTALL | re.MULTILINE)
    rows = [[cell.strip() for cell in line.strip('|').split('|')] for line in table.splitlines()[2:]]
    for column, model in enumerate(('rexnetv1_unet_1_0', 'rexdepth_1_0', 'rexnetv1_1_0'), 1):
        args = parse_train_args(['DATA', '--model', model])
        with_adamw = parse_train_args(['DATA', '--model', model, '--opt', 'adamw'])
        taken = {
            '`--batch-size`': args.batch_size, '`--epochs`': args.epochs, '`--opt`': f'`{args.opt}`',
            '`--lr`': 'by `--lr-base`' if args.lr is None else short(args.lr) if args.opt == 'adamw' else
            f'{short(args.lr)}; of `adamw` {short(with_adamw.lr)}',
            '`--weight-decay`': short(args.weight_decay),
            '`--sched`': f'`{args.sched}`, after each {"update" if args.sched_on_updates else "epoch"}',
            '`--warmup-epochs`, `--warmup-lr`': f'{args.warmup_epochs}, {short(args.warmup_lr)}',
            '`--seg-loss`': f'`{args.seg_loss}`' if column == 1 else ''}
        assert {row[0]: row[column] for row in rows} == {name: str(value) for name, value in taken.items()}


def short(value: float) -> str:
    """As people write it: 0.01, 2e-3."""
    return f'{value:g}' if value >= 0.01 else f'{value:.0e}'.replace('e-0', 'e-')


@pytest.mark.slow
@pytest.mark.parametrize('title', RECIPES)
def test_a_recipe_learns(title, tmp_path, monkeypatch):
    kind, sizes, score, least = RECIPES[title]
    monkeypatch.chdir(tmp_path)
    DATA[kind](tmp_path / 'DATA')
    (command,) = [block.commands()[0] for block in BLOCKS if block.title == title]
    words = with_weights(in_small(words_of_rexnet(command)), tmp_path)
    assert main([*words, *shlex.split(sizes), '--log-interval', '1000']) == 0
    rows = summary(Path('output', 'train', parse_train_args(words[1:]).experiment))
    scores = [float(row[score]) for row in rows]
    assert scores[-1] < scores[0] if least is None else max(scores) > least, scores


def with_weights(words: list[str], folder: Path) -> list[str]:
    """Published weights are a file here, of a network as small as the others."""
    torch.manual_seed(0)
    torch.save(timm.create_model('rexnetv1_test').state_dict(), folder / 'weights.pth')
    place = words.index('--pretrained') if '--pretrained' in words else len(words)
    return [*words[:place], '--pretrained-path', str(folder / 'weights.pth'), *words[place + 1:]] \
        if place < len(words) else words
