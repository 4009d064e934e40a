"""Learnable memory: new tasks for a frozen vision transformer, all in one forward pass.

Source: "Fine-tuning Image Transformers using Learnable Memory", Sandler et al. 2022 (2203.15243).
Verified: memory as keys and values alone, new in every layer, and who sees whom (its Table 1).

A task is a plain dict, {"class_token" [D], "memory" [L, M, D], "head": {"kernel" [D, K], "bias"
[K]}}, without "memory" if it has none, and tasks are a dict of those by name, to be trained, saved
and merged as such.

Dimension key: B images, L blocks, M memory tokens of a task, D width, K classes, T tokens of an
image, N tasks.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key

from ico.models._convnet import dense
from ico.models._vit import Additions, ViT

TaskParams = Mapping[str, Any]
Tasks = Mapping[str, TaskParams]


def new_task(
    key: Key[Array, ""],
    params: Mapping[str, Any],
    num_classes: int,
    cells: int,
    *,
    copy_class_token: bool = True,
) -> dict[str, Any]:
    """A task to be trained.

    Args:
      key: of the memory, normal with a deviation of 0.02.
      params: of the `ViT`, which has a class token.
      num_classes: K, with a head of zeros.
      cells: M; 0 has a class token of its own alone.
      copy_class_token: whether it starts from the `ViT`'s own, with its position; else as the
        memory does.

    Raises:
      ValueError: a `ViT` without a class token, or a number below its least.
    """
    if "class_token" not in params:
        raise ValueError("a task needs a ViT with a class token (class_token=True)")
    if num_classes < 1 or cells < 0:
        raise ValueError(f"want 1 class and 0 cells at least, not {num_classes} and {cells}")
    D, depth = params["class_token"].shape[0], sum(name.startswith("block_") for name in params)
    keys = jax.random.split(key)
    own = params["class_token"] + params["position"][0]
    task = {
        "class_token": own if copy_class_token else 0.02 * jax.random.normal(keys[1], (D,)),
        "head": {"kernel": jnp.zeros((D, num_classes)), "bias": jnp.zeros(num_classes)},
    }
    if cells:
        task["memory"] = 0.02 * jax.random.normal(keys[0], (depth, cells, D))
    return task


def concatenate_tasks(*tasks: Tasks) -> dict[str, TaskParams]:
    """Tasks that were trained independently, to be read in one forward pass.

    Raises:
      ValueError: two of them have one name.
    """
    found: dict[str, TaskParams] = {}
    for some in tasks:
        if twice := sorted(set(found) & set(some)):
            raise ValueError(f"two tasks are called {twice[0]!r}")
        found |= some
    return found


def drop_tasks(tasks: Tasks, *names: str) -> dict[str, TaskParams]:
    """The tasks but for some.

    Raises:
      KeyError: there is no such task.
    """
    for name in names:
        if name not in tasks:
            raise KeyError(f"no task {name!r}; there are {', '.join(tasks)}")
    return {name: task for name, task in tasks.items() if name not in names}


def sees_mask(
    num_tokens: int, cells: Mapping[str, int], extends: Mapping[str, Sequence[str]] | None = None
) -> Bool[np.ndarray, "T S"]:
    """Who sees whom: [T + N, T + N + M], M of all tasks together (2203.15243, Table 1).

    An image's tokens see each other, so that what the `ViT` gives does not change. A task's class
    token sees these, itself and its own memory, and those of tasks that it extends.

    Args:
      num_tokens: T.
      cells: task -> M.
      extends: task -> tasks whose class token and memory its own sees; none by default.

    Raises:
      ValueError: a task extends one that is not there, or itself, if only by way of others.
    """
    extends = extends or {}
    for name, others in extends.items():
        if wrong := [o for o in (name, *others) if o not in cells] or (
            [name] if name in others else []
        ):
            raise ValueError(f"{name!r} cannot extend {wrong[0]!r}; tasks are {', '.join(cells)}")
        seen, waiting = set(), list(others)
        while waiting:
            other = waiting.pop()
            if other == name:
                raise ValueError(f"{name!r} cannot extend itself, by way of {others[0]!r}")
            if other not in seen:
                seen.add(other)
                waiting += extends.get(other, ())
    T, N = num_tokens, len(cells)
    owner = np.repeat(np.arange(N), list(cells.values()))
    names = list(cells)
    mask = np.zeros((T + N, T + N + len(owner)), bool)
    mask[:, :T] = True
    for n, name in enumerate(names):
        for other in (name, *extends.get(name, ())):
            o = names.index(other)
            mask[T + n, T + o] = True
            mask[T + n, T + N :] |= owner == o
    return mask


def memory_logits(
    vit: ViT,
    params: Mapping[str, Any],
    tasks: Tasks,
    images: Float[Array, "B Y X C"],
    *,
    extends: Mapping[str, Sequence[str]] | None = None,
) -> tuple[dict[str, Float[Array, "B K"]], Float[Array, "B T D"]]:
    """Logits of every task, and the tokens of the frozen `ViT`, in one forward pass.

    Args:
      vit: with a class token.
      params: its parameters.
      tasks: by name; see `new_task`.
      images: of the size that the `ViT` has positions for.
      extends: task -> earlier tasks that it was trained on top of.

    Raises:
      ValueError: as `sees_mask`; no task, or memory of another depth or width.
    """
    T = params["position"].shape[0]
    if not tasks:
        raise ValueError("there is no task to read")
    for name, task in tasks.items():
        shape = task["memory"].shape if "memory" in task else (vit.depth, 0, vit.dim)
        if (shape[0], shape[2]) != (vit.depth, vit.dim) or task["class_token"].shape != (vit.dim,):
            raise ValueError(
                f"task {name!r} is of a ViT with {shape[0]} blocks of width {shape[2]}, and this "
                f"one has {vit.depth} of {vit.dim}"
            )
    memory = {name: task["memory"] for name, task in tasks.items() if "memory" in task}
    cells = {name: memory[name].shape[1] if name in memory else 0 for name in tasks}
    given = Additions(
        jnp.stack([task["class_token"] for task in tasks.values()]),
        jnp.concatenate(list(memory.values()), axis=1) if memory else None,
        sees_mask(T, cells, extends),
    )
    tokens: Any = vit.apply({"params": params}, images, given, method="extended")
    own = zip(tasks.items(), jnp.moveaxis(tokens[:, T:], 1, 0), strict=True)
    logits = {name: dense(task["head"], features) for (name, task), features in own}
    return logits, tokens[:, :T]


def attention_to_memory(
    vit: ViT, params: Mapping[str, Any], task: TaskParams, images: Float[Array, "B Y X C"]
) -> Float[Array, "L B"]:
    """Share of its attention that a task's class token gives to its memory, the mean over heads.

    Args:
      vit: with a class token.
      params: its parameters.
      task: with one cell of memory at least; see `new_task`.
      images: of the size that the `ViT` has positions for.
    """
    bound, B = vit.bind({"params": params}), len(images)
    mask = jnp.asarray(sees_mask(params["position"].shape[0], {"": task["memory"].shape[1]}))
    own = jnp.broadcast_to(task["class_token"][None, None], (B, 1, vit.dim))
    x, found = jnp.concatenate([bound.embed(images), own], axis=1), []
    for layer, block in enumerate(bound.blocks):
        memory = jnp.broadcast_to(task["memory"][layer][None], (B, *task["memory"].shape[1:]))
        weights = params[f"block_{layer}"]
        seen = jnp.concatenate([x, memory], axis=1)
        normed = _normed(weights["attention_norm"], seen, vit.norm_epsilon)
        q, k = (
            jnp.einsum("btd,dha->btha", normed, weights["attention"][name]["kernel"])
            + weights["attention"][name]["bias"][None, None]
            for name in ("query", "key")
        )
        scores = jnp.einsum("bha,bsha->bhs", q[:, x.shape[1] - 1], k) * q.shape[-1] ** -0.5
        shares = jax.nn.softmax(scores)[..., x.shape[1] :]
        found.append(shares.sum(-1).mean(1))
        x = block(x, mask[None, None], memory)
    return jnp.stack(found)


def _normed(weights: Mapping[str, Array], x, epsilon: float):
    x = (x - x.mean(-1, keepdims=True)) * jax.lax.rsqrt(x.var(-1, keepdims=True) + epsilon)
    return x * weights["scale"][None, None] + weights["bias"][None, None]
