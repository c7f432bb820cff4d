"""What is told of the package in several files is told alike, and what it needs at run time goes into it."""
import ast
import configparser
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path, PurePath

import pytest
import yaml
from oldest import lower_bounds
from running import ROOT

import rexnet_timm

PACKAGE = ROOT / 'rexnet_timm'
SETUP = configparser.ConfigParser()
SETUP.read(ROOT / 'setup.cfg')
WORKFLOWS = sorted((ROOT / '.github' / 'workflows').glob('*.yml'))
NOT_FOR_USERS = {'all', 'browser', 'dev', 'docs'}  # tests in a browser, development, the pages
needs_clone = pytest.mark.skipif(not (ROOT / '.github').is_dir(), reason='a source distribution leaves out .github')


def lines(section: str, option: str) -> list[str]:
    return [line.strip() for line in SETUP[section][option].splitlines() if line.strip()]


def test_the_release_is_told_alike():
    heading = re.search(r'^## (\S+) \((.*)\)$', (ROOT / 'CHANGELOG.md').read_text(), re.MULTILINE)
    citation = yaml.safe_load((ROOT / 'CITATION.cff').read_text())
    assert heading.groups() == (rexnet_timm.__version__, citation['date-released'])
    assert citation['version'] == rexnet_timm.__version__
    if '.dev' not in rexnet_timm.__version__:
        assert re.fullmatch(r'\d{4}-\d{2}-\d{2}', heading[2])


def test_the_paper_is_cited():
    citation = yaml.safe_load((ROOT / 'CITATION.cff').read_text())
    (paper,) = citation['references']
    assert paper['authors'][0]['family-names'] == 'Han' and paper['title'] in (ROOT / 'NOTICE').read_text().replace(
        '\n    ', ' ')


def takes(pattern: str, file: str) -> bool:
    """Whether setuptools takes a file by a pattern, whose * stands for no folder."""
    return pattern.count('/') == file.count('/') and PurePath(file).match(pattern)


def test_every_file_that_is_needed_goes_into_the_package():
    patterns = [pattern.strip() for pattern in SETUP['options.package_data']['rexnet_timm'].split(',')]
    files = [str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob('*')
             if path.is_file() and path.suffix != '.py' and '__pycache__' not in path.parts]
    assert 'py.typed' in files
    assert [file for file in files if not any(takes(pattern, file) for pattern in patterns)] == []
    assert all(any(takes(pattern, file) for file in files) for pattern in patterns), 'a pattern without a file'


def test_all_is_the_sum_of_what_users_install():
    (line,) = lines('options.extras_require', 'all')
    assert set(re.fullmatch(r'rexnet-timm\[(.*)\]', line)[1].split(',')) == \
        set(SETUP['options.extras_require']) - NOT_FOR_USERS


def test_extras_in_messages_are_there():
    told = {name for path in PACKAGE.rglob('*.py') for names in re.findall(r'rexnet-timm\[([\w,]+)\]', path.read_text())
            for name in names.split(',')}
    assert told and told <= set(SETUP['options.extras_require'])


def test_lower_bounds():
    text = ('[options]\ninstall_requires =\n  torch >= 2.6\n  a>=1\n'
            '[options.extras_require]\nx =\n  b >= 3.1\n  c\n  d[e]\n')
    assert lower_bounds(text) == {'torch': '2.6', 'a': '1', 'b': '3.1'}
    with pytest.raises(ValueError, match="must be NAME >= RELEASE, got 'torch'"):
        lower_bounds(text.replace('torch >= 2.6', 'torch'))
    with pytest.raises(ValueError, match='a must have one lower bound, got 1 and 2'):
        lower_bounds(text.replace('b >= 3.1', 'a >= 2'))
    assert set(lower_bounds((ROOT / 'setup.cfg').read_text())) > {
        'torch', 'torchvision', 'timm', 'segmentation-models-pytorch', 'numpy'}


@needs_clone
def test_the_workflows_know_what_is_claimed():
    jobs = {name: job for path in WORKFLOWS for name, job in yaml.safe_load(path.read_text())['jobs'].items()}
    assert jobs.keys() >= {'tests', 'oldest', 'docs', 'wheel'}
    claimed = re.findall(r'Python :: (3\.\d+)', SETUP['metadata']['classifiers'])
    assert jobs['tests']['strategy']['matrix']['python'] == claimed
    assert SETUP['options']['python_requires'] == f'>={claimed[0]}'
    (oldest,) = [step['with']['python-version'] for step in jobs['oldest']['steps'] if 'with' in step]
    assert oldest == claimed[0]
    assert f'python_version = {claimed[0]}' in (ROOT / 'setup.cfg').read_text()


@needs_clone
def test_the_forms_for_issues_ask_something():
    forms = [path for path in (ROOT / '.github' / 'ISSUE_TEMPLATE').glob('*.yml') if path.stem != 'config']
    assert {path.stem for path in forms} == {'bug', 'data', 'feature'}
    for path in forms:
        form = yaml.safe_load(path.read_text())
        names = [field['id'] for field in form['body']]
        assert form['name'] and form['description'] and len(set(names)) == len(names)
        assert any(field.get('validations', {}).get('required') for field in form['body'])
        assert all(field['type'] in ('textarea', 'input') and field['attributes']['label'] for field in form['body'])


def module_of(value: object) -> str:
    return getattr(value, '__module__', None) or ''


def test_types_are_checked_where_public_names_come_from():
    checked = {name.strip().rstrip(',') for name in lines('mypy', 'files')}
    assert all((ROOT / name).is_file() for name in checked)
    sources = {module_of(getattr(rexnet_timm, name)) for name in rexnet_timm.__all__ if name != '__version__'}
    sources |= {'rexnet_timm.version', 'rexnet_timm.errors'}
    files = {name: ROOT / name.replace('.', '/') for name in sources}
    paths = {
        (path / '__init__.py' if path.is_dir() else path.with_suffix('.py')).relative_to(ROOT).as_posix()
        for path in files.values()}
    assert paths == checked
    assert SETUP['mypy']['disallow_untyped_defs'] == SETUP['mypy']['check_untyped_defs'] == 'True'


def untyped(source: str) -> list[str]:
    """Functions that lack the type of an argument or of what they return."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            own = node.args
            arguments = [*own.posonlyargs, *own.args, *own.kwonlyargs, *filter(None, (own.vararg, own.kwarg))]
            missing = [a.arg for a in arguments if a.annotation is None and a.arg not in ('self', 'cls')]
            if missing or (node.returns is None and node.name != '__init__'):
                found.append(node.name)
    return found


def test_every_function_says_its_types():
    assert untyped('def f(a, b: int) -> int: ...\ndef g(a: int): ...\ndef h(*a: int, **b) -> None: ...') == [
        'f', 'g', 'h']
    assert {str(path): names for path in PACKAGE.rglob('*.py') if (names := untyped(path.read_text()))} == {}


def test_ignored_types_are_few_and_said():
    ignored = [line for path in PACKAGE.rglob('*.py') for line in path.read_text().splitlines()
               if 'type: ignore' in line]
    assert len(ignored) <= 2
    assert all(re.search(r'type: ignore\[[\w-]+\]  # \w', line) for line in ignored)


@pytest.mark.slow
def test_the_package_is_built_with_everything(tmp_path: Path):
    pytest.importorskip('build', reason='the extra [dev] builds the package')
    subprocess.run(
        [sys.executable, '-m', 'build', '--quiet', '--no-isolation', '--outdir', str(tmp_path), str(ROOT)], check=True,
        capture_output=True, timeout=600)
    (wheel,), (source,) = tmp_path.glob('*.whl'), tmp_path.glob('*.tar.gz')
    tree = {str(path.relative_to(ROOT)) for path in PACKAGE.rglob('*')
            if path.is_file() and '__pycache__' not in path.parts}
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    told = {name for name in names if '.dist-info/' in name}
    assert names - told == tree
    assert {PurePath(name).name for name in told} > {'LICENSE', 'NOTICE', 'METADATA', 'entry_points.txt'}
    with tarfile.open(source) as archive:
        names = {name.partition('/')[2] for name in archive.getnames()}
    assert names > tree | {
        'setup.py', 'Makefile', 'CITATION.cff', 'LICENSE', 'NOTICE', 'tests/running.py', 'tests/smoke.sh',
        'docs/data.md', 'docs/notebooks/own_data.ipynb', 'scripts/train.py'}
    assert not any('.venv' in name or '__pycache__' in name for name in names)
