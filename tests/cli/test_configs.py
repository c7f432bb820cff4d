"""The recipes of the package: each parses and says how it is run; NAVER's recipe is NAVER's."""
import re
import shlex

import pytest
import torch
from running import ROOT
from test_classification import SEED_RECIPE
from timm.scheduler import create_scheduler_v2, scheduler_kwargs

from rexnet_timm.cli.arguments import create_train_parser, parse_train_args

CONFIGS = sorted((ROOT / 'rexnet_timm' / 'configs').glob('*.yaml'))
IMAGENET = 'rexnetv1_imagenet'


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_each_file_parses_by_the_command_in_its_head(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # found by name from everywhere
    head = path.read_text().partition('\n\n')[0]
    assert all(line.startswith('#') for line in head.splitlines())
    lines = head.replace('\\\n#', ' ').splitlines()
    (command,) = [line.strip('# ') for line in lines if f'--config {path.stem}' in line]
    options = re.fullmatch(r'(?:rexnet|torchrun --nproc_per_node \d -m rexnet_timm) train (.*)', command)[1]
    args = parse_train_args(shlex.split(options))
    assert args.data_dir or args.dataset
    assert 'Expected:' in head  # the score, or that nobody has it yet


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_an_unknown_key_is_refused_with_the_near_name(path, tmp_path):
    changed = tmp_path / path.name
    changed.write_text(path.read_text() + 'weight_decai: 0.1\n')
    with pytest.raises(ValueError, match=rf"{path.name}', line \d+: .* weight_decai. Did you mean weight_decay"):
        parse_train_args(['DATA', '--config', str(changed)])


def test_the_recipe_is_navers_command_and_the_defaults_of_its_day():
    command = parse_train_args(['/imagenet/', *SEED_RECIPE])
    recipe = parse_train_args(['/imagenet/', '--config', IMAGENET])
    defaults = create_train_parser().parse_args([])
    changed = {
        key: value for key, value in vars(recipe).items()
        if key not in ('config', 'given') and value != getattr(command, key)}
    assert changed == {
        'warmup_epochs': 3, 'warmup_lr': 1e-4, 'min_lr': 1e-5, 'cooldown_epochs': 10, 'dist_bn': '',
        'scale': [0.08, 1.0]}
    assert defaults.scale is None  # which is timm's (0.08, 1.0) for classification


def test_the_recipe_lasts_410_epochs_at_the_rates_of_its_day():
    args = parse_train_args(['/imagenet/', '--config', IMAGENET])
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=args.lr)
    scheduler, epochs = create_scheduler_v2(optimizer, updates_per_epoch=2502, **scheduler_kwargs(args, False))
    assert epochs == 410
    rates = [optimizer.param_groups[0]['lr']]
    for epoch in range(1, epochs):
        scheduler.step_update(epoch * 2502)
        scheduler.step(epoch)
        rates.append(optimizer.param_groups[0]['lr'])
    assert rates[:3] == pytest.approx([1e-4, (1e-4 * 2 + 0.5) / 3, (1e-4 + 0.5 * 2) / 3])  # warm-up, by epochs
    assert rates[3] == pytest.approx(0.5, rel=1e-3) and rates[200] == pytest.approx((0.5 + 1e-5) / 2)
    assert rates[400:] == pytest.approx([1e-5] * 10)
    assert rates[3:401] == sorted(rates[3:401], reverse=True)
