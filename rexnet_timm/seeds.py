"""Random numbers without state: what is drawn at a place of a run follows from numbers that name the place.

So a run that was stopped draws on as if it had not been, and nothing has to be stored for it.
"""
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

__all__ = ['seed_everything', 'seed_of', 'seeded']


def seed_of(*place: int) -> int:
    """A seed from 0 to 2**32 - 1 that follows from numbers of at least 0.

    As many other numbers give an unrelated one. NumPy takes up to four numbers and the same with zeros behind for one
    place, so places of different kinds must not differ in that alone.
    """
    return int(np.random.SeedSequence(place).generate_state(1, np.uint32)[0])


def seed_everything(*place: int) -> None:
    """Seed torch on all devices, NumPy and Python by a place."""
    seed = seed_of(*place)
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)


@contextmanager
def seeded(*place: int) -> Iterator[None]:
    """Seed torch on the CPU, NumPy and Python by a place for a block, and leave their states as they were found."""
    seed, state, numpy_state = seed_of(*place), random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(numpy_state)
            random.setstate(state)
