"""Random numbers that follow from a place in a run."""
import random

import numpy as np
import torch

from rexnet_timm.seeds import seed_everything, seed_of, seeded


def draw() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def test_what_is_drawn_follows_from_the_place():
    places = [(1, 2, 3), (1, 2, 4), (3, 2, 1), (0, 0, 0), (0, 0, 0, 0, 0), (1, 2, 3, 0, 0), (1, 2, 3, 0, 1)]
    drawn = {}
    for place in places:
        seed_everything(*place)
        drawn[place] = draw()
    assert len(set(drawn.values())) == len(places)
    for place in reversed(places):
        seed_everything(*place)
        assert draw() == drawn[place]
        with seeded(*place):
            assert draw() == drawn[place]
    assert 0 <= seed_of(7) < 2 ** 32


def test_a_seeded_block_leaves_the_states_as_they_were():
    seed_everything(5)
    expected = [draw(), draw()]
    seed_everything(5)
    found = [draw()]
    with seeded(1, 2):
        draw()
    assert [*found, draw()] == expected
