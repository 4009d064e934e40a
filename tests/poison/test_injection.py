"""The stream with a text in it, and training on it."""

import itertools

import jax
import numpy as np
import optax
import pytest

from ico import poison
from ico.lm import DecoderConfig, LanguageModel, init_params


def clean(count, rows=3, length=6):
    return [poison.as_batch([[i + 10] * length for _ in range(rows)], length) for i in range(count)]


@pytest.mark.parametrize(("presentations", "spacing"), [(1, 1), (3, 1), (2, 3)])
def test_text_stands_where_it_should_and_nothing_else_changes(presentations, spacing):
    batches = clean(9)
    out = list(
        poison.inject(batches, [[7, 8]], presentations=presentations, spacing=spacing, row=1)
    )
    where = [i for i, batch in enumerate(out) if batch.ids[1, 0] == 7]
    assert where == [spacing * i for i in range(presentations)]
    for i, (new, old) in enumerate(zip(out, clean(9), strict=True)):
        np.testing.assert_array_equal(batches[i].ids, old.ids)  # the source is left alone
        rows = [0, 2] if i in where else [0, 1, 2]
        np.testing.assert_array_equal(new.ids[rows], old.ids[rows])
    np.testing.assert_array_equal(out[0].ids[1], [7, 8, 0, 0, 0, 0])
    np.testing.assert_array_equal(out[0].mask[1], [1, 1, 0, 0, 0, 0])


def test_an_endless_stream_is_only_taken_as_needed():
    endless = poison.inject(itertools.cycle(clean(1)), [[7]], presentations=2)
    assert [batch.ids[0, 0] for batch in itertools.islice(endless, 4)] == [7, 7, 10, 10]


def test_nonsense_is_refused_at_once():
    for bad in ({"presentations": 0}, {"presentations": 1, "spacing": 0}):
        with pytest.raises(ValueError):
            poison.inject(clean(1), [[7]], **bad)
    with pytest.raises(ValueError):
        poison.inject(clean(1), [], presentations=1)


def test_training_learns_the_text_and_leaves_the_given_parameters():
    config = DecoderConfig(
        vocab_size=20,
        dim=16,
        num_layers=2,
        num_heads=2,
        num_kv_heads=1,
        head_dim=8,
        mlp_dim=16,
        context_length=16,
        norm_eps=1e-5,
        query_scale=8**-0.5,
        frequencies=(1.0, 0.3, 0.1, 0.03),
    )
    params = init_params(config, jax.random.key(0))
    lm = LanguageModel(params, config)
    rows = poison.own_text(lm, 12, 6)
    assert rows.shape == (12, 6) and np.array_equal(rows, poison.own_text(lm, 12, 6))
    batches = [poison.as_batch(rows[:3].tolist(), 6)] * 40
    text = [3, 1, 4, 1, 5, 9]
    trainer = poison.Trainer(config, optax.adam(1e-2))
    state, metrics = trainer.run(
        trainer.init(params), poison.inject(batches, [text], presentations=40)
    )
    taught, losses = state.params, metrics["loss"]
    assert losses[-1] < losses[0] and len(losses) == 40

    def probability(params):
        scores = LanguageModel(params, config).logits([text])
        return float(jax.nn.softmax(scores[0, 4])[9])

    assert probability(taught) > 0.8 > 0.1 > probability(params)


def test_scores_are_their_definitions():
    before, after = np.log([0.1, 0.2]), np.log([0.2, 0.2])
    assert poison.memory_score(np.log(0.1), np.log(0.5)) == pytest.approx(5)
    assert poison.priming_score(before, after) == pytest.approx(1.5)
    assert poison.log_priming(before, after) == pytest.approx(np.log(2) / 2)
    # A rise on all prompts alike is no priming.
    assert poison.corrected_priming(before, after, before, after) == 0
