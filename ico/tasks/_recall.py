"""Recall of values by their keys, within one sequence of tokens.

After the noisy and the fuzzy in-context recall of MAD (2403.17844), which 2506.05233 (Table 9) is
measured on; sizes are ours, and fuzzy keys have two tokens always (there one to three).

Dimension key: B sequences, N slots, W tokens in a slot, T = N W positions.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from ico.types import Sequence


@dataclasses.dataclass(frozen=True)
class Recall:
    """Slots (key, value) in which equal keys have equal values, drawn anew for every sequence.

    Fields:
      batch_size: B.
      num_slots: N.
      num_keys: different keys; fuzzy ones are pairs out of so many tokens, num_keys^2 in all.
      num_values: different values; tokens of their own, as are those of keys and noise.
      noise: probability that a slot holds noise tokens in place of a pair.
      num_noise: different noise tokens.
      fuzzy: whether a key is two tokens, neither of which tells the value by itself.

    Raises:
      ValueError: a size below one, or a noise outside [0, 1).
    """

    batch_size: int = 32
    num_slots: int = 64
    num_keys: int = 16
    num_values: int = 16
    noise: float = 0.0
    num_noise: int = 16
    fuzzy: bool = False

    def __post_init__(self):
        for name in ("batch_size", "num_slots", "num_keys", "num_values", "num_noise"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not 0 <= self.noise < 1:
            raise ValueError(f"noise is a probability below 1, not {self.noise}")

    @property
    def vocab_size(self) -> int:
        """Ids: keys, then values, then noise."""
        return self.num_keys + self.num_values + self.num_noise

    @property
    def slot_width(self) -> int:
        """Tokens in a slot."""
        return 3 if self.fuzzy else 2


def recall(key: Key[Array, ""], config: Recall) -> Sequence:
    """Tokens [B, T], the token that follows each, and where it can be known.

    The mask is True where the next token is the value of a key that stood in an earlier slot.
    """
    B, N, W = config.batch_size, config.num_slots, config.slot_width
    keys = jax.random.split(key, 4)
    parts = W - 1
    count = config.num_keys**parts
    values_BK = jax.random.randint(keys[0], (B, count), 0, config.num_values)
    asked_BN = jax.random.randint(keys[1], (B, N), 0, count)
    answer_BN = jnp.take_along_axis(values_BK, asked_BN, axis=1) + config.num_keys
    digits = [asked_BN // config.num_keys**i % config.num_keys for i in range(parts)]
    slots_BNW = jnp.stack([*digits, answer_BN], axis=-1)
    is_noise_BN = jax.random.uniform(keys[2], (B, N)) < config.noise
    first = config.num_keys + config.num_values
    noise_BNW = jax.random.randint(keys[3], (B, N, W), first, first + config.num_noise)
    tokens_BT = jnp.where(is_noise_BN[..., None], noise_BNW, slots_BNW).reshape(B, N * W)
    same_BNN = (asked_BN[:, :, None] == asked_BN[:, None, :]) & ~is_noise_BN[:, None, :]
    seen_BN = jnp.any(same_BNN & jnp.tri(N, k=-1, dtype=bool)[None], axis=-1) & ~is_noise_BN
    mask_BNW = jnp.zeros((B, N, W), bool).at[..., W - 2].set(seen_BN)
    targets_BT = jnp.pad(tokens_BT[:, 1:], ((0, 0), (0, 1)))
    return Sequence(tokens_BT, targets_BT, mask_BNW.reshape(B, N * W))
