import ctypes
import logging
import os
from tempfile import TemporaryDirectory

# huggingface_hub reads these when it is imported: no test reaches out, or depends on what was fetched before
_hub_cache = TemporaryDirectory(prefix='hub-cache-')
os.environ['HF_HUB_CACHE'] = _hub_cache.name
os.environ['HF_HUB_OFFLINE'] = '1'
# Before torch is imported, and for the processes that tests start: the networks of the tests are so small that threads
# cost more than they bring, and threads that wait for each other on busy cores hardly move on.
os.environ['OMP_NUM_THREADS'] = '1'

import pytest  # noqa: E402


@pytest.fixture(autouse=True)
def own_log():
    """A command logs to the standard error of its test, which is closed after it: no handler outlives the test."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture(autouse=True)
def given_back(request):
    """What a large network has left free goes back to the system, for the tests that run beside."""
    yield
    if request.node.get_closest_marker('slow') and hasattr(_LIBC, 'malloc_trim'):
        _LIBC.malloc_trim(0)


_LIBC = ctypes.CDLL(None) if os.name == 'posix' else None
