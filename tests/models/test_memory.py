"""Memory for new tasks of a frozen vision transformer, and its rivals.

Dimension key: B images, T tokens of an image, D width, L blocks, M memory tokens.
"""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ico import models
from ico.layers import linear_attention, mesa, mesa_state, softmax_attention
from ico.models._convnet import dense

B, D, L, SIZE = 3, 8, 2, 8
VIT = models.ViT(patch=4, dim=D, depth=L, num_heads=2, mlp_dim=12, class_token=True)
T = 1 + (SIZE // 4) ** 2


def perturbed(tree, seed, size=0.5):
    """The same tree with noise on every leaf: nothing is zero that could hide a mistake."""
    leaves, structure = jax.tree.flatten(tree)
    rng = np.random.default_rng(seed)
    noisy = [leaf + size * rng.normal(size=leaf.shape).astype(np.float32) for leaf in leaves]
    return structure.unflatten(noisy)


@pytest.fixture(scope="module")
def images():
    return jnp.asarray(np.random.default_rng(0).normal(size=(B, SIZE, SIZE, 1)), jnp.float32)


@pytest.fixture(scope="module")
def params(images):
    return perturbed(jax.jit(VIT.init)(jax.random.key(0), images)["params"], 0, 0.2)


@pytest.fixture(scope="module")
def tasks(params):
    return {
        name: perturbed(models.new_task(jax.random.key(n), params, 2 + n, cells), n)
        for n, (name, cells) in enumerate([("a", 3), ("b", 1), ("c", 0)])
    }


def read(params, tasks, images, extends=None):
    run = jax.jit(lambda *args: models.memory_logits(VIT, *args, extends=extends))
    return run(params, tasks, images)


def test_the_model_itself_does_not_change(params, tasks, images):
    _, tokens = read(params, tasks, images, {"b": ["a"]})
    chex.assert_trees_all_close(tokens, VIT.apply({"params": params}, images), atol=1e-5)


def test_tasks_in_one_pass_are_each_alone(params, tasks, images):
    together, _ = read(params, tasks, images)
    for name, task in tasks.items():
        alone, _ = read(params, {name: task}, images)
        assert together[name].shape == (B, task["head"]["bias"].shape[0])
        np.testing.assert_allclose(together[name], alone[name], atol=1e-5)
    first, rest = models.drop_tasks(tasks, "b", "c"), models.drop_tasks(tasks, "a")
    again, _ = read(params, models.concatenate_tasks(rest, first), images)
    chex.assert_trees_all_close(again, together, atol=1e-5)


def test_an_extension_sees_the_task_that_it_extends(params, tasks, images):
    apart, _ = read(params, tasks, images)
    found, _ = read(params, tasks, images, {"b": ["a"]})
    for name in ("a", "c"):
        np.testing.assert_allclose(found[name], apart[name], atol=1e-5)
    assert jnp.abs(found["b"] - apart["b"]).max() > 1e-2
    # Both of its parts count: the class token and the memory.
    for part in ("class_token", "memory"):
        other = {**tasks, "a": {**tasks["a"], part: perturbed(tasks["a"][part], 9)}}
        changed, _ = read(params, other, images, {"b": ["a"]})
        assert jnp.abs(changed["b"] - found["b"]).max() > 1e-3


def test_who_sees_whom():
    """Table 1 of the paper, for an image of two tokens; memory of one cell and of two."""
    mask = models.sees_mask(2, {"one": 1, "two": 2}, {"two": ["one"]})
    wanted = """
        11 00 000
        11 00 000
        11 10 100
        11 11 111
    """
    rows = [[c == "1" for c in row.replace(" ", "")] for row in wanted.strip().splitlines()]
    np.testing.assert_array_equal(mask, rows)
    np.testing.assert_array_equal(
        models.sees_mask(2, {"one": 1, "two": 2})[3], [1, 1, 0, 1, 0, 1, 1]
    )


def test_wrong_tasks_are_refused(params, tasks):
    with pytest.raises(ValueError, match="called 'a'"):
        models.concatenate_tasks(tasks, {"a": tasks["b"]})
    with pytest.raises(KeyError, match="no task 'd'"):
        models.drop_tasks(tasks, "d")
    for extends in ({"a": ["d"]}, {"a": ["a"]}, {"d": ["a"]}, {"a": ["b"], "b": ["a"]}):
        with pytest.raises(ValueError, match="cannot extend"):
            models.sees_mask(T, {"a": 1, "b": 1}, extends)
    with pytest.raises(ValueError, match="class token"):
        models.new_task(jax.random.key(0), {}, 2, 1)
    with pytest.raises(ValueError, match="1 class"):
        models.new_task(jax.random.key(0), params, 0, 1)


def test_memory_of_another_model_is_refused(params, tasks, images):
    with pytest.raises(ValueError, match="no task"):
        models.memory_logits(VIT, params, {}, images)
    deeper = {"a": {**tasks["a"], "memory": jnp.zeros((L + 1, 3, D))}}
    with pytest.raises(ValueError, match="3 blocks"):
        models.memory_logits(VIT, params, deeper, images)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: models.Memory(VIT, 2, -1), "cells"),
        (lambda: models.Memory(VIT, 2, 0, masked=False), "cells"),
        (lambda: models.Memory(VIT, 2, 1, propagated=True), "masked"),
        (lambda: models.Prompts(VIT, 2, 0), "tokens"),
        (lambda: models.Lora(VIT, 2, 0), "rank"),
        (lambda: models.AdaMix(VIT, 2, 3, 0), "experts"),
        (lambda: models.FineTuning(VIT, 0), "num_classes"),
        (lambda: models.FineTuning(VIT.clone(class_token=False), 2), "class token"),
    ],
)
def test_ways_that_cannot_be_are_refused(make, name):
    with pytest.raises(ValueError, match=name):
        make()


def test_attention_to_memory_is_that_of_the_blocks(params, tasks, images):
    """By what its values do: with those of memory alone, the output is the share of it."""
    own, task = params, tasks["a"]
    share = models.attention_to_memory(VIT, own, task, images)
    assert share.shape == (L, B) and (share > 0).all() and (share < 1).all()
    bound = VIT.bind({"params": own})
    token = jnp.broadcast_to(task["class_token"][None, None], (B, 1, D))
    x = jnp.concatenate([bound.embed(images), token], 1)
    block = own["block_0"]
    seen = jnp.concatenate([x, jnp.broadcast_to(task["memory"][0][None], (B, 3, D))], 1)
    gaps = seen - seen.mean(-1, keepdims=True)
    scale, shift = (block["attention_norm"][n][None, None] for n in ("scale", "bias"))
    normed = gaps / jnp.sqrt(seen.var(-1, keepdims=True) + 1e-6) * scale + shift
    q, k = (
        jnp.einsum("btd,dha->btha", normed, block["attention"][n]["kernel"])
        + block["attention"][n]["bias"][None, None]
        for n in ("query", "key")
    )
    is_memory = jnp.arange(seen.shape[1]) >= x.shape[1]
    values = jnp.broadcast_to(is_memory[None, :, None, None] * 1.0, (*k.shape[:3], 1))
    read = softmax_attention(q[:, T : T + 1], k, values, causal=False)
    np.testing.assert_allclose(share[0], read[:, 0, :, 0].mean(-1), rtol=1e-5)


WAYS = {
    "head": models.FineTuning(VIT, 4),
    "all": models.WholeModel(VIT, 4),
    "LoRA": models.Lora(VIT, 4, 2),
    "adapters": models.Adapters(VIT, 4, 3),
    "AdaMix": models.AdaMix(VIT, 4, 3, 4),
    "class token": models.Memory(VIT, 4, 0),
    "memory": models.Memory(VIT, 4, 2),
    "memory, seen by all": models.Memory(VIT, 4, 2, masked=False),
    "memory, handed on": models.Memory(VIT, 4, 2, masked=False, propagated=True),
    "prompts": models.Prompts(VIT, 4, 2),
}


@pytest.mark.parametrize("name", WAYS)
def test_a_way_starts_at_the_model_and_trains_all_it_has(name, params, images):
    way = WAYS[name]
    moving = way.init(jax.random.key(1), params)
    head = perturbed(moving["head"], 3)

    @jax.jit
    def logits(params, moving):
        return way.logits(params, moving, images)

    chex.assert_trees_all_equal(logits(params, moving), jnp.zeros((B, 4)))
    if name in ("head", "all", "LoRA", "adapters", "AdaMix"):
        features = VIT.apply({"params": params}, images)[:, 0]
        wanted = dense(head, features)
        np.testing.assert_allclose(logits(params, {**moving, "head": head}), wanted, atol=1e-5)
    moved = perturbed(moving, 4, 0.2)
    slopes = jax.grad(lambda moving: jnp.sum(logits(params, moving) ** 2))(moved)
    for path, slope in jax.tree.leaves_with_path(slopes):
        # A softmax does not feel what is added to all of its keys alike.
        name = jax.tree_util.keystr(path)
        if slope.size and not ("'key'" in name and "bias" in name):
            assert jnp.abs(slope).max() > 1e-6, name


def test_prompts_are_tokens_at_the_input(params, images):
    way = WAYS["prompts"]
    moving = perturbed(way.init(jax.random.key(1), params), 5)
    own = {**params, "class_token": moving["class_token"]}
    tokens = VIT.apply({"params": own}, images, method="embed")
    prompts = jnp.broadcast_to(moving["prompts"][None], (B, 2, D))
    tokens = VIT.apply({"params": own}, jnp.concatenate([tokens, prompts], 1), method="encode")
    wanted = dense(moving["head"], tokens[:, 0])
    np.testing.assert_allclose(way.logits(params, moving, images), wanted, atol=1e-5)


def test_memory_handed_on_is_added_to_what_the_block_before_made(params, images):
    way = WAYS["memory, handed on"]
    moving = perturbed(way.init(jax.random.key(1), params), 5)
    own = {**params, "class_token": moving["class_token"]}
    x = VIT.apply({"params": own}, images, method="embed")
    x = jnp.concatenate([x, jnp.zeros((B, 2, D))], 1)
    block = models.ViTBlock(2, 12)
    for layer in range(L):
        x = x.at[:, T:].add(moving["memory"][layer][None])
        x = block.apply({"params": own[f"block_{layer}"]}, x)
    x = (x - x.mean(-1, keepdims=True)) * jax.lax.rsqrt(x.var(-1, keepdims=True) + 1e-6)
    x = x[:, 0] * own["norm"]["scale"][None] + own["norm"]["bias"][None]
    wanted = dense(moving["head"], x)
    np.testing.assert_allclose(way.logits(params, moving, images), wanted, atol=1e-4)


def test_experts_that_are_copies_merge_into_one(params, images):
    copied, apart = WAYS["AdaMix"], dataclasses.replace(WAYS["AdaMix"], copied=False)
    answers = {}
    for way in (copied, apart):
        moving = way.init(jax.random.key(1), params)
        moving["head"] = perturbed(moving["head"], 3)
        moving["adapters"] = {**moving["adapters"], "up": perturbed(jnp.zeros((L, 3, D)), 6)}
        drawn = [way.logits(params, moving, images, jax.random.key(k)) for k in range(6)]
        answers[way.copied] = [way.logits(params, moving, images), *drawn]
    for other in answers[True][1:]:
        np.testing.assert_allclose(other, answers[True][0], atol=1e-5)
    gaps = [float(jnp.abs(a - answers[False][0]).max()) for a in answers[False][1:]]
    assert min(gaps) > 1e-3 and len({round(g, 6) for g in gaps}) > 2
    # Half the sum of both divergences: zero for equal answers, and never negative.
    assert models.consistency(drawn[0], drawn[0]) == 0 < models.consistency(*drawn[:2])


def test_memory_in_linear_attention_is_a_learned_state(x64):
    """Pairs (k, v) before a sequence are what they add to the state: nothing else is left of them.

    In the mesa layer they are data seen before, which also count in its matrix.
    """
    rng = np.random.default_rng(0)
    q, k, v = (jnp.asarray(rng.normal(size=(1, 7, 2, 3))) for _ in range(3))
    k_memory, v_memory = (jnp.asarray(rng.normal(size=(1, 4, 2, 3))) for _ in range(2))
    joined = [jnp.concatenate([m, a], 1) for m, a in [(k_memory, k), (v_memory, v)]]
    padded = jnp.concatenate([k_memory, q], 1)  # what memory asks does not count
    state = jnp.einsum("bmhv,bmhd->bhvd", v_memory, k_memory)

    whole = linear_attention(padded, *joined)[:, 4:]
    np.testing.assert_allclose(whole, linear_attention(q, k, v, initial_state=state), atol=1e-12)

    lam = jnp.array([0.5, 2.0])
    whole = mesa(padded, *joined, lam=lam)[:, 4:]
    gram = jnp.einsum("bmhd,bmhe->bhde", k_memory, k_memory)
    before = jnp.linalg.inv(jnp.linalg.inv(mesa_state(lam, 1, 3, 3).inverse) + gram)
    start = mesa_state(lam, 1, 3, 3)._replace(inverse=before, memory=state)
    np.testing.assert_allclose(whole, mesa(q, k, v, lam=lam, initial_state=start), atol=1e-9)
