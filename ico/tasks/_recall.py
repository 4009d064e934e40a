"""Recall of values by their keys, within one sequence of tokens.

After the noisy and the fuzzy in-context recall of MAD (2403.17844), used in 2506.05233 (Table 9).
Sizes are ours, and fuzzy keys always have two tokens (there one to three).

Dimension key: B sequences, N slots, W tokens in a slot, T = N W positions.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from ico.types import Sequence


@dataclasses.dataclass(frozen=True)
class Recall:
    """Slots (key, value), in which a key always has the same value. Values differ by sequence.

    Fields:
      batch_size, num_slots: B and N.
      num_keys: number of key tokens. A fuzzy key is a pair of them: num_keys^2 keys in all.
      num_values: number of value tokens. Tokens of keys, values and noise are all different.
      noise: probability that a slot holds noise tokens instead of a pair.
      num_noise: number of noise tokens.
      fuzzy: whether a key is two tokens, neither of which determines the value by itself.

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
        """Number of tokens. Ids: keys, then values, then noise."""
        return self.num_keys + self.num_values + self.num_noise

    @property
    def slot_width(self) -> int:
        """Number of tokens in a slot."""
        return 3 if self.fuzzy else 2


def recall(key: Key[Array, ""], config: Recall) -> Sequence:
    """Tokens [B, T] and the next token at each position.

    The mask is True where the next token is the value of a key that also stands in an earlier slot.
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
