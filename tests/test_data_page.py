"""docs/data.md: each tree is that of the miniature on which its command trains; test_docs.py runs the commands."""
import re

import pytest
from pages import DATA, DOCS, blocks_of

from rexnet_timm.data.formats import FORMATS

PAGE = DOCS / 'data.md'
BLOCKS = blocks_of(PAGE)
EXAMPLES = {tree.title: (tree.code, code.said.get('data', '')) for tree, code in zip(BLOCKS, BLOCKS[1:], strict=False)
            if tree.language == 'text' and code.language == 'bash'}


def paths_of_tree(text: str) -> list[str]:
    """The paths of a tree below its root, as patterns with {a,b} written out; a level is two blanks."""
    paths, folders = [], []
    for line in text.splitlines()[1:]:
        depth = (len(line) - len(line.lstrip())) // 2 - 1
        folders[depth:] = [line.split()[0]]
        paths.append(''.join(folders))
    return [path for pattern in paths for path in _written_out(pattern)]


def _written_out(pattern: str) -> list[str]:
    found = re.search(r'\{(.*?)\}', pattern)
    if not found:
        return [pattern]
    # the same word throughout a path
    return [path for word in found[1].split(',') for path in _written_out(pattern.replace(found[0], word))]


def test_trees_are_written_out():
    text = 'DATA/\n  {a,b}/\n    c/\n      *.png    of {a,b}\n    {a,b}.txt\n  d.csv\n'
    assert paths_of_tree(text) == ['a/', 'b/', 'a/c/', 'b/c/', 'a/c/*.png', 'b/c/*.png', 'a/a.txt', 'b/b.txt', 'd.csv']


def test_each_tree_has_a_command_and_each_format_is_named():
    trees = [block for block in BLOCKS if block.language == 'text' and block.code.startswith(('DATA/', 'SHARDS/'))]
    assert len(EXAMPLES) == len(trees) == 23
    text = ' '.join(PAGE.read_text().split())
    assert ', '.join(f'`{name}`' for name in FORMATS) in text


@pytest.mark.parametrize('title', [title for title in EXAMPLES if title != 'Shards'])
def test_a_tree_is_that_of_its_miniature(title, tmp_path):
    text, kind = EXAMPLES[title]
    root = DATA[kind](tmp_path / 'set')
    for path in paths_of_tree(text):
        found = list(root.glob(path.rstrip('/')))
        assert found and all(entry.is_dir() == path.endswith('/') for entry in found), path
