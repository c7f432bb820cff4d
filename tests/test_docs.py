"""What the pages of docs/ show runs, or says why it does not; its commands are such that the parsers take them."""
import importlib
import re
import shutil

import pytest
from pages import (
    DOCS,
    OUTWARD,
    PAGES,
    REASONS,
    Block,
    blocks_of,
    lay_out,
    needless_options,
    outside_of_blocks,
    run,
    train_in_small,
)
from pages import words_of_rexnet as after_rexnet

import rexnet_timm
from rexnet_timm.__main__ import COMMANDS
from rexnet_timm.cli.arguments import create_train_parser, parse_train_args

BLOCKS = {page: blocks_of(page) for page in PAGES}
CODE = [block for blocks in BLOCKS.values() for block in blocks if block.language in ('bash', 'python')]
OURS = [(block, words) for block in CODE if block.language == 'bash' for command in block.commands()
        if (words := after_rexnet(command))]
RUN = [page for page in PAGES if any(block.is_run for block in BLOCKS[page])]


def name(page) -> str:
    return str(page.relative_to(DOCS).with_suffix(''))


@pytest.mark.slow
@pytest.mark.parametrize('page', RUN, ids=name)
def test_a_page_runs(page, at_hand, tmp_path, monkeypatch, names_of_others):
    for package in ' '.join(block.said.get('needs', '') for block in BLOCKS[page] if block.is_run).split():
        pytest.importorskip(package, reason=f'the page uses the extra that brings {package}')
    folder = tmp_path / 'page'
    shutil.copytree(at_hand, folder, symlinks=True)
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setattr(rexnet_timm, 'train', train_in_small)
    names = {}
    ran = [block.place for block in BLOCKS[page] if block.is_run or 'file' in block.said if not run(block, names)]
    assert ran


@pytest.fixture(scope='session')
def at_hand(tmp_path_factory):
    return lay_out(tmp_path_factory.mktemp('pages'))


def faults_of(block: Block) -> list[str]:
    """Why a block is neither run nor rightly left out."""
    faults = []
    reason = block.said.get('not run')
    if reason is not None and not reason.startswith(REASONS):
        faults.append(f'left out for another reason than {REASONS}: {reason!r}')
    if block.language not in ('bash', 'python') and re.match('(ba|z)?sh|shell|console|py', block.language):
        faults.append(f'{block.language}: say bash or python')
    if block.is_run and block.language == 'bash':
        faults += [f'{command}: is not run; say why' for command in block.commands() if command.split()[0] in OUTWARD]
    if not block.language and re.search(COMMAND_LINE, block.code, re.MULTILINE):
        faults.append('a command in a block without a language')
    return faults


COMMAND_LINE = rf'^\s*(\$ |rexnet ({"|".join(COMMANDS)}) |python3? |pip install |torchrun |scripts/)'


@pytest.mark.parametrize('page', PAGES, ids=name)
def test_each_block_is_run_or_says_why_not(page):
    faults = [f'{block.place}: {fault}' for block in BLOCKS[page] for fault in faults_of(block)]
    faults += [f'{name(page)}: not in a block: {line}' for line in re.findall(
        r'^ {4}.*', outside_of_blocks(page), re.MULTILINE) if re.match(COMMAND_LINE, line)]
    assert not faults, '\n'.join(faults)


@pytest.mark.parametrize('language, code, said', [
    ('bash', 'pip install rexnet-timm\n', {}), ('sh', 'ls\n', {}), ('', 'rexnet train DATA --epochs 3\n', {}),
    ('bash', 'rexnet train DATA\n', {'not run': 'no time'}), ('console', '$ ls\n', {})])
def test_a_block_that_is_not_run_is_found(language, code, said):
    assert faults_of(Block(DOCS / 'index.md', 1, language, code, said))


def test_a_block_that_is_run_has_no_fault(tmp_path):
    page = tmp_path / 'page.md'
    page.write_text('<!-- not run: needs a GPU -->\n\n```bash\nrexnet train\n```\n'
                    '<!-- goes on -->\ntext\n```python\nx\n```\n')
    left_out, python = blocks_of(page)
    assert (left_out.said, left_out.is_run, left_out.code) == ({'not run': 'needs a GPU'}, False, 'rexnet train\n')
    assert (python.said, python.is_run, python.line) == ({}, True, 8)


@pytest.fixture(scope='module')
def a_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp('parsed')
    for path in ('RUN', 'output/train/RUN'):
        (folder / path).mkdir(parents=True)
        (folder / path / 'args.yaml').write_text('dataset: synthetic\n')
    return folder


@pytest.mark.parametrize('block, words', OURS, ids=[f'{name(block.page)}-{block.line}' for block, _ in OURS])
def test_commands_parse(block, words, a_run, monkeypatch, names_of_others):
    monkeypatch.chdir(a_run)
    if '--import' in words:
        for other in BLOCKS[block.page]:
            if 'file' in other.said:
                run(other, {})
    assert words[0] in {*COMMANDS, '--help', '--version'}, block.place
    if words[0] not in COMMANDS or '--help' in words:
        return
    if any('$' in word or word in PLACEHOLDERS for word in words):  # only the options are looked at
        assert not unknown_options(words)
    elif words[0] == 'train':
        assert parse_train_args(words[1:])
        assert says_all(block, words) or not needless_options(words[1:]), block.place
    else:
        parser = importlib.import_module(f'rexnet_timm.cli.{words[0]}').create_parser()
        assert vars(parser.parse_args(words[1:]))


def says_all(block: Block, words: list[str]) -> bool:
    """Whether a command is one that was run elsewhere or before, which is shown as it was, with defaults."""
    return name(block.page) == 'experiments' or '--config' in words or block.said.get('not run') == 'needs ImageNet'


@pytest.mark.parametrize('words, needless', [
    ('--model rexnetv1_unet_1_0 --batch-size 8 --opt nmuon --lr 1e-3', ['batch_size', 'opt']),
    ('--model rexnetv1_unet_1_0 --opt adamw --lr 1e-3', ['lr']), ('--model rexdepth_1_0 --opt adamw', ['opt']),
    ('--model rexnetv1_1_0 --batch-size 8 --opt sgd', ['opt']), ('--model rexnetv1_unet_1_0 --seed 0 --workers 2', [])])
def test_options_that_say_their_defaults_are_found(words, needless):
    assert needless_options(['DATA', *words.split()]) == needless


PLACEHOLDERS = ('ARGUMENTS', 'EPOCHS', 'RECIPE', 'SEED', '...')


def unknown_options(words: list[str]) -> list[str]:
    """Options in the words of a command that its help does not list."""
    command = importlib.import_module(f'rexnet_timm.cli.{words[0]}')
    parser = create_train_parser() if words[0] == 'train' else command.create_parser()
    listed = set(re.findall(r'--[\w-]+', parser.format_help()))
    return [word for word in words if re.fullmatch(r'--[a-z][\w-]*', word) and word not in {*listed, '--help'}]


@pytest.mark.parametrize('page', PAGES, ids=name)
def test_commands_in_the_text_have_the_options_that_they_name(page):
    commands = re.findall(r'`rexnet ([^`]+)`', outside_of_blocks(page))
    faults = [(command, unknown) for command in commands for words in [command.split()]
              if words[0] in COMMANDS and (unknown := unknown_options(words))]
    assert not faults


def test_every_name_is_on_the_page_of_names():
    listed = re.findall(r'^\.\. auto\w+:: rexnet_timm\.(\w+)$', (DOCS / 'api.md').read_text(), re.MULTILINE)
    assert sorted([*listed, '__version__']) == sorted(rexnet_timm.__all__)
    assert '`rexnet_timm.__version__`' in (DOCS / 'api.md').read_text()
    assert all(getattr(rexnet_timm, name).__doc__ for name in listed)
