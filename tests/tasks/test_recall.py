"""Recall: equal keys have equal values, and questions are asked where the answer stood before."""

import jax
import numpy as np
import pytest

from ico.tasks import Recall, recall

draw = jax.jit(recall, static_argnums=1)


@pytest.mark.parametrize("fuzzy", [False, True])
@pytest.mark.parametrize("noise", [0.0, 0.4])
def test_values_follow_from_keys(fuzzy, noise):
    config = Recall(5, 40, 3, 7, noise=noise, num_noise=4, fuzzy=fuzzy)
    tokens, targets, mask, _ = draw(jax.random.key(0), config)
    W = config.slot_width
    slots = np.asarray(tokens).reshape(5, 40, W)
    np.testing.assert_array_equal(targets[:, :-1], tokens[:, 1:])
    asked = np.asarray(mask).reshape(5, 40, W)
    assert not asked[..., : W - 2].any() and not asked[..., W - 1].any()
    noisy = 0
    for sequence, questions in zip(slots, asked[..., W - 2], strict=True):
        known: dict = {}
        for slot, question in zip(sequence, questions, strict=True):
            if slot[0] >= 10:  # noise, all of the slot
                assert (slot >= 10).all() and (slot < 14).all() and not question
                noisy += 1
                continue
            key, value = tuple(slot[:-1]), slot[-1]
            assert all(part < 3 for part in key) and 3 <= value < 10
            assert question == (key in known)
            assert known.setdefault(key, value) == value
    assert (noisy > 0) == (noise > 0)


def test_every_sequence_has_values_of_its_own():
    tokens = np.asarray(draw(jax.random.key(1), Recall(50, 8, 1, 16))[0])
    assert len(set(tokens[:, 1])) > 8


@pytest.mark.parametrize("changes", [{"num_keys": 0}, {"noise": 1.0}, {"num_slots": -1}])
def test_wrong_settings_are_refused(changes):
    with pytest.raises(ValueError, match=next(iter(changes))):
        Recall(**changes)
