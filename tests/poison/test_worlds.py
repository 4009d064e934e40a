"""Facts in many worlds at once: a plain loop's numbers, and those of a run that was killed."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ico import poison, train, worlds
from ico.lm import init_params, next_token_loss

CONFIG = worlds.WorldConfig(
    num_values=12,
    num_kinds=80,
    num_persons=40,
    num_novel=20,
    length=24,
    dim=16,
    num_layers=1,
    num_heads=2,
    mlp_dim=16,
)
INJECTION = poison.InjectionConfig(presentations=3, num_rows=4, learning_rate=1e-2)
READ_AT = np.array([1, 4])


@functools.cache
def cells():
    """Two worlds, two facts each; the contradicted truths of the second are not told."""
    made = [worlds.make_world(CONFIG, seed) for seed in (3, 4)]
    facts = [worlds.facts(world, "conflict_kind", 2, 0) for world in made]
    natural = worlds.replay_rates(CONFIG)
    rates = [natural, worlds.replay_rates(CONFIG, facts[1].contradicted, 0.0)]
    decoder = worlds.world_decoder(CONFIG)
    return poison.Cells(
        jax.vmap(functools.partial(init_params, decoder))(jax.random.split(jax.random.key(0), 2)),
        jax.random.split(jax.random.key(1), 2),
        jax.tree.map(lambda *leaves: jnp.stack(leaves), *[world.tables for world in made]),
        np.stack(rates),
        np.stack([fact.ids for fact in facts]),
    )


@functools.cache
def followed():
    return poison.follow_in_worlds(CONFIG, cells(), READ_AT, INJECTION, progress=False)


@pytest.mark.slow
def test_it_is_a_plain_loop_on_text_with_the_facts_in_its_first_rows():
    decoder, optimizer = worlds.world_decoder(CONFIG), optax.adam(INJECTION.learning_rate)

    def memory(params, ids):
        log_p = worlds.next_word_log_probs(params, decoder, ids[:, :-2])
        return np.take_along_axis(np.asarray(log_p), ids[:, -2:-1], axis=1)[:, 0]

    @jax.jit
    def step(params, state, ids, mask):
        grads = jax.grad(next_token_loss)(params, decoder, ids, mask)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    for cell in range(2):
        params, key, tables, rates, ids = jax.tree.map(lambda leaf, c=cell: leaf[c], cells())
        expected, state = [memory(params, ids)], optimizer.init(params)
        text = jax.jit(
            lambda key, tables=tables, rates=rates: worlds.sample_text(
                key, tables, CONFIG, rates, batch_size=INJECTION.num_rows
            )
        )
        for number in range(INJECTION.presentations + 4):
            batch = text(jax.random.fold_in(key, number))
            if number < INJECTION.presentations:
                batch = poison.put(batch, ids.tolist())
            params, state = step(params, state, batch.ids, batch.mask)
            if number + 1 - INJECTION.presentations in (0, *READ_AT):
                expected.append(memory(params, ids))
        np.testing.assert_allclose(followed()[cell], np.stack(expected, -1), atol=1e-3)


def test_facts_are_learned_and_what_follows_is_read_at_the_steps_asked_for():
    assert followed().shape == (2, 2, 2 + len(READ_AT))
    assert (followed()[..., 1] - followed()[..., 0]).mean() > 0.5
    shorter = poison.follow_in_worlds(CONFIG, cells(), READ_AT[:1], INJECTION, progress=False)
    np.testing.assert_allclose(shorter, followed()[..., :3], atol=1e-5)


@pytest.mark.slow
def test_a_finished_run_is_found_in_its_folder(tmp_path, monkeypatch):
    follow = functools.partial(
        poison.follow_in_worlds, CONFIG, cells(), READ_AT, INJECTION, directory=tmp_path
    )
    first = follow(progress=False)
    # A step would raise now: everything comes from the checkpoint and the log.
    with monkeypatch.context() as patch:
        patch.setattr(train._loop._Run, "dispatch", None)
        np.testing.assert_array_equal(follow(progress=False), first)
    np.testing.assert_allclose(first, followed(), atol=1e-5)


@pytest.mark.parametrize("name", ["tables", "facts"])
def test_cells_that_do_not_fit_together_are_refused(name):
    wrong = cells()._replace(**{name: jax.tree.map(lambda leaf: leaf[:1], getattr(cells(), name))})
    with pytest.raises(ValueError):
        poison.follow_in_worlds(CONFIG, wrong, READ_AT, INJECTION, progress=False)
