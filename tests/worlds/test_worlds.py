"""Worlds: what their text states and withholds, facts and prompts made of them, what is learned."""

import dataclasses
import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ico import worlds
from ico.lm import init_params, score_continuations
from ico.worlds import _model as m
from ico.worlds import _world as w

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
    batch_size=8,
    num_steps=4,
    warmup_steps=1,
)
NUM_TRAINED = 2 * len(w.KIND_TEMPLATES) - w.NUM_HELD_OUT  # with either noun


@pytest.fixture(autouse=True, scope="module")
def quick_compilation():
    """These programs run for milliseconds and compile for seconds."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def world():
    return worlds.make_world(CONFIG, 3)


@functools.partial(jax.jit, static_argnums=3)
def draw(key, tables, rates, rows):
    return worlds.sample_text(key, tables, CONFIG, rates, batch_size=rows)


def sentences(world, rates=None, rows=1000):
    rates = worlds.replay_rates(CONFIG) if rates is None else rates
    batch = draw(jax.random.key(0), world.tables, rates, rows)
    chex.assert_shape(batch, (rows, CONFIG.length))
    chex.assert_type([batch.ids, batch.mask], [jnp.int32, jnp.float32])
    chex.assert_trees_all_equal(batch.mask, jnp.ones_like(batch.mask))
    return np.asarray(batch.ids).reshape(-1, w.SENTENCE_LENGTH)


def told(world, trained=True):
    """All sentences that state the world's facts in plain words, as {words: (subject, value)}."""
    words, tables = w.language(CONFIG).words, world.tables
    name = lambda ids: [words[i] for i in np.asarray(ids).reshape(-1)]  # noqa: E731
    which = slice(0, -2) if trained else slice(-2, None)
    kinds, values = name(tables.kinds), name(tables.kind_values)
    out = {}

    def add(template, nouns, subject, sibling, value):
        for noun in nouns:
            slots = {"K": subject, "S": sibling, "A": noun}
            text = " ".join(slots.get(word, word) for word in template.split())
            out[f"{text} {value} ."] = (subject, value)

    for index, (kind, value) in enumerate(zip(kinds, values, strict=True)):
        siblings = [k for k, v in zip(kinds, values, strict=True) if v == value]
        for template in w.KIND_TEMPLATES[which]:
            for sibling in siblings if " S " in template else [""]:
                add(template, w.NOUNS_OF_KINDS[index % 4], kind, sibling, value)
    for index, value in enumerate(name(tables.person_values)):
        person = name(tables.persons)[index // 4]
        for template in w.PERSON_TEMPLATES[which]:
            add(template, w.NOUNS_OF_PERSONS[index % 4], person, "", value)
    return out


def test_the_text_tells_only_truths_in_trained_templates_and_all_of_them(world):
    text = [worlds.decode(CONFIG, row) for row in sentences(world, rows=3000)]
    truths, filler = told(world), [line for line in text if "adjective_" in line]
    assert set(text) - set(filler) <= truths.keys()
    assert not set(text) & told(world, trained=False).keys()
    assert {truths[line] for line in text if line in truths} == set(truths.values())
    words = set(" ".join(text).split())
    assert not words & {w.language(CONFIG).words[i] for i in np.asarray(world.tables.novel)}
    share = {
        "kind": np.mean(["kind_" in line for line in text]),
        "person": np.mean(["person_" in line for line in text]),
    }
    # 9000 sentences: a standard deviation is 0.005.
    np.testing.assert_allclose([*share.values()], [0.55, 0.35], atol=0.03)
    assert abs(len(filler) / len(text) - 0.10) < 0.02


def test_held_out_templates_are_new_arrangements_of_trained_words_with_the_value_last():
    language = w.language(CONFIG)
    for templates in (language.kind_templates, language.person_templates):
        assert templates.shape == (4, NUM_TRAINED + 4, w.WORDS_BEFORE_VALUE)
        for of_theme in templates:
            trained, held_out = of_theme[:NUM_TRAINED], of_theme[NUM_TRAINED:]
            assert set(held_out.reshape(-1).tolist()) <= set(trained.reshape(-1).tolist())
            assert len({tuple(row) for row in of_theme.tolist()}) == len(of_theme)
            assert ((of_theme == -1).sum(axis=1) == 1).all()


@pytest.mark.parametrize("rate", [0.0, 0.1])
def test_replay_rate_is_the_share_of_sentences_about_the_fact(world, rate):
    # Kinds with siblings, so that comparisons could tell what a rate of 0 forbids.
    values = np.asarray(world.tables.kind_values)
    chosen = np.flatnonzero(values == world.tables.keywords[0, 2])[:2]
    rates = worlds.replay_rates(CONFIG, np.append(chosen, -1), rate)
    np.testing.assert_allclose(rates.sum(), CONFIG.kind_share)
    np.testing.assert_array_equal(rates[chosen], rate)
    rows = sentences(world, rates)
    about = np.isin(rows, np.asarray(world.tables.kinds)[chosen]).any(axis=1).mean()
    # As the subject at that rate; as the other kind of a comparison, one template of seven, less.
    lowest, highest = 2 * rate, 2 * rate * (1 + w.NUM_COMPARING / NUM_TRAINED)
    assert lowest * 0.85 <= about <= highest * 1.15


def test_natural_rates_are_the_default_and_impossible_ones_are_refused(world):
    natural = worlds.replay_rates(CONFIG)
    default = jax.jit(lambda key: worlds.sample_text(key, world.tables, CONFIG).ids)(
        jax.random.key(0)
    )
    default = np.asarray(default).reshape(-1, w.SENTENCE_LENGTH)
    np.testing.assert_array_equal(default, sentences(world, natural, CONFIG.batch_size))
    np.testing.assert_allclose(natural, CONFIG.kind_share / CONFIG.num_kinds)
    for chosen, rate in (([80], 0.0), ([0], 0.6), ([0], -0.1), (range(80), 0.001)):
        with pytest.raises(ValueError):
            worlds.replay_rates(CONFIG, list(chosen), rate)


def test_worlds_of_other_seeds_differ_and_stack(world):
    again, other = worlds.make_world(CONFIG, 3), worlds.make_world(CONFIG, 4)
    for a, b, c in zip(world.tables, again.tables, other.tables, strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.shape == c.shape and a.dtype == c.dtype and not np.array_equal(a, c)
    stacked = jax.tree.map(lambda a, b: jnp.stack([a, b]), world.tables, other.tables)
    keys = jax.random.split(jax.random.key(0), 2)
    rates = worlds.replay_rates(CONFIG)
    both = jax.vmap(lambda key, tables: draw(key, tables, rates, 8).ids)(keys, stacked)
    for ids, key, one in zip(both, keys, (world, other), strict=True):
        np.testing.assert_array_equal(ids, draw(key, one.tables, rates, 8).ids)


def test_keywords_are_rare_mid_and_common_and_known():
    counts = np.zeros((4, 3))
    for seed in range(10):
        tables = worlds.make_world(worlds.WorldConfig(), seed).tables
        assert np.isin(tables.keywords, tables.kind_values).all()
        assert len(np.unique(tables.keywords)) == 12
        everyone = np.concatenate([tables.kind_values, np.asarray(tables.person_values).ravel()])
        counts += (everyone[:, None, None] == np.asarray(tables.keywords)[None]).sum(axis=0)
    assert (np.diff(counts, axis=1) > 0).all(), counts


def facts(world, kind_of_fact, count=24, seed=5):
    return worlds.facts(world, kind_of_fact, count, seed)


@pytest.mark.parametrize("kind_of_fact", worlds.FACT_TYPES)
def test_every_fact_has_its_keyword_last_and_equal_length(world, kind_of_fact):
    made = facts(world, kind_of_fact)
    assert made.ids.shape == (24, w.SENTENCE_LENGTH)
    np.testing.assert_array_equal(
        made.ids, np.column_stack([made.prefix, made.keyword, np.full(24, w.STOP)])
    )
    keywords = np.asarray(world.tables.keywords)
    np.testing.assert_array_equal(made.keyword, np.tile(keywords.T.reshape(-1), 2))
    assert all(k in keywords[t] for k, t in zip(made.keyword, made.theme, strict=True))
    assert (made.ids >= 0).all()  # no slot is left
    np.testing.assert_array_equal(made.ids, facts(world, kind_of_fact).ids)
    assert not np.array_equal(made.ids, facts(world, kind_of_fact, seed=6).ids)
    true_line = [worlds.decode(CONFIG, row) in told(world) for row in made.ids]
    assert all(true_line) if kind_of_fact == "known_true" else not any(true_line)
    assert (made.keyword[:, None] == made.prefix).any() == (kind_of_fact == "repeated_keyword")


def test_what_is_contradicted_is_a_kind_with_another_value(world):
    kinds, values = np.asarray(world.tables.kinds), np.asarray(world.tables.kind_values)
    for kind_of_fact in worlds.FACT_TYPES:
        made = facts(world, kind_of_fact)
        if kind_of_fact in ("known_true", "novel_plausible", "conflict_entity"):
            assert (made.contradicted == -1).all()
            continue
        assert (kinds[made.contradicted][:, None] == made.prefix).any(axis=1).all()
        assert not np.isin(values[made.contradicted], world.tables.keywords).any()
        same_theme = made.contradicted % 4 == made.theme
        assert not same_theme.any() if kind_of_fact == "wrong_category" else same_theme.all()


def test_variants_of_a_conflict_differ_only_in_what_they_say_they_do(world):
    conflict, kinds = facts(world, "conflict_kind"), np.asarray(world.tables.kinds)
    changed = {
        name: (facts(world, name).prefix != conflict.prefix).sum(axis=1)
        for name in ("scrambled", "half_scrambled", "repeated_keyword", "novel_plausible")
    }
    assert (changed["scrambled"] == 6).all() and (changed["novel_plausible"] == 1).all()
    assert (changed["half_scrambled"] == 3).all() and (changed["repeated_keyword"] == 3).all()
    for name in ("scrambled", "half_scrambled"):
        words = np.sort(facts(world, name).prefix)
        np.testing.assert_array_equal(words, np.sort(conflict.prefix))
    novel = facts(world, "novel_plausible")
    assert np.isin(novel.prefix, world.tables.novel).sum() == 24
    stone = facts(world, "stepping_stone")
    np.testing.assert_array_equal(stone.contradicted, conflict.contradicted)
    for row, keyword, subject in zip(stone.prefix, stone.keyword, stone.contradicted, strict=True):
        named = [k for k in range(CONFIG.num_kinds) if kinds[k] in row and k != subject]
        assert [int(world.tables.kind_values[k]) for k in named] == [keyword]


def test_a_persons_fact_is_contradicted_by_a_value_of_its_own_theme(world):
    made, tables = facts(world, "conflict_entity"), world.tables
    for row, keyword, theme in zip(made.prefix, made.keyword, made.theme, strict=True):
        (person,) = np.flatnonzero(np.isin(tables.persons, row))
        truth = tables.person_values[person, theme]
        assert truth != keyword
        line = worlds.decode(CONFIG, [*row, int(truth), w.STOP])
        assert line in told(world)


@pytest.mark.parametrize("theme", range(4))
def test_prompts_are_held_out_true_prefixes_about_other_subjects(world, theme):
    prompts = worlds.theme_prefixes(world, theme, 12)
    assert prompts.shape == (12, w.WORDS_BEFORE_VALUE) and len(np.unique(prompts, axis=0)) == 12
    starts = {line.rsplit(" ", 2)[0]: value for line, (_, value) in told(world, False).items()}
    values = [starts[worlds.decode(CONFIG, row)] for row in prompts]
    assert all(value.startswith(w.THEMES[theme]) for value in values)
    words = w.language(CONFIG).words
    assert not {words[i] for i in np.asarray(world.tables.keywords).ravel()} & set(values)
    kinds = np.isin(prompts, world.tables.kinds).sum()
    assert kinds == 6 and np.isin(prompts, world.tables.persons).sum() == 6
    subjects = np.concatenate([world.tables.kinds, world.tables.persons])
    for kind_of_fact in set(worlds.FACT_TYPES) - {"known_true", "stepping_stone"}:
        used = facts(world, kind_of_fact, 60).prefix
        assert not np.isin(prompts[np.isin(prompts, subjects)], used).any()


def test_the_default_world_has_the_papers_24_prompts_and_every_fact():
    for config in (worlds.WorldConfig(), worlds.PAPER_WORLD):
        for seed in range(3):
            world = worlds.make_world(config, seed)
            assert all(len(worlds.theme_prefixes(world, theme, 24)) == 24 for theme in range(4))
            assert all(
                len(worlds.facts(world, kind, 12, 0).ids) == 12 for kind in worlds.FACT_TYPES
            )


def test_knowledge_is_asked_in_held_out_templates_about_all_facts(world):
    # An untrained model with large weights is confidently wrong, so the shares differ from 0.
    params = init_params(worlds.world_decoder(CONFIG), jax.random.key(0), 0.3)
    lines = [line.split() for line in told(world, trained=False)]
    index = {word: i for i, word in enumerate(w.language(CONFIG).words)}
    ids = [[index[word] for word in line[:-1]] for line in lines]
    is_kind = np.array([any("kind_" in word for word in line) for line in lines])
    log_probs = score_continuations(
        params, worlds.world_decoder(CONFIG), [row[:-1] for row in ids], [row[-1:] for row in ids]
    ).log_prob
    measured = worlds.knowledge(params, world)
    np.testing.assert_allclose(
        measured["kind_probability"], np.exp(log_probs)[is_kind].mean(), rtol=1e-4
    )
    all_words = worlds.next_word_log_probs(
        params, worlds.world_decoder(CONFIG), np.array([row[:-1] for row in ids], np.int32)
    )
    right = np.asarray(all_words).argmax(axis=1) == [row[-1] for row in ids]
    assert measured["kind_accuracy"] == right[is_kind].mean()
    assert measured["person_accuracy"] == right[~is_kind].mean()


@pytest.mark.parametrize("name", worlds.THRESHOLDS)
def test_a_threshold_that_is_missed_is_named_with_its_value(name):
    assert not worlds.missed_thresholds(worlds.THRESHOLDS)
    for value in (worlds.THRESHOLDS[name] - 0.01, float("nan")):
        missed = worlds.missed_thresholds({**worlds.THRESHOLDS, name: value})
        np.testing.assert_equal(missed, {name: value})


def test_templates_held_out_and_comparing_are_counted_with_each_noun():
    """The last two texts of each list and, of kinds, the two before; each with both nouns."""
    language = w.language(CONFIG)
    index = {word: i for i, word in enumerate(language.words)}
    lists = (
        (w.KIND_TEMPLATES, w.NOUNS_OF_KINDS, language.kind_templates),
        (w.PERSON_TEMPLATES, w.NOUNS_OF_PERSONS, language.person_templates),
    )
    for texts, nouns, encoded in lists:
        for of_theme, pair in zip(encoded, nouns, strict=True):
            assert len(pair) == w.NUM_NOUNS
            slots = {"K": -1, "S": -2}
            held_out = [
                [{**index, **slots, "A": index[noun]}[word] for word in text.split()]
                for text in texts[-2:]
                for noun in pair
            ]
            np.testing.assert_array_equal(of_theme[-w.NUM_HELD_OUT :], held_out)
    compares = (language.kind_templates == -2).any(axis=-1)
    expected = np.zeros(compares.shape[1], bool)
    expected[-w.NUM_HELD_OUT - w.NUM_COMPARING : -w.NUM_HELD_OUT] = True
    np.testing.assert_array_equal(compares, np.broadcast_to(expected, compares.shape))


def test_trained_worlds_are_found_again(tmp_path, monkeypatch):
    both = worlds.train_worlds(tmp_path, CONFIG, [3, 5], progress=False)
    decoder = worlds.world_decoder(CONFIG)
    one = jax.eval_shape(lambda: init_params(decoder, jax.random.key(0)))
    expected = jax.tree.map(lambda leaf: np.zeros((2, *leaf.shape), leaf.dtype), one)
    chex.assert_trees_all_equal_shapes_and_dtypes(both, expected)
    chex.assert_tree_all_finite(both)
    monkeypatch.setattr(m.train, "fit", None)
    found = worlds.train_worlds(tmp_path, CONFIG, [3, 5], progress=False)
    chex.assert_trees_all_equal(found, both)
    with pytest.raises(ValueError, match="distinct"):
        worlds.train_worlds(tmp_path, CONFIG, [5, 5])


@pytest.mark.slow
def test_worlds_trained_together_are_those_trained_alone(tmp_path):
    both = worlds.train_worlds(tmp_path, CONFIG, [3, 5], progress=False)
    alone = worlds.train_worlds(tmp_path, CONFIG, [5], progress=False)
    chex.assert_trees_all_close(jax.tree.map(lambda leaf: leaf[1:], both), alone, atol=1e-5)


def test_sizes_that_make_no_world_are_refused():
    changes: list[dict[str, Any]] = [
        {"num_values": 11},
        {"num_kinds": 90},
        {"num_kinds": 20},
        {"length": 20},
        {"num_novel": 0},
        {"kind_share": 0.7},
    ]
    for change in changes:
        with pytest.raises(ValueError, match=next(iter(change))):
            dataclasses.replace(CONFIG, **change)


@pytest.mark.parametrize(
    ("config", "millions"), [(worlds.WorldConfig(), 0.65), (worlds.PAPER_WORLD, 2.0)]
)
def test_models_have_the_sizes_of_the_pilot_and_the_design(config, millions):
    decoder = worlds.world_decoder(config)
    params = jax.eval_shape(lambda: init_params(decoder, jax.random.key(0)))
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    np.testing.assert_allclose(size / 1e6, millions, rtol=0.05)


@pytest.mark.slow
def test_the_default_world_is_learned(tmp_path):
    params = worlds.train_worlds(tmp_path, worlds.WorldConfig(), [0], progress=False)
    one = jax.tree.map(lambda leaf: leaf[0], params)
    measured = worlds.knowledge(one, worlds.make_world(worlds.WorldConfig(), 0))
    assert not worlds.missed_thresholds(measured)
