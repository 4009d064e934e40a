"""Populations of clients, trained in any setting, and their right answers head by head.

Dimension key: S seeds, K clients, H heads (the main one first), N test images, E tests along a
training.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ico import data, lab, models, peers
from ico.peers import Distillation

RATES = (3e-4, 1e-3, 3e-3)
DISTILLED, SEPARATE, FEDAVG, SINGLE, EMBEDDING, CENTRAL = (
    "multi-headed",
    "separate",
    "federated averaging",
    "single head",
    "embedding only",
    "centralised",
)


@dataclasses.dataclass(frozen=True)
class Setting:
    """How a population learns.

    Fields:
      kind: of the rivals, which decides the learning rate.
      heads: auxiliary ones.
      skew: of the labels.
      graph: who hears whom: "complete", "cycle", "islands", "random" or "changing".
      rule, own: of targets, see `ico.peers.Distillation`.
      big: clients, the first ones, with twice as wide convolutions; the others have half as wide
        ones. None: all have the same.
      absent: clients, the first ones, that are not there in the middle half of the training.
    """

    kind: str = DISTILLED
    heads: int = 4
    skew: float = 100.0
    graph: str = "complete"
    rule: str = "confident"
    own: bool = True
    big: int | None = None
    absent: int = 0


# What each kind changes of the distillation; all hear one neighbour a step.
_KINDS: dict[str, dict[str, Any]] = {
    DISTILLED: {},
    SEPARATE: {"aux_weight": 0.0, "embedding_weight": 0.0},
    FEDAVG: {"aux_weight": 0.0, "embedding_weight": 0.0},
    SINGLE: {"main": True, "embedding_weight": 0.0, "rule": "average", "own": False},
    EMBEDDING: {"aux_weight": 0.0},
    CENTRAL: {"aux_weight": 0.0, "embedding_weight": 0.0},
}


class Sets(NamedTuple):
    """Images in bytes, with labels: to learn from, to tune by, to be tested on."""

    train: data.Images
    valid: data.Images
    test: data.Images


@lab.once
def images(run) -> Sets:
    """Those that the configuration names; what is not trained on is for tuning, but for tests."""
    config = run.config
    if config.images == "digits":
        whole = data.digit_images().in_bytes().shuffled(0)
        test, whole = whole.first(config.test_images), _after(whole, config.test_images)
    else:
        try:
            parts = [data.fashion_mnist(split).shrunk().in_bytes() for split in ("train", "test")]
        except FileNotFoundError as error:
            raise lab.InputError("images", str(error)) from error
        whole, test = (part.shuffled(0) for part in parts)
    rest = _after(whole, config.num_images)
    if not len(rest.labels):
        raise lab.InputError("num_images", "there are no more images to tune by")
    count = config.test_images
    return Sets(whole.first(config.num_images), rest.first(count), test.first(count))


def _after(found: data.Images, count: int) -> data.Images:
    return data.Images(found.pixels[count:], found.labels[count:])


class Population(NamedTuple):
    """What a training gives.

    Fields:
      right: right answers on test images, [S, K, H, N].
      curve: shared accuracy of the last head along the training, [E, S].
      steps: of the tests, [E].
      shares: labels of each client, [S, K, C].
      parameters: of each client's network, [K].
      message: bytes of one message.
      labels: of the test images, [N].
    """

    right: np.ndarray
    curve: np.ndarray
    steps: np.ndarray
    shares: np.ndarray
    parameters: np.ndarray
    message: int
    labels: np.ndarray

    def shared(self, head: int = -1, clients: slice = slice(None)) -> np.ndarray:
        """Share of clients with the right answer, %, [S, N]."""
        return 100 * self.right[:, clients, head].mean(1)

    def private(self, head: int = 0, clients: slice = slice(None)) -> np.ndarray:
        """The same, an image counting for a client as often as its label is the client's."""
        often = np.bincount(self.labels, minlength=self.shares.shape[-1]) / len(self.labels)
        often = np.where(often > 0, often, 1)  # of labels that no test image has
        weight = (self.shares / often)[:, clients][..., self.labels]  # [S, K, N]
        return 100 * (weight * self.right[:, clients, head]).mean(1)


def trained(run, setting: Setting) -> Population:
    """A population in a setting at its kind's learning rate; trained once, found again."""
    return _kept(run, setting, _rate(run, setting.kind), run.config.num_steps, run.num_seeds)


@lab.once
def _rate(run, kind: str) -> float:
    """Of three, that of the highest shared accuracy on images for tuning; one seed each."""
    steps = run.config.tuning_steps
    if not steps:
        return RATES[1]
    setting = Setting(kind, heads=heads_of(kind, max(run.config.heads)), skew=max(run.config.skews))
    found = {
        rate: _kept(run, setting, rate, steps, 1, valid=True).shared().mean() for rate in RATES
    }
    best = max(found, key=lambda rate: found[rate])
    shown = ", ".join(f"{accuracy:.1f}% at {rate:g}" for rate, accuracy in found.items())
    run.note(f"{kind}: {shown} after {steps} steps, on images for tuning.")
    return best


def heads_of(kind: str, most: int) -> int:
    """Auxiliary heads of a kind."""
    return most if kind == DISTILLED else 0


def _kept(run, setting: Setting, rate: float, steps: int, seeds: int, valid=False) -> Population:
    config = run.config
    given = {"setting": setting, "rate": rate, "steps": steps, "seeds": seeds, "valid": valid}
    spec = given | {
        name: getattr(config, name)
        for name in (
            "num_clients",
            "primaries",
            "images",
            "num_images",
            "public",
            "widths",
            "dim",
            "batch_size",
            "refresh",
            "test_images",
            "tests",
        )
    }
    name = "-".join(str(x).replace(" ", "-") for x in dataclasses.astuple(setting))
    found = run.kept(
        f"{name}-{rate:g}", spec, lambda folder: _fit(run, setting, rate, steps, seeds, valid)
    )
    return Population(**{k: found[k] for k in Population._fields[:5]}, **_rest(found))


def _rest(found) -> dict[str, Any]:
    return {"message": int(found["message"]), "labels": found["labels"]}


def _graphs(run, setting: Setting, clients: int) -> tuple[np.ndarray, int]:
    """Of the setting, and the steps that each stays."""
    degree = min(2, clients - 1)
    if clients == 1:
        return np.zeros((1, 1, 1), bool), 1
    if setting.graph == "islands":
        return peers.islands(clients, clients // 2)[None], 1
    if setting.graph == "random":
        return peers.random_graph(clients, degree)[None], 1
    if setting.graph == "changing":
        return np.stack(
            [peers.random_graph(clients, 1, seed) for seed in range(8)]
        ), run.config.refresh
    return getattr(peers, setting.graph)(clients)[None], 1


def _networks(run, setting: Setting) -> list[tuple[models.MultiHeadClassifier, int]]:
    """Architectures and how many clients have each."""
    config = run.config
    clients = 1 if setting.kind == CENTRAL else config.num_clients

    def network(factor: float):
        widths = tuple(max(1, round(factor * width)) for width in config.widths)
        return models.MultiHeadClassifier(10, setting.heads, widths, config.dim)

    if setting.big is None:
        return [(network(1.0), clients)]
    parts = [(network(2.0), setting.big), (network(0.5), clients - setting.big)]
    return [(model, count) for model, count in parts if count]


class _Given(NamedTuple):
    """Data of the populations, with a leading axis of seeds but for the images."""

    pixels: Any
    labels: Any
    private: Any
    counts: Any
    public: Any


def _fit(run, setting: Setting, rate: float, steps: int, seeds: int, valid: bool) -> dict[str, Any]:
    config, sets = run.config, images(run)
    networks = _networks(run, setting)
    parts = [_partition(run, setting, sets.train.labels, seed) for seed in range(seeds)]
    given = _given(sets.train, parts)
    optimizer = optax.adam(rate)
    keys = jax.random.split(run.key(f"population/{setting.skew}"), seeds)
    applies = [functools.partial(_apply, model) for model, _ in networks]
    image = jnp.zeros((1, *sets.train.pixels.shape[1:]))
    states = [
        jax.vmap(
            lambda key, m=model, n=count, g=number: peers.init_peers(
                jax.random.fold_in(key, g), lambda k: m.init(k, image)["params"], optimizer, n
            )
        )(keys)
        for number, (model, count) in enumerate(networks)
    ]
    one_step = _step(run, setting, applies, optimizer, steps)
    every = jax.vmap(one_step, in_axes=(0, 0, _Given(None, None, 0, 0, 0), None))

    @functools.partial(jax.jit, donate_argnums=0)
    def several(states, numbers):
        def body(states, number):
            return every(states, keys, given, number), None

        return jax.lax.scan(body, states, numbers)[0]

    test = sets.valid if valid else sets.test
    answers = jax.jit(functools.partial(_answers, applies, test))
    curve, right = [], np.zeros(())
    places = sorted({steps * (e + 1) // config.tests for e in range(config.tests)} - {0})
    for first, last in zip([0, *places], places, strict=False):
        states = several(states, jnp.arange(first, last))
        right = np.asarray(answers([s.params for s in states]))
        curve.append(right[:, :, -1].mean((1, 2)))
    one = jax.tree.map(lambda leaf: leaf[0, 0], states[0].params)
    public = jnp.zeros((config.batch_size, *image.shape[1:]))
    said = jax.eval_shape(functools.partial(peers.message, applies[0]), one, public)
    return {
        "right": right,
        "curve": np.stack(curve),
        "steps": np.asarray(places),
        "shares": np.stack([part.shares(sets.train.labels) for part in parts]),
        "parameters": np.concatenate([_sizes(s) for s in states]),
        "message": np.asarray(peers.message_bytes(said)),
        "labels": np.asarray(test.labels),
    }


def _given(found: data.Images, parts: list[peers.Partition]) -> _Given:
    longest = max(part.private.shape[1] for part in parts)
    private = [np.pad(p.private, ((0, 0), (0, longest - p.private.shape[1]))) for p in parts]
    return _Given(
        jnp.asarray(found.pixels),
        jnp.asarray(found.labels),
        jnp.asarray(np.stack(private)),
        jnp.asarray(np.stack([part.counts for part in parts])),
        jnp.asarray(np.stack([part.public for part in parts])),
    )


def _step(run, setting: Setting, applies, optimizer, steps: int):
    """(states, key, data, number of the step) -> states, of one population."""
    config = run.config
    clients = sum(count for _, count in _networks(run, setting))
    graphs, period = _graphs(run, setting, clients)
    distillation = Distillation(refresh=config.refresh, **_changes(setting))
    step = peers.peers_step(applies, optimizer, distillation, graphs, period=period)
    absent = jnp.arange(clients) < setting.absent

    def averaged(state, now):
        def choose(mean, own):
            return jnp.where(now, mean, own)

        mean = peers.average_of(state.params)
        return state._replace(params=jax.tree.map(choose, mean, state.params))

    def one_step(states, key, given, number):
        away = (number >= steps // 4) & (number < 3 * steps // 4)
        batch = _batch(jax.random.fold_in(key, number), given, config.batch_size, ~(absent & away))
        states, _ = step(states, batch, jax.random.fold_in(key, steps + number))
        if setting.kind == FEDAVG:
            now = (number + 1) % config.refresh == 0
            states = [averaged(state, now) for state in states]
        return states

    return one_step


def _answers(applies, test: data.Images, params):
    """Whether answers are right, [S, K, H, N]."""
    pixels, labels = jnp.asarray(test.pixels), jnp.asarray(test.labels)

    def of_client(apply):
        return lambda params: apply(params, _unit(pixels))[1].argmax(-1) == labels[None]

    def of_seed(params):
        found = [jax.vmap(of_client(a))(p) for a, p in zip(applies, params, strict=True)]
        return jnp.concatenate(found)

    return jax.lax.map(of_seed, params)


def _sizes(state) -> np.ndarray:
    """Numbers of parameters of clients, [K]."""
    leaves = jax.tree.leaves(state.params)
    return np.full(leaves[0].shape[1], sum(int(np.prod(leaf.shape[2:])) for leaf in leaves))


def _changes(setting: Setting) -> dict[str, Any]:
    """Of the distillation."""
    return {"rule": setting.rule, "own": setting.own} | _KINDS[setting.kind]


def _partition(run, setting: Setting, labels, seed: int) -> peers.Partition:
    config = run.config
    if setting.kind == CENTRAL:
        part = peers.skewed(labels, 1, 0.0, primaries=1, public=config.public, seed=seed)
        return part
    return peers.skewed(
        labels,
        config.num_clients,
        setting.skew,
        primaries=config.primaries,
        public=config.public,
        seed=seed,
    )


def _apply(model, params, pixels):
    return model.apply({"params": params}, pixels)


def _unit(pixels):
    return pixels.astype(jnp.float32) / 127.5 - 1


def _batch(key, given: _Given, count: int, present) -> peers.Batch:
    """Private images of every client, with replacement, and public ones."""
    keys = jax.random.split(key)
    clients = len(given.counts)
    chosen = jax.random.randint(keys[0], (clients, count), 0, given.counts[:, None])
    places = jnp.take_along_axis(given.private, chosen, axis=1)
    public = given.public[jax.random.randint(keys[1], (count,), 0, len(given.public))]
    return peers.Batch(
        _unit(given.pixels[places]), given.labels[places], _unit(given.pixels[public]), present
    )


def recorded(run, setting: Setting, **axes) -> Any:
    """A record of a population: accuracies, %, [S, N]; of "last" and "main" head."""
    found = trained(run, setting)
    return lab.record(
        **axes,
        shared=found.shared(),
        main_shared=found.shared(0),
        private=found.private(),
    )
