"""Next-token training of a language model on batches, through `ico.train`'s step.

Dimension key: B rows, T tokens.
"""

from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ico.lm import DecoderConfig, next_token_loss
from ico.poison._injection import Batch
from ico.train import NonFiniteLoss, TrainState, make_step


class Trainer:
    """One optimizer on one model, compiled once for each shape of batch; keep the object.

        trainer = Trainer(lm.config, optax.adam(1e-5))
        state, metrics = trainer.run(trainer.init(lm.params), batches)

    `run` takes a state's buffers for its own: use the state that it returns. For long runs that
    must survive a kill, give `trainer.step` to `ico.train.fit`.

    Args:
      config: the decoder's.
      optimizer: any optax transform.
      remat: recompute layers in the backward pass, for long rows or little memory.
    """

    def __init__(
        self,
        config: DecoderConfig,
        optimizer: optax.GradientTransformation,
        *,
        remat: bool = False,
    ):
        def loss(params, batch: Batch):
            return next_token_loss(params, config, batch.ids, batch.mask, remat=remat), {}

        self.optimizer = optimizer
        self.step = make_step(loss, optimizer)
        self._compiled = jax.jit(self.step, donate_argnums=0)

    def init(self, params) -> TrainState:
        """The state before the first step, on a copy of the parameters."""
        params = jax.tree.map(jnp.copy, params)
        # The key is part of every state; nothing here is random.
        return TrainState(
            jnp.zeros((), jnp.int32), params, self.optimizer.init(params), jax.random.key(0)
        )

    def run(
        self, state: TrainState, batches: Iterable[Batch]
    ) -> tuple[TrainState, dict[str, np.ndarray]]:
        """A step on every batch.

        Returns:
          The new state, and `loss`, `grad_norm`, `update_norm`, `param_norm`, each [steps].

        Raises:
          NonFiniteLoss: a loss was not finite; the state is lost.
        """
        rows = []
        for batch in batches:
            state, metrics = self._compiled(state, batch)
            rows.append(metrics)
        rows = jax.device_get(rows)
        found = {name: np.array([row[name] for row in rows]) for name in (rows[0] if rows else ())}
        if rows and not np.isfinite(found["loss"]).all():
            first = int(np.argmin(np.isfinite(found["loss"])))
            norms = {name: float(values[first]) for name, values in found.items()}
            raise NonFiniteLoss(first, None, norms, None)
        return state, found
