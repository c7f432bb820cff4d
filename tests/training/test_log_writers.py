"""Numbers for other tools: they arrive, and what fails is told once and leaves the run alone."""
import io
import sys
import types

import numpy as np
import pytest
import torch
from PIL import Image

from rexnet_timm.training.log_writers import TOOLS, LogWriters, require_tools
from rexnet_timm.training.pace import Pace, peak_memory


class Run:
    """What `init` of W&B and of Trackio returns, as far as it is used."""

    def __init__(self, fails: bool = False) -> None:
        self.logged, self.finished, self.fails = [], False, fails

    def log(self, values: dict, step: int) -> None:
        if self.fails:
            raise ConnectionError('no network')
        self.logged.append((step, values))

    def finish(self) -> None:
        self.finished = True


@pytest.fixture
def packages(monkeypatch):
    """Stand-ins for W&B and Trackio, by name."""
    found = {}
    for tool in ('wandb', 'trackio'):
        package = types.ModuleType(tool)
        package.run, package.given, package.Image = Run(), {}, lambda picture: ('picture', picture.size)
        package.init = lambda package=package, **given: package.given.update(given) or package.run
        monkeypatch.setitem(sys.modules, tool, package)
        found[tool] = package
    return found


def test_numbers_and_arguments_arrive(packages, tmp_path):
    with LogWriters(['wandb', 'trackio'], str(tmp_path / 'first'), {'lr': 0.1}) as log:
        log.add(0, {'eval_miou': 1.5})
        log.add(1, {'eval_miou': 2.5})
        log.add_pictures(1, {'predictions': Image.new('RGB', (4, 2))})
        log.add_pictures(2, {})
    for package in packages.values():
        assert package.run.logged == [
            (0, {'eval_miou': 1.5}), (1, {'eval_miou': 2.5}), (1, {'predictions': ('picture', (4, 2))})]
        assert package.run.finished
        assert package.given['name'] == 'first' and package.given['config'] == {'lr': 0.1}


def test_what_fails_is_told_once(packages, tmp_path, caplog):
    packages['wandb'].run = Run(fails=True)

    def refuse(**given):
        raise OSError('not allowed')

    packages['trackio'].init = refuse
    with LogWriters(['wandb', 'trackio'], str(tmp_path)) as log:
        for epoch in range(3):
            log.add(epoch, {'lr': 1.})
    texts = [record.getMessage() for record in caplog.records]
    assert texts == [
        'The log for trackio has failed and ends here; the run goes on. (OSError: not allowed)',
        'The log for wandb has failed and ends here; the run goes on. (ConnectionError: no network)']


def test_a_missing_package_is_named(monkeypatch):
    for tool in TOOLS:
        monkeypatch.setitem(sys.modules, tool, None)
        with pytest.raises(ValueError, match=rf"^A log for {tool} needs its package.*'rexnet-timm\[log\]'$"):
            require_tools([tool])
    require_tools([])


def test_tensorboard_reads_what_is_written(tmp_path):
    pytest.importorskip('tensorboard', reason='needs the extra log')
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    picture = Image.fromarray(np.arange(24, dtype=np.uint8).reshape(2, 4, 3))
    with LogWriters(['tensorboard'], str(tmp_path)) as log:
        log.add(0, {'eval_miou': 1.5, 'lr': float('nan')})
        log.add(1, {'eval_miou': 2.5, 'lr': 0.1})
        log.add_pictures(1, {'predictions': picture})
    events = EventAccumulator(str(tmp_path / 'tensorboard'))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars('eval_miou')] == [(0, 1.5), (1, 2.5)]
    (event,) = events.Images('predictions')
    assert event.step == 1
    assert np.array_equal(np.array(Image.open(io.BytesIO(event.encoded_image_string))), np.array(picture))


def test_the_pace_is_that_of_the_batches(monkeypatch):
    now = [0.]
    monkeypatch.setattr('time.perf_counter', lambda: now[0])

    def batches():
        for number in range(4):
            now[0] += 1  # read
            yield number

    pace = Pace(100, torch.device('cpu'))
    for number in pace.timed(batches()):
        now[0] += 3  # trained on
        text = pace.text()
        assert text.startswith('4.000 s/batch  25% waiting for data  ')
        assert text.endswith(f'0:{(99 - number) * 4 // 60:02}:{(99 - number) * 4 % 60:02} left')
    assert 1e7 < peak_memory(torch.device('cpu')) < 1e11
