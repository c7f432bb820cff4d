import ctypes
import os
import shutil
import sys
from collections.abc import Iterator
from tempfile import TemporaryDirectory

# huggingface_hub reads these when it is imported: no test reaches out, or depends on what was fetched before
_hub_cache = TemporaryDirectory(prefix='hub-cache-')
os.environ['HF_HUB_CACHE'] = _hub_cache.name
os.environ['HF_HUB_OFFLINE'] = '1'
# Before torch is imported, and for the processes that tests start: the networks of the tests are so small that threads
# cost more than they bring, and threads that wait for each other on busy cores hardly move on.
os.environ['OMP_NUM_THREADS'] = '1'

import pytest  # noqa: E402

CHROMIUM = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)
CALM = (  # a browser that asks nothing of its maker
    '--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking '
    '--disable-component-update --disable-sync').split()


@pytest.fixture(autouse=True)
def given_back(request):
    """What a large network has left free goes back to the system, for the tests that run beside."""
    yield
    if request.node.get_closest_marker('slow') and hasattr(_LIBC, 'malloc_trim'):
        _LIBC.malloc_trim(0)


@pytest.fixture
def browser() -> Iterator:
    """A real browser, of playwright."""
    if CHROMIUM is None:
        pytest.skip('there is no Chromium here')
    playwright = pytest.importorskip('playwright.sync_api', reason='needs the extra browser')
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=CALM)
        yield browser
        browser.close()


@pytest.fixture
def names_of_others():
    """What modules outside of the package register in the test is gone after it, or when this is called."""
    from rexnet_timm.cli.kinds import KINDS
    from rexnet_timm.data.formats import FORMATS
    from rexnet_timm.models.decoder import DECODERS
    from rexnet_timm.training.base_losses import LOSSES

    tables, path, modules = (KINDS, FORMATS, DECODERS, LOSSES), list(sys.path), set(sys.modules)
    before = [dict(table) for table in tables]

    def forget() -> None:
        for table, rows in zip(tables, before, strict=True):
            table.clear()
            table.update(rows)
        for name in [name for name in sys.modules if name not in modules and name.startswith('my_')]:
            del sys.modules[name]
        sys.path[:] = path

    yield forget
    forget()


_LIBC = ctypes.CDLL(None) if os.name == 'posix' else None
