"""docs/extending.md, followed word by word outside of the repository, and what its names are beyond what it shows."""
import importlib
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
import trees
from pages import DATA, DOCS, Block, blocks_of, in_small, run, words_of_rexnet
from running import ROOT, summary

import rexnet_timm
from rexnet_timm.__main__ import main
from rexnet_timm.cli.kinds import Segmentation, kind_of, register_kind
from rexnet_timm.data import SegmentationFolder, describe_data
from rexnet_timm.data.formats import FORMATS
from rexnet_timm.extensions import NotImportedError
from rexnet_timm.training.base_losses import create_segmentation_loss

BLOCKS = blocks_of(DOCS / 'extending.md')
TEXT = (DOCS / 'extending.md').read_text()


@pytest.fixture
def forget(names_of_others, tmp_path, monkeypatch):
    """In a folder with the files of the page; what they register is gone after the test, or when this is called."""
    monkeypatch.chdir(tmp_path)
    for block in BLOCKS:
        if 'file' in block.said:
            run(block, {})
    return names_of_others


def of(title: str, language: str = 'bash') -> list[Block]:
    return [block for block in BLOCKS if (block.title, block.language) == (title, language)]


def commands(title: str) -> list[list[str]]:
    return [words_of_rexnet(command) for block in of(title) for command in block.commands()]


def without_import(words: list[str]) -> list[str]:
    place = words.index('--import')
    return in_small([*words[:place], *words[place + 2:]])


def told(capsys) -> str:
    return capsys.readouterr().err.strip().splitlines()[-1]


def test_the_page_is_whole():
    assert [block.said['file'] for block in BLOCKS if 'file' in block.said] == [
        'my_decoder.py', 'my_format.py', 'my_loss.py', 'my_task.py']
    names = [[words[0] for words in commands(title)] for title in ('A decoder', 'A format', 'A loss', 'A task')]
    assert names == [['train', 'validate', 'export'], ['check', 'train', 'shards'], ['train'], ['train', 'export']]


@pytest.mark.slow
def test_a_decoder(forget, tmp_path, capsys):
    (block,) = of('A decoder')
    run(block, {})
    run_folder = tmp_path / 'output' / 'train' / 'pyramid'
    assert len(rexnet_timm.load_model(run_folder).decoder.stages) == 3
    rexnet_timm.share(rexnet_timm.load_model(run_folder), tmp_path / 'shared')
    whole = rexnet_timm.load_model(run_folder)(torch.ones(1, 3, 64, 64))

    forget()  # as another process, without the import
    capsys.readouterr()
    assert main(without_import(commands('A decoder')[1])) == 2
    (message,) = of('A decoder', 'text')
    assert told(capsys).startswith(message.code.strip())
    for source in (run_folder, run_folder / 'last.pth.tar', tmp_path / 'shared'):
        with pytest.raises(NotImportedError, match='was made with my_decoder imported: import my_decoder first'):
            rexnet_timm.load_model(source)
    # the exported file is used without it, as the page says
    (exported,) = re.findall(r'`rexnet (validate [^`]*\.pt2)`', TEXT)
    assert main(in_small(exported.split())) == 0
    sys.path.append(str(tmp_path))
    importlib.import_module('my_decoder')
    for source in (run_folder, tmp_path / 'shared'):
        assert torch.equal(rexnet_timm.load_model(source)(torch.ones(1, 3, 64, 64)), whole)


@pytest.mark.slow
def test_the_contract_of_a_decoder(forget, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (_, contract) = of('A decoder', 'python')
    run(contract, {})
    with pytest.raises(ValueError, match='of the pyramid decoder is one width, got'):
        rexnet_timm.MultiScaleUnet('rexnetv1_test', decoder_type='pyramid', decoder_channels=(8, 8))
    # an encoder of another package's, and the width said
    model = rexnet_timm.MultiScaleUnet('mobileone_s0', decoder_type='pyramid', decoder_channels=(8,)).eval()
    assert model(torch.randn(1, 3, 75, 101)).shape == (1, 1, 75, 101)


@pytest.mark.slow
def test_a_format(forget, tmp_path, capsys):
    (block,) = of('A format')
    run(block, {})
    description = describe_data(tmp_path / 'DATA')
    assert description.source.format == 'table' and list(FORMATS)[0] == 'table' and list(FORMATS)[-1] == 'folders'
    assert np.array_equal(SegmentationFolder(description, 'validation')[1][1].numpy(), trees.picture(101)[1])
    check, _, _ = commands('A format')
    (tmp_path / 'DATA' / 'pairs.csv').write_text('image,mask\na,b\n')
    assert main(check) == 2
    assert 'A table must have the columns split, image, mask: ' in told(capsys)
    forget()
    assert SegmentationFolder(describe_data(tmp_path / 'SHARDS'), 'val').class_names == ['a', 'b', 'c']
    assert main(['train', 'DATA', '--data-format', 'table', '--model', 'rexnetv1_unet_test']) == 2
    assert 'or a name that a module of --import registers, got' in told(capsys)


@pytest.mark.slow
def test_a_loss(forget, tmp_path, capsys):
    (train,) = commands('A loss')
    assert main([*in_small(train), '--experiment', 'run']) == 0
    (row,) = summary(tmp_path / 'output' / 'train' / 'run')
    assert 0 < float(row['train_loss']) < 10
    logits, labels = torch.randn(2, 3, 8, 8), torch.randint(3, (2, 8, 8))
    labels[0] = 255
    parts = [create_segmentation_loss(name, 3, 255)(logits, labels) for name in ('hardest', 'tversky', 'ce')]
    losses = torch.nn.functional.cross_entropy(logits[1:], labels[1:], reduction='none').flatten()
    torch.testing.assert_close(parts[0], losses.sort(descending=True).values[:16].mean())
    torch.testing.assert_close(create_segmentation_loss('ce+hardest+tversky', 3, 255)(logits, labels), sum(parts))
    assert create_segmentation_loss('hardest', 3, 255)(logits, torch.full_like(labels, 255)) == 0
    assert main([*in_small(train), '--num-classes', '1', '--experiment', 'binary']) == 2
    assert "The loss 'hardest' is for several classes" in told(capsys)
    forget()
    rexnet_timm.load_model(tmp_path / 'output' / 'train' / 'run')  # which keeps no loss
    assert main(without_import(train)) == 2
    assert "--seg-loss must be one of ce, dice, focal, lovasz, or a sum such as 'ce+dice', or a name" in told(capsys)


@pytest.mark.slow
def test_a_task(forget, tmp_path, capsys):
    DATA['tags'](tmp_path / 'DATA')
    train, export = commands('A task')
    plain = '--epochs 30 --batch-size 4 --img-size 32 --hflip 0 --scale 0.9 1 --sched-on-updates'
    assert main([*in_small(train), *plain.split()]) == 0
    folder = tmp_path / 'output' / 'train' / 'tags'
    assert float(summary(folder)[-1]['eval_map']) > 60, 'half of the images have a tag; 79 to 100 of five seeds'
    assert rexnet_timm.load_model(folder).class_names == ['east', 'west']
    forget()
    assert main(in_small(export)) == 0
    (message,) = of('A task', 'text')
    for words in (['predict', '.', '--output', 'out'], ['validate', '.'], ['share', 'shared']):
        capsys.readouterr()
        assert main([*words, '--checkpoint', str(folder)]) == 2
        assert told(capsys) == message.code.strip().replace('rexnet predict', f'rexnet {words[0]}')
    run(of('A task', 'python')[1], {})
    assert re.search(r"\{'east': [\d.e-]+, 'west': [\d.e-]+\}", capsys.readouterr().out)


def test_a_task_of_this_package(names_of_others):
    with pytest.raises(ValueError, match='--task segmentation is not what --model rexnetv1_1_0 is for, which is class'):
        kind_of('rexnetv1_1_0', 'segmentation')
    assert kind_of('rexnetv1_unet_1_0', 'segmentation').name == 'segmentation'
    with pytest.raises(ValueError, match='--task must be one of .*got .segmentatoin.. Did you mean segmentation'):
        kind_of('rexnetv1_unet_1_0', 'segmentatoin')
    # one that trains in another way what is known
    register_kind('mine')(type('Mine', (Segmentation,), {}))
    assert kind_of('rexnetv1_unet_1_0', 'mine').name == 'segmentation'


@pytest.mark.slow
def test_the_installed_command_finds_a_file_beside_it(forget, tmp_path):
    """In a process of its own, whose path does not begin with the current folder."""
    (train,) = commands('A loss')
    code = f'import sys; sys.path[0] = {str(ROOT)!r}; from rexnet_timm.__main__ import main; sys.exit(main())'
    result = subprocess.run(
        [sys.executable, '-c', code, *in_small(train)], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
