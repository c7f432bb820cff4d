import pytest
import torch


@pytest.fixture(scope='session', autouse=True)
def one_thread():
    """The networks of the tests are so small that threads cost more than they bring."""
    torch.set_num_threads(1)
