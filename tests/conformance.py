#!/usr/bin/env python3
""" timm's own model tests, run on the names of this package beside timm's rexnet_100.

Every test that timm gives to rexnet_100 is given to each name, whatever list of modules or names selected it, and so
are the tests of INTERFACE, which timm runs on a few models of its choice. The measure is rexnet_100: what it passes,
each name has to pass, or the exit status is 1. The tests are a copy of tests/test_models.py out of the source
distribution of the installed timm; nothing in timm is changed.
"""
import argparse
import fnmatch
import os
import subprocess
import sys
import tarfile
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import pytest

REFERENCE = 'rexnet_100'
INTERFACE = (
    'test_reset_classifier_keeps_pool', 'test_features_only_grad_checkpointing_backward',
    'test_model_features_output_stride', 'test_prune_intermediate_layers_params_used',
    'test_prune_intermediate_layers_last_feature')
CACHE = Path(__file__).parents[1] / '.cache'


def fetch_tests(cache: Path = CACHE) -> Path:
    """The tests of the installed timm, unpacked under `cache`; returns the folder of its pyproject.toml.

    Raises:
        FileNotFoundError: The package index has no source distribution of this release, or cannot be reached.
    """
    name = f'timm-{version("timm")}'
    folder = cache / name
    if not (folder / 'pyproject.toml').is_file():
        archive = cache / f'{name}.tar.gz'
        if not archive.is_file():
            cache.mkdir(parents=True, exist_ok=True)
            result = subprocess.run(
                [sys.executable, '-m', 'pip', 'download', '--quiet', '--no-deps', '--no-binary', 'timm',
                 '--dest', str(cache), f'timm=={version("timm")}'], capture_output=True, text=True)
            if not archive.is_file():
                reason = (result.stderr.strip().splitlines() or ['it was not written'])[-1]
                raise FileNotFoundError(
                    f'The tests of timm come with its source distribution, which pip did not fetch: {reason} '
                    f'Put {archive.name} into {cache} by hand.')
        with tarfile.open(archive) as tar:
            # without the package itself, which would take the place of the installed one; pyproject.toml comes last
            for path in ('tests/__init__.py', 'tests/conftest.py', 'tests/test_models.py', 'pyproject.toml'):
                tar.extract(f'{name}/{path}', cache, filter='data')
    return folder


def architecture(name: object) -> str:
    """A model's name without the tag of its weights; '' for what is no name."""
    return name.partition('.')[0] if isinstance(name, str) else ''


class Conformance:
    """pytest plugin: gives the tests of the reference to the names as well, and keeps what came of them."""

    def __init__(self, names: Sequence[str]):
        self.names = [REFERENCE, *names]
        self.outcomes: dict[str, dict[str, str]] = {}  # test -> name -> 'passed', 'failed' or 'skipped'
        self.reasons: dict[tuple[str, str], str] = {}  # (test, name) -> why it failed

    def pytest_configure(self, config: pytest.Config) -> None:
        config.addinivalue_line('markers', 'timeout(seconds): of pytest-timeout, without effect here')

    @pytest.hookimpl(tryfirst=True)  # before pytest reads the lists
    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        for mark in metafunc.definition.iter_markers('parametrize'):
            fields = [field.strip() for field in mark.args[0].split(',')] if isinstance(mark.args[0], str) else []
            if 'model_name' in fields and isinstance(mark.args[1], list):
                position = fields.index('model_name')
                rows = [(value,) if isinstance(value, str) else tuple(value) for value in mark.args[1]]
                rows = self._rows(rows, position, metafunc.definition.originalname)
                mark.args[1][:] = [row[0] if len(fields) == 1 else row for row in rows]

    def _rows(self, rows: list[tuple], position: int, test: str) -> list[tuple]:
        ours = [row for row in rows if architecture(row[position]) in self.names]
        references = [row for row in ours if row[position] == REFERENCE]
        if not references and any(architecture(row[position]) == REFERENCE for row in ours):
            return ours  # names with the tag of their weights, which are the same for no two names
        if not references and test in INTERFACE:
            references = rows[:1]
        return [
            (*row[:position], name, *row[position + 1:]) for name in self.names for row in references]

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        keep = [item for item in items if self._name(item) in self.names]
        config.hook.pytest_deselected(items=[item for item in items if item not in keep])
        items[:] = keep

    @staticmethod
    def _name(item: pytest.Item) -> str:
        return architecture(item.callspec.params.get('model_name')) if hasattr(item, 'callspec') else ''

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo):
        report = yield
        params = {key: value for key, value in item.callspec.params.items() if key != 'model_name'}
        test = item.originalname + ''.join(f' {key}={value}' for key, value in sorted(params.items()))
        name, seen = self._name(item), self.outcomes.setdefault(test, {})
        if report.when == 'call' or report.outcome != 'passed':
            # of several runs, one for each tag, the worst counts
            seen[name] = min(report.outcome, seen.get(name, report.outcome), key=('failed', 'skipped', 'passed').index)
        if report.failed:
            self.reasons[test, name] = f'{item.name}: {report.longreprtext}'
        return report

    def misses(self) -> list[tuple[str, str]]:
        """(test, name) for every test that the reference passes and a name does not."""
        return [
            (test, name) for test, seen in self.outcomes.items() if seen.get(REFERENCE) == 'passed'
            for name in self.names if seen.get(name, 'passed' if self._needs_weights(test) else 'absent') != 'passed']

    def _needs_weights(self, test: str) -> bool:
        # timm lists models with weights only for these, so that a name without weights is rightly absent
        return 'pretrained' in test

    def table(self) -> str:
        """Counts of each name and of all of ours, and what the reference does not pass."""
        counts = {name: Counter(seen[name] for seen in self.outcomes.values() if name in seen) for name in self.names}
        ours = sum((counts[name] for name in self.names[1:]), Counter())
        missed = Counter(name for _, name in self.misses())
        lines = [f'{"":24}{"passed":>8}{"failed":>8}{"skipped":>8}{f"missed of {REFERENCE}":>24}']
        for name, count, miss in [
                *((name, counts[name], missed[name]) for name in self.names), ('all of ours', ours, missed.total())]:
            lines.append(f'{name:24}{count["passed"]:8}{count["failed"]:8}{count["skipped"]:8}{miss:24}')
        for test, seen in self.outcomes.items():
            if seen.get(REFERENCE) != 'passed':
                reason = self.reasons.get((test, REFERENCE), '').strip().splitlines()[-1:]
                lines.append(f'Not asked of ours, {REFERENCE} has {seen.get(REFERENCE)}: {test} {" ".join(reason)}')
        return '\n'.join(lines)


def run(patterns: Sequence[str] = ('*',)) -> Conformance:
    """Run the tests on the backbones that match a pattern.

    Raises:
        FileNotFoundError: As :func:`fetch_tests`.
        ValueError: No backbone matches.
    """
    from rexnet_timm.models.rexnetv1 import (
        model_cfgs,  # imported late: the Hub's library reads the environment on import
    )

    names = [name for name in model_cfgs if any(fnmatch.fnmatch(name, pattern) for pattern in patterns)]
    if not names:
        raise ValueError(f'No backbone is called {" or ".join(patterns)}; there are {", ".join(model_cfgs)}.')
    folder, plugin = fetch_tests(), Conformance(names)
    pytest.main(
        [str(folder / 'tests' / 'test_models.py'), '-c', str(folder / 'pyproject.toml'), '--rootdir', str(folder),
         '-p', 'no:cacheprovider', '-q', '--tb=no', '-r', 'N', '--no-header', '--disable-warnings'], plugins=[plugin])
    return plugin


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; returns its exit status: 1 where a name misses a test, 2 where there are no tests to run."""
    parser = argparse.ArgumentParser(description="timm's own model tests on the names of this package.")
    parser.add_argument('names', nargs='*', default=['*'], metavar='NAME', help='backbones or patterns (default: all)')
    parser.add_argument('--online', action='store_true', help='fetch weights for the tests of pretrained models')
    args = parser.parse_args(argv)
    if not args.online:
        os.environ['HF_HUB_OFFLINE'] = '1'  # or each such test waits for several attempts
    os.environ.pop('GITHUB_ACTIONS', None)  # timm leaves tests out there
    try:
        plugin = run(args.names)
    except (FileNotFoundError, ValueError) as error:
        print(f'conformance.py: error: {error}', file=sys.stderr)
        return 2
    misses = plugin.misses()
    for test, name in misses:
        print(f'--- {name} {test}\n{plugin.reasons.get((test, name), plugin.outcomes[test].get(name, "not run"))}')
    print(f'timm {version("timm")}, tests/test_models.py\n{plugin.table()}')
    if not args.online:
        print('The tests of pretrained models ran without the Hub; --online fetches the weights for them.')
    passed = any(seen.get(REFERENCE) == 'passed' for seen in plugin.outcomes.values())
    return 1 if misses or not passed else 0


if __name__ == '__main__':
    sys.exit(main())
