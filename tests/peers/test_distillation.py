"""Clients that distil from each other, against the same written out client by client.

Dimension key: K clients, B private and P public inputs, C classes.
"""

import functools
import os
import subprocess
import sys
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ico import losses, models, peers

K, B, P, C, SIZE = 4, 6, 5, 3, 4
MODEL = models.MultiHeadClassifier(C, aux_heads=2, widths=(3,), dim=4)
SMALL = models.MultiHeadClassifier(C, aux_heads=2, widths=(2,), dim=4)
OPTIMIZER = optax.sgd(0.1, 0.9)


def applied(model):
    return lambda params, x: model.apply({"params": params}, x)


def initial(model, key):
    return model.init(key, jnp.zeros((1, SIZE, SIZE, 1)))["params"]


def batch(seed, present=(True,) * K):
    keys = jax.random.split(jax.random.key(seed), 3)
    return peers.Batch(
        jax.random.normal(keys[0], (K, B, SIZE, SIZE, 1)),
        jax.random.randint(keys[1], (K, B), 0, C),
        jax.random.normal(keys[2], (P, SIZE, SIZE, 1)),
        jnp.array(present),
    )


def started(model=MODEL, count=K, seed=0):
    return peers.init_peers(jax.random.key(seed), lambda k: initial(model, k), OPTIMIZER, count)


def everybody(**fields):
    """Nothing is drawn: every client hears all others, and targets follow from the answers."""
    return peers.Distillation(neighbours=K - 1, **fields)


def by_hand(config, steps, graph):
    """Clients that keep checkpoints of their neighbours, refreshed as the rule says."""
    state = started()
    params = [jax.tree.map(lambda leaf, k=k: leaf[k], state.params) for k in range(K)]
    moments = [OPTIMIZER.init(p) for p in params]
    pool = [list(params) for _ in range(K)]  # of client i, of everybody
    apply = applied(MODEL)

    def loss(p, i, given, kept):
        _, own = apply(p, given.x[i])
        total = optax.softmax_cross_entropy_with_integer_labels(own[0], given.y[i]).mean()
        embedding, said = apply(p, given.public)
        heard = [apply(kept[j], given.public) for j in range(K) if graph[i, j]]
        for other, _ in heard:
            total += config.embedding_weight * losses.embedding_distance(embedding, other)
        for head in range(1, 3):
            answers = [logits[head - 1] for _, logits in heard]
            answers.append(jax.lax.stop_gradient(said[head - 1]))
            p_APC = jax.nn.softmax(jnp.stack(answers))
            best = p_APC.max(-1).argmax(0)
            target = jnp.stack([p_APC[best[n], n] for n in range(P)])
            log_p = jax.nn.log_softmax(said[head])
            total -= config.aux_weight * (target * log_p).sum(-1).mean()
        return total

    for step in range(steps):
        given = batch(step)
        moved = []
        for i in range(K):
            slopes = jax.grad(loss)(params[i], i, given, pool[i])
            updates, moments[i] = OPTIMIZER.update(slopes, moments[i], params[i])
            moved.append(optax.apply_updates(params[i], updates))
        params = moved
        if (step + 1) % config.refresh == 0:
            pool = [list(params) for _ in range(K)]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *params)


@pytest.mark.parametrize("graph", ["complete", "cycle"])
def test_answers_of_an_old_self_are_checkpoints_of_neighbours(graph):
    graph = getattr(peers, graph)(K)
    config = everybody(refresh=2)
    step = jax.jit(peers.peers_step([applied(MODEL)], OPTIMIZER, config, graph[None]))
    states = [started()]
    for number in range(5):
        states, metrics = step(states, batch(number), jax.random.key(number))
    chex.assert_shape(list(metrics.values()), (K,))
    chex.assert_trees_all_close(states[0].params, by_hand(config, 5, graph), atol=2e-5)


def test_groups_of_two_architectures_are_the_same_clients():
    """Of one architecture in two groups, and with a smaller one that changes nobody's number."""
    config, graph = everybody(refresh=1), peers.complete(K)[None]
    whole = started()
    halves = [
        jax.tree.map(lambda leaf, s=s: leaf[s] if leaf.ndim else leaf, whole)
        for s in (slice(0, 1), slice(1, None))
    ]
    one = jax.jit(peers.peers_step([applied(MODEL)], OPTIMIZER, config, graph))
    two = jax.jit(peers.peers_step([applied(MODEL)] * 2, OPTIMIZER, config, graph))
    mixed = jax.jit(peers.peers_step([applied(SMALL), applied(MODEL)], OPTIMIZER, config, graph))
    (found,), _ = one([whole], batch(0), jax.random.key(0))
    parts, metrics = two(halves, batch(0), jax.random.key(0))
    joined = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *(p.params for p in parts))
    chex.assert_trees_all_close(joined, found.params, atol=1e-6)
    assert metrics["loss"].shape == (K,)
    small = started(SMALL, 1)
    parts, metrics = mixed([small, halves[1]], batch(0), jax.random.key(0))
    assert metrics["loss"].shape == (K,) and jnp.isfinite(metrics["loss"]).all()


def test_an_absent_client_neither_learns_nor_is_heard():
    config, graph = everybody(refresh=1), peers.complete(K)[None]
    step = jax.jit(peers.peers_step([applied(MODEL)], OPTIMIZER, config, graph))
    present = batch(0, (True, True, False, True))
    (found,), _ = step([started()], present, jax.random.key(0))
    before = started()
    for name in ("params", "published", "moments"):
        of_it = jax.tree.map(lambda leaf: leaf[2], (getattr(found, name), getattr(before, name)))
        chex.assert_trees_all_equal(*of_it)
    shifted = before._replace(
        published=jax.tree.map(lambda leaf: leaf.at[2].add(1.0), before.published)
    )
    (other,), _ = step([shifted], present, jax.random.key(0))
    chex.assert_trees_all_equal(other.params, found.params)
    # It comes back: then it learns, and the others hear it.
    (again,), _ = step([shifted], batch(0), jax.random.key(0))
    gaps = jax.tree.map(lambda a, b: jnp.abs(a - b).max((*range(1, a.ndim),)), again, found)
    assert (jax.tree.reduce(jnp.maximum, gaps.params["head"]["kernel"]) > 1e-6).all()


def test_without_weights_clients_are_separate():
    config = peers.Distillation(aux_weight=0.0, embedding_weight=0.0)
    step = jax.jit(peers.peers_step([applied(MODEL)], OPTIMIZER, config, peers.cycle(K)[None]))
    given, state = batch(0), started()
    (found,), _ = step([state], given, jax.random.key(0))

    def loss(params, x, y):
        logits = MODEL.apply({"params": params}, x)[1][0]
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    slopes = jax.vmap(jax.grad(loss))(state.params, given.x, given.y)
    wanted = jax.tree.map(lambda p, g: p - 0.1 * g, state.params, slopes)
    chex.assert_trees_all_close(found.params, wanted, atol=1e-6)


def test_one_head_distils_into_the_main_one():
    """FedMD: the main head learns from neighbours' main heads."""
    model = MODEL.clone(aux_heads=0)
    graph = peers.complete(K)[None]
    states = [peers.init_peers(jax.random.key(0), lambda k: initial(model, k), OPTIMIZER, K)]
    answers = {}
    for main in (False, True):
        config = everybody(main=main, embedding_weight=0.0, rule="average", own=False)
        step = jax.jit(peers.peers_step([applied(model)], OPTIMIZER, config, graph))
        answers[main], metrics = step(states, batch(0), jax.random.key(0))
        assert bool((metrics["aux"] > 0).all()) == main
    kernels = [answers[main][0].params["head"]["kernel"] for main in (True, False)]
    assert jnp.abs(kernels[0] - kernels[1]).max() > 1e-4


def test_a_graph_that_changes_takes_turns():
    """Two graphs, two steps each; on the empty one only one's own answers are there."""
    none = np.zeros((K, K), bool)
    config = everybody(own=False, embedding_weight=0.0)
    graphs = np.stack([none, peers.complete(K)])
    step = jax.jit(peers.peers_step([applied(MODEL)], OPTIMIZER, config, graphs, period=2))
    states, aux = [started()], []
    for number in range(6):
        states, metrics = step(states, batch(number), jax.random.key(number))
        aux.append(bool((metrics["aux"] > 0).all()))
    assert aux == [False, False, True, True, False, False]


def test_graphs():
    assert peers.complete(4).sum() == 12
    cycle = peers.cycle(4)
    assert cycle.sum() == 4 and all(cycle[i, i - 1] for i in range(4))
    assert peers.islands(6, 3).sum() == 12 and not peers.islands(6, 3)[0, 3:].any()
    drawn = peers.random_graph(6, 2, seed=1)
    assert (drawn.sum(1) == 2).all() and not np.diag(drawn).any()
    with pytest.raises(ValueError, match="islands"):
        peers.islands(6, 4)
    with pytest.raises(ValueError, match="hear"):
        peers.random_graph(3, 3)


def test_data_goes_mostly_to_clients_whose_label_it_has():
    labels = np.random.default_rng(0).integers(0, 5, 20_000)
    for skew in (0.0, 3.0, np.inf):
        found = peers.skewed(labels, 6, skew, primaries=2, public=0.2)
        places = [found.private[k, : found.counts[k]] for k in range(6)]
        everything = np.concatenate([*places, found.public])
        assert len(found.public) == 4_000 and len(set(everything)) == len(labels) == len(everything)
        assert (found.primary.sum(0) == 2).all() and found.primary.any(1).all()
        for label in range(5):
            of_label = np.array([(labels[p] == label).sum() for p in places])
            weight = found.primary[:, label] * 1.0
            if np.isfinite(skew):
                weight = 1 + skew * weight
            shares = of_label / of_label.sum()
            np.testing.assert_allclose(shares, weight / weight.sum(), atol=0.03)
        np.testing.assert_allclose(found.shares(labels).sum(1), 1)
    with pytest.raises(ValueError, match="skew"):
        peers.skewed(labels, 6, -1.0)
    with pytest.raises(ValueError, match="too few"):
        peers.skewed(labels[:3], 6, 1.0)


def test_wrong_settings_are_refused():
    for fields, name in [
        ({"refresh": 0}, "refresh"),
        ({"neighbours": -1}, "neighbours"),
        ({"aux_weight": -1.0}, "aux_weight"),
        ({"embedding_weight": -1.0}, "embedding_weight"),
    ]:
        with pytest.raises(ValueError, match=name):
            peers.Distillation(**fields)
    make = functools.partial(peers.peers_step, [applied(MODEL)], OPTIMIZER, everybody())
    with pytest.raises(ValueError, match="hears itself"):
        make(np.ones((1, K, K), bool))
    with pytest.raises(ValueError, match="period"):
        make(peers.cycle(K)[None], period=0)
    with pytest.raises(ValueError, match="4 clients, but graphs of 5"):
        make(peers.cycle(5)[None])([started()], batch(0), jax.random.key(0))


def test_neighbours_are_drawn_evenly_from_those_that_are_heard():
    """One of two a step: which one, shows in the auxiliary loss of the client that hears it."""
    graph = np.zeros((K, K), bool)
    graph[0, [1, 3]] = True
    config = peers.Distillation(neighbours=1, own=False, embedding_weight=0.0, rule="average")
    step = jax.jit(peers.peers_step([applied(MODEL)], OPTIMIZER, config, graph[None]))
    state, given = started(), batch(0)
    found = [float(step([state], given, jax.random.key(n))[1]["aux"][0]) for n in range(60)]
    alone = []
    for j in (1, 3):
        only = np.zeros((K, K), bool)
        only[0, j] = True
        one = jax.jit(peers.peers_step([applied(MODEL)], OPTIMIZER, config, only[None]))
        alone.append(float(one([state], given, jax.random.key(0))[1]["aux"][0]))
    which = np.abs(np.array(found)[:, None] - np.array(alone)[None])
    assert which.min(1).max() < 1e-5 and 15 < (which.argmin(1) == 0).sum() < 45


def test_bytes_of_a_message():
    said = peers.message(applied(MODEL), initial(MODEL, jax.random.key(0)), batch(0).public)
    assert peers.message_bytes(said) == 4 * (P * 4 + 3 * P * C)


def test_federated_averaging():
    state = started()
    mean = peers.average_of(state.params)
    chex.assert_trees_all_equal_shapes(mean, state.params)
    kernel = mean["head"]["kernel"]
    np.testing.assert_allclose(kernel[1], state.params["head"]["kernel"].mean(0), rtol=1e-6)


def collectives(jaxpr):
    """(name, shapes) of every primitive that moves data between devices."""
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        words = ("all_gather", "all_to_all", "psum", "pmin", "pmax", "permute", "reduce_scatter")
        if any(word in name for word in words):
            yield name, [v.aval.shape for v in equation.invars]
        for value in equation.params.values():
            for inner in jax.tree.leaves(value, is_leaf=lambda x: hasattr(x, "eqns")):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from collectives(inner)


def test_nothing_but_messages_leaves_a_client():
    """Read off the program: two collectives, with the shapes of a message, and no other."""
    automatic = (jax.sharding.AxisType.Auto,)
    mesh = jax.make_mesh((1,), ("clients",), automatic, devices=jax.local_devices()[:1])
    config, graph = everybody(), peers.complete(K)[None]
    step = peers.sharded_step(applied(MODEL), OPTIMIZER, config, graph, mesh)
    jaxpr = jax.make_jaxpr(step)(started(), batch(0), jax.random.key(0))
    moved = list(collectives(jaxpr.jaxpr))
    assert sorted(shapes[0] for _, shapes in moved) == [(K, 3, P, C), (K, P, 4)], moved
    assert {name for name, _ in moved} == {"all_gather"}
    said = jax.eval_shape(
        lambda p: peers.message(applied(MODEL), p, batch(0).public),
        initial(MODEL, jax.random.key(0)),
    )
    assert [leaf.shape for leaf in said] == [(P, 4), (3, P, C)]


_SHARDED = """
import sys
sys.path.insert(0, {root!r})
import jax, numpy as np
if {processes} > 1:
    jax.distributed.initialize("127.0.0.1:{port}", {processes}, int(sys.argv[1]))
from jax.sharding import NamedSharding, PartitionSpec
from tests.peers import test_distillation as t
from ico import peers

K = 8
t.K = K
mesh = jax.make_mesh((8,), ("clients",), axis_types=(jax.sharding.AxisType.Auto,))
config = peers.Distillation(neighbours=2, refresh=2, rule="random")
graph = peers.cycle(K)[None] | peers.islands(K, 4)[None]
step = jax.jit(peers.sharded_step(t.applied(t.MODEL), t.OPTIMIZER, config, graph, mesh))
plain = jax.jit(peers.peers_step([t.applied(t.MODEL)], t.OPTIMIZER, config, graph))
state, given = t.started(count=K), t.batch(0, (True,) * 6 + (False,) + (True,))

def spread(tree, specs):
    def one(leaf, spec):
        return jax.make_array_from_callback(
            leaf.shape, NamedSharding(mesh, spec), lambda index: np.asarray(leaf)[index])
    return jax.tree.map(one, tree, specs)

own, whole = PartitionSpec("clients"), PartitionSpec()
specs = jax.tree.map(lambda leaf: own if leaf.ndim else whole, state)
there = spread(state, specs)
batches = spread(given, peers.Batch(own, own, whole, whole))
wanted = [state]
for number in range(4):
    there, _ = step(there, batches, jax.random.key(number))
    wanted, _ = plain(wanted, given, jax.random.key(number))
for ours, right in zip(jax.tree.leaves(there), jax.tree.leaves(wanted[0]), strict=True):
    for shard in ours.addressable_shards:
        np.testing.assert_allclose(shard.data, np.asarray(right)[shard.index], atol=1e-5)
print("equal", flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 4])
def test_one_client_a_device_is_the_same(processes, tmp_path):
    """Eight devices of one process, and two of each of four joined over loopback."""
    root = Path(__file__).resolve().parents[2]
    port = 20_000 + os.getpid() % 20_000
    code = _SHARDED.format(root=str(root), processes=processes, port=port)
    devices = f"--xla_force_host_platform_device_count={8 // processes}"
    environment = os.environ | {"XLA_FLAGS": devices, "JAX_PLATFORMS": "cpu"}
    running = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(number)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for number in range(processes)
    ]
    for process in running:
        out, _ = process.communicate(timeout=300)
        assert process.returncode == 0 and "equal" in out, out[-2_000:]
