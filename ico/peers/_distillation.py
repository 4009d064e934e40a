"""Decentralized multi-headed distillation (Zhmoginov et al. 2022, 2211.15774).

Verified: private data, unlabelled public data, auxiliary heads and graphs. UNVERIFIED: all numbers,
and details of targets. The paper's clients keep old checkpoints of their neighbours; here each
keeps an old copy of itself, and what travels is that copy's answers on public images. For a frozen
neighbour both are the same.

Dimension key: K clients, B private and P public inputs of a step, H auxiliary heads, C classes, D
width of an embedding, A answers that a client hears, G graphs.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Bool, Float, Int, Key

from ico.losses import TargetRule, choose_targets, embedding_distance, soft_cross_entropy

PyTree = Any
# (params, inputs) -> embeddings [N, D], and logits of the main and the other heads [H + 1, N, C].
Apply = Callable[[PyTree, Array], tuple[Array, Array]]
Graphs = Bool[Array, "G K K"] | Bool[np.ndarray, "G K K"]
_AXIS = "clients"


@dataclasses.dataclass(frozen=True)
class Distillation:
    """What clients learn from each other; with both weights zero they are separate.

    Fields:
      aux_weight: of the heads' distillation.
      embedding_weight: of the distance between embeddings.
      rule: which of several answers is a target.
      own: whether a client's own answer is among them.
      neighbours: that a client hears in a step, drawn from those of the graph.
      refresh: steps after which a client publishes itself anew.
      main: whether the main head distils, too: with no other head, all neighbours and the rule
        "average" this is federated model distillation (FedMD, 1910.03581). Its targets are main
        heads' answers.

    Raises:
      ValueError: an unknown rule, or a number below its least.
    """

    aux_weight: float = 3.0
    embedding_weight: float = 1.0
    rule: TargetRule = "confident"
    own: bool = True
    neighbours: int = 1
    refresh: int = 200
    main: bool = False

    def __post_init__(self):
        if self.rule not in get_args(TargetRule):
            raise ValueError(f"rule must be one of {get_args(TargetRule)}, not {self.rule!r}")
        for name, least in (("neighbours", 0), ("refresh", 1), ("aux_weight", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, not {getattr(self, name)}")
        if self.embedding_weight < 0:
            raise ValueError(f"embedding_weight must be at least 0, not {self.embedding_weight}")


class Message(NamedTuple):
    """All that leaves a client: of the copy it published, on the public inputs of a step."""

    embedding: Float[Array, "*clients P D"]
    logits: Float[Array, "*clients H P C"]


class Batch(NamedTuple):
    """The inputs of a step; `present` are the clients that take part in it."""

    x: Float[Array, "K B ..."]
    y: Int[Array, "K B"]
    public: Float[Array, "P ..."]
    present: Bool[Array, "K"]


class PeersState(NamedTuple):
    """Of clients of one architecture, stacked: leaves [K, ...]."""

    params: PyTree
    published: PyTree
    moments: PyTree
    step: Int[Array, ""]


def init_peers(
    key: Key[Array, ""],
    init: Callable[[Key[Array, ""]], PyTree],
    optimizer: optax.GradientTransformation,
    num_clients: int,
) -> PeersState:
    """Clients that each start on their own."""
    params = jax.vmap(init)(jax.random.split(key, num_clients))
    copy = jax.tree.map(jnp.copy, params)
    return PeersState(params, copy, jax.vmap(optimizer.init)(params), jnp.asarray(0))


def message(apply: Apply, params: PyTree, public: Float[Array, "P ..."]) -> Message:
    """What a client with these parameters says of public inputs."""
    return Message(*jax.lax.stop_gradient(apply(params, public)))


def message_bytes(said: Message) -> int:
    """Of one client's message: the last axes of its arrays, as they are."""
    return sum(
        int(leaf.dtype.itemsize) * int(jnp.prod(jnp.asarray(leaf.shape[leaf.ndim - axes :])))
        for leaf, axes in ((said.embedding, 2), (said.logits, 3))
    )


def average_of(params: PyTree) -> PyTree:
    """Every client's parameters replaced by their mean (FedAvg, 1602.05629); leaves [K, ...].

    All clients count alike, however much data they have.
    """

    def mean(leaf):
        return jnp.broadcast_to(leaf.mean(0, keepdims=True), leaf.shape)

    return jax.tree.map(mean, params)


def client_loss(
    apply: Apply,
    params: PyTree,
    x: Float[Array, "B ..."],
    y: Int[Array, "B"],
    public: Float[Array, "P ..."],
    heard: Message,
    there: Bool[Array, "A"],
    config: Distillation,
    key: Key[Array, ""],
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """A client's loss: its labels on the main head, its neighbours on the others.

    Auxiliary head k learns from main heads for k = 1, and from heads k - 1 for the others, so that
    with every head what is known travels one client further.

    Args:
      apply: of the client.
      params: its parameters.
      x, y: private inputs and labels.
      public: unlabelled inputs.
      heard: the messages of neighbours, [A, ...].
      there: which of these there are.
      config: of the distillation.
      key: of random targets.

    Returns:
      The loss, nats, and the cross-entropy of the private labels and the auxiliary heads' loss.
    """
    _, own_HBC = apply(params, x)
    private = optax.softmax_cross_entropy_with_integer_labels(own_HBC[0], y).mean()
    if not (config.aux_weight or config.embedding_weight):
        return private, {"private": private, "aux": jnp.zeros(())}
    embedding, said_HPC = apply(params, public)
    distances = jax.vmap(lambda other: embedding_distance(embedding, other))(
        jax.lax.stop_gradient(heard.embedding)
    )
    distance = jnp.sum(there * distances)
    candidates = jnp.concatenate([heard.logits, said_HPC[None]])
    present = jnp.append(there, config.own)
    aux = jnp.zeros(())
    pairs = [(0, 0)] if config.main else []
    pairs += [(head, head - 1) for head in range(1, len(said_HPC))]
    for number, (head, teacher) in enumerate(pairs):
        targets = choose_targets(
            candidates[:, teacher], present, config.rule, jax.random.fold_in(key, number)
        )
        aux = aux + soft_cross_entropy(said_HPC[head], targets).mean()
    loss = private + config.aux_weight * aux + config.embedding_weight * distance
    return loss, {"private": private, "aux": aux}


def peers_step(
    groups: Sequence[Apply],
    optimizer: optax.GradientTransformation,
    config: Distillation,
    graphs: Graphs,
    *,
    period: int = 1,
) -> Callable[[Sequence[PeersState], Batch, Key[Array, ""]], tuple[list[PeersState], dict]]:
    """A step of all clients, those of one architecture under one vmap.

    Args:
      groups: an architecture each; clients are numbered group after group.
      optimizer: of every client.
      config: of the distillation.
      graphs: who hears whom; several take turns.
      period: steps that each graph stays.

    Returns:
      (states, batch, key) -> states, metrics [K]. A client that is not present neither learns nor
      is heard, nor publishes itself.

    Raises:
      ValueError: graphs of another shape or with a client that hears itself, or a period below 1.
    """
    graphs = _checked(graphs, period)

    def step(states: Sequence[PeersState], batch: Batch, key: Key[Array, ""]):
        if len(batch.present) != graphs.shape[1]:
            raise ValueError(f"{len(batch.present)} clients, but graphs of {graphs.shape[1]}")
        graph = graphs[(states[0].step // period) % len(graphs)]
        said = [
            jax.vmap(lambda params, apply=apply: message(apply, params, batch.public))(s.published)
            for apply, s in zip(groups, states, strict=True)
        ]
        everything = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *said)
        found, metrics, first = [], [], 0
        for apply, state in zip(groups, states, strict=True):
            count = len(jax.tree.leaves(state.params)[0])
            clients = first + jnp.arange(count)
            x, y = (leaf[first : first + count] for leaf in (batch.x, batch.y))
            new, measured = _advance(
                apply, optimizer, config, state, x, y, batch, everything, graph, clients, key
            )
            found.append(new)
            metrics.append(measured)
            first += count
        return found, jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *metrics)

    return step


def sharded_step(
    apply: Apply,
    optimizer: optax.GradientTransformation,
    config: Distillation,
    graphs: Graphs,
    mesh: Mesh,
    *,
    period: int = 1,
) -> Callable[[PeersState, Batch, Key[Array, ""]], tuple[PeersState, dict]]:
    """The same step with clients spread over the mesh axis "clients", of one or many processes.

    State and private data stay where their client is. What is exchanged, by one `all_gather` for
    each of its arrays, is a `Message`: nothing else leaves a device.

    Args:
      apply, optimizer, config, graphs, period: as in `peers_step`.
      mesh: with an axis "clients", whose size divides K.

    Raises:
      ValueError: as `peers_step`, or a mesh without that axis.
    """
    graphs = _checked(graphs, period)
    size = dict(mesh.shape).get(_AXIS, 0)
    if not size or graphs.shape[1] % size:
        raise ValueError(
            f"mesh needs an axis {_AXIS!r} whose size divides {graphs.shape[1]}, not "
            f"{dict(mesh.shape)}"
        )
    split, whole = PartitionSpec(_AXIS), PartitionSpec()
    own = PeersState._make([split, split, split, whole])

    def local(state: PeersState, batch: Batch, key: Key[Array, ""]):
        graph = graphs[(state.step // period) % len(graphs)]
        said = jax.vmap(lambda params: message(apply, params, batch.public))(state.published)
        everything = jax.tree.map(lambda leaf: jax.lax.all_gather(leaf, _AXIS, tiled=True), said)
        count = len(batch.x)
        clients = jax.lax.axis_index(_AXIS) * count + jnp.arange(count)
        return _advance(
            apply,
            optimizer,
            config,
            state,
            batch.x,
            batch.y,
            batch,
            everything,
            graph,
            clients,
            key,
        )

    return jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(own, Batch._make([split, split, whole, whole]), whole),
        out_specs=(own, split),
        check_vma=False,
    )


def _checked(graphs: Graphs, period: int) -> Array:
    shape = np.shape(graphs)
    if len(shape) != 3 or not shape[0] or shape[1] != shape[2]:
        raise ValueError(f"graphs must be [G, K, K], not {list(shape)}")
    if np.asarray(graphs).diagonal(axis1=1, axis2=2).any():
        raise ValueError("graphs: a client hears itself")
    if period < 1:
        raise ValueError(f"period must be at least 1, not {period}")
    return jnp.asarray(graphs)


def _advance(
    apply, optimizer, config, state: PeersState, x, y, batch: Batch, everything, graph, clients, key
):
    """Some clients, by their numbers, given what all say."""
    count = min(config.neighbours, len(graph) - 1)

    def one(params, moments, x, y, client):
        own = jax.random.fold_in(key, client)
        hears = graph[client] & batch.present
        # The neighbours with the largest random numbers; those it does not hear come last.
        order = jnp.where(hears, jax.random.uniform(own, hears.shape), -1.0)
        _, chosen = jax.lax.top_k(order, max(count, 1))
        heard = jax.tree.map(lambda leaf: leaf[chosen], everything)
        there = hears[chosen] & (count > 0)

        def loss(params):
            return client_loss(
                apply, params, x, y, batch.public, heard, there, config, jax.random.fold_in(own, 1)
            )

        (value, metrics), slopes = jax.value_and_grad(loss, has_aux=True)(params)
        updates, new = optimizer.update(slopes, moments, params)
        moved = optax.apply_updates(params, updates), new
        here = batch.present[client]
        params, moments = jax.tree.map(lambda a, b: jnp.where(here, a, b), moved, (params, moments))
        return params, moments, metrics | {"loss": value}

    params, moments, metrics = jax.vmap(one)(state.params, state.moments, x, y, clients)
    step = state.step + 1
    here = batch.present[clients]

    def publish(new, old):
        fresh = (step % config.refresh == 0) & here
        return jnp.where(fresh.reshape(-1, *[1] * (new.ndim - 1)), new, old)

    published = jax.tree.map(publish, params, state.published)
    return PeersState(params, published, moments, step), metrics
