"""Ways to fine-tune a vision transformer, each a few parameters beside it: one interface for all.

    way = Memory(vit, num_classes=10, cells=5)
    moving = way.init(key, params)                  # what is trained
    logits = way.logits(params, moving, images)     # `params` stay as they are

Dimension key: B images, K classes, L blocks, D width, M memory tokens, R rank or width, E experts.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from ico.models._convnet import dense
from ico.models._memory import memory_logits, new_task
from ico.models._vit import Additions, ViT

PyTree = Any


@dataclasses.dataclass(frozen=True)
class FineTuning:
    """What all have in common; by itself the head alone is trained.

    Fields:
      vit: with a class token.
      num_classes: K.

    Raises:
      ValueError: a `ViT` without one, a number below its least, or memory that is handed on
        although it is masked.
    """

    vit: ViT
    num_classes: int

    def __post_init__(self):
        if not self.vit.class_token:
            raise ValueError("fine-tuning needs a ViT with a class token (class_token=True)")
        for name, least in self._least.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, not {getattr(self, name)}")

    @property
    def _least(self) -> dict[str, int]:
        """The smallest value of each number."""
        return {"num_classes": 1}

    def init(self, key: Key[Array, ""], params: PyTree) -> dict[str, Any]:
        """What is trained; heads start at zero, and so do answers."""
        del key
        return {"head": self._new_head(params)}

    def logits(
        self,
        params: PyTree,
        moving: Mapping[str, Any],
        images: Float[Array, "B Y X C"],
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "B K"]:
        """Of images.

        Args:
          params: of the `ViT`, frozen.
          moving: as `init` makes it.
          images: to be classified.
          key: of what is random in training (`AdaMix`); None is how it is used after.
        """
        del key
        return dense(moving["head"], self._class_features(params, images, Additions()))

    def _new_head(self, params: PyTree) -> dict[str, Array]:
        D, K = params["class_token"].shape[0], self.num_classes
        return {"kernel": jnp.zeros((D, K)), "bias": jnp.zeros(K)}

    def _class_features(self, params, images, given: Additions):
        tokens: Any = self.vit.apply({"params": params}, images, given, method="extended")
        return tokens[:, 0]


@dataclasses.dataclass(frozen=True)
class WholeModel(FineTuning):
    """All parameters."""

    def init(self, key, params):
        """See `FineTuning`."""
        return super().init(key, params) | {"vit": jax.tree.map(jnp.array, params)}

    def logits(self, params, moving, images, key=None):
        """See `FineTuning`."""
        del params
        return super().logits(moving["vit"], moving, images, key)


@dataclasses.dataclass(frozen=True)
class Memory(FineTuning):
    """Memory in every block and a class token (2203.15243); without cells the class token alone.

    Fields:
      cells: M.
      masked: whether the image's own tokens do not see memory and new class token, so that the
        model's other answers stay as they are; else the class token takes the place of its own.
      propagated: whether blocks hand on what they make of the memory (not masked).
    """

    cells: int = 5
    masked: bool = True
    propagated: bool = False

    def __post_init__(self):
        super().__post_init__()
        if self.masked and self.propagated:
            raise ValueError("propagated memory cannot be masked: give masked=False")

    @property
    def _least(self):
        return super()._least | {"cells": 0 if self.masked else 1}

    def init(self, key, params):
        """See `FineTuning`."""
        task = new_task(key, params, self.num_classes, self.cells)
        if not self.masked:
            task["class_token"] = jnp.array(params["class_token"])
        return task

    def logits(self, params, moving, images, key=None):
        """See `FineTuning`."""
        del key
        if self.masked:
            return memory_logits(self.vit, params, {"": moving}, images)[0][""]
        given = Additions(memory=moving["memory"], propagated=self.propagated)
        own = {**params, "class_token": moving["class_token"]}
        return dense(moving["head"], self._class_features(own, images, given))


@dataclasses.dataclass(frozen=True)
class Prompts(FineTuning):
    """Learned tokens at the input alone, which go through all blocks (2203.12119, shallow).

    Fields:
      tokens: M.
    """

    tokens: int = 5

    @property
    def _least(self):
        return super()._least | {"tokens": 1}

    def init(self, key, params):
        """See `FineTuning`."""
        task = new_task(key, params, self.num_classes, self.tokens)
        own = jnp.array(params["class_token"])
        return {"head": task["head"], "class_token": own, "prompts": task["memory"][0]}

    def logits(self, params, moving, images, key=None):
        """See `FineTuning`."""
        del key
        own = {**params, "class_token": moving["class_token"]}
        first = moving["prompts"][None]
        later = jnp.zeros((self.vit.depth - 1, *first.shape[1:]), first.dtype)
        given = Additions(memory=jnp.concatenate([first, later]), propagated=True)
        return dense(moving["head"], self._class_features(own, images, given))


@dataclasses.dataclass(frozen=True)
class Lora(FineTuning):
    """Low-rank updates of the query and value projections (2106.09685).

    Fields:
      rank: R.
      alpha: over R, the factor of the update.
    """

    rank: int = 4
    alpha: float = 8.0

    @property
    def _least(self):
        return super()._least | {"rank": 1}

    def init(self, key, params):
        """See `FineTuning`."""
        D, L = params["class_token"].shape[0], self.vit.depth
        moving = super().init(key, params)
        for own, name in zip(jax.random.split(key), ("query", "value"), strict=True):
            a = jax.random.normal(own, (L, D, self.rank)) / jnp.sqrt(D)
            moving[name] = {"a": a, "b": jnp.zeros((L, self.rank, D))}
        return moving

    def logits(self, params, moving, images, key=None):
        """See `FineTuning`."""
        del key
        changed = dict(params)
        for layer in range(self.vit.depth):
            block = dict(params[f"block_{layer}"])
            attention = dict(block["attention"])
            for name in ("query", "value"):
                kernel = attention[name]["kernel"]
                update = moving[name]["a"][layer] @ moving[name]["b"][layer]
                update = self.alpha / self.rank * update.reshape(kernel.shape)
                attention[name] = {**attention[name], "kernel": kernel + update}
            changed[f"block_{layer}"] = {**block, "attention": attention}
        return super().logits(changed, moving, images)


@dataclasses.dataclass(frozen=True)
class Adapters(FineTuning):
    """A small network after each MLP (1902.00751, one a block).

    Fields:
      width: R.
    """

    width: int = 8

    @property
    def _least(self):
        return super()._least | {"width": 1}

    def init(self, key, params):
        """See `FineTuning`."""
        D, L, R = params["class_token"].shape[0], self.vit.depth, self.width
        down = jax.random.normal(key, (L, D, R)) / jnp.sqrt(D)
        adapters = {"down": down, "bias": jnp.zeros((L, R)), "up": jnp.zeros((L, R, D))}
        return super().init(key, params) | {"adapters": adapters}

    def logits(self, params, moving, images, key=None):
        """See `FineTuning`."""
        del key
        given = Additions(adapters=moving["adapters"])
        return dense(moving["head"], self._class_features(params, images, given))


@dataclasses.dataclass(frozen=True)
class AdaMix(Adapters):
    """Adapters of which one of several is drawn in training, merged after (2205.12410).

    The projections down are E, those up are shared (the authors' choice); a pass draws one of E for
    every block. Trained with the loss of two passes and `consistency` between them.

    Fields:
      experts: E.
      copied: whether the experts start as one; else each on its own, and merging fails.
    """

    experts: int = 4
    copied: bool = True

    @property
    def _least(self):
        return super()._least | {"experts": 1}

    def init(self, key, params):
        """See `FineTuning`."""
        keys = jax.random.split(key, self.experts)
        keys = [keys[0 if self.copied else e] for e in range(self.experts)]
        one = [super(AdaMix, self).init(own, params) for own in keys]
        down, bias = (jnp.stack([m["adapters"][n] for m in one], 1) for n in ("down", "bias"))
        adapters = {"down": down, "bias": bias, "up": one[0]["adapters"]["up"]}  # [L, E, ...]
        return one[0] | {"adapters": adapters}

    def logits(self, params, moving, images, key=None):
        """See `FineTuning`; without a key the experts are merged: their weights' mean."""
        adapters = dict(moving["adapters"])
        for name in ("down", "bias"):
            leaf = adapters[name]
            if key is None:
                adapters[name] = leaf.mean(1)
            else:
                drawn = jax.random.randint(key, (len(leaf),), 0, self.experts)
                adapters[name] = leaf[jnp.arange(len(leaf)), drawn]
        return super().logits(params, {**moving, "adapters": adapters}, images)


def consistency(first: Float[Array, "B K"], second: Float[Array, "B K"]) -> Float[Array, ""]:
    """The symmetric Kullback-Leibler divergence of two answers' softmaxes, nats (2205.12410)."""
    a, b = jax.nn.log_softmax(first), jax.nn.log_softmax(second)
    return (jnp.exp(a) * (a - b) + jnp.exp(b) * (b - a)).sum(-1).mean() / 2
