"""Labelled data among clients that mostly see labels of their own.

Dimension key: K clients, C classes, N examples of a client at most, P public examples.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int


class Partition(NamedTuple):
    """Which examples each client has; every example is in one place.

    Fields:
      private: places in the data, row by client, the first `counts` of which count, [K, N].
      counts: examples of each client, [K].
      public: places of examples whose labels nobody uses, [P].
      primary: whose label each is, [K, C].
    """

    private: Int[np.ndarray, "K N"]
    counts: Int[np.ndarray, "K"]
    public: Int[np.ndarray, "P"]
    primary: Bool[np.ndarray, "K C"]

    def shares(self, labels: Int[np.ndarray, "M"]) -> np.ndarray:
        """How large a share of each client's examples has each label, [K, C]."""
        K, C = self.primary.shape
        found = np.zeros((K, C))
        for k in range(K):
            own = labels[self.private[k, : self.counts[k]]]
            found[k] = np.bincount(own, minlength=C) / max(len(own), 1)
        return found


def skewed(
    labels: Int[np.ndarray, "M"],
    num_clients: int,
    skew: float,
    *,
    primaries: int = 2,
    public: float = 0.1,
    seed: int = 0,
) -> Partition:
    """Gives an example to a client with weight 1 + skew if its label is one of the client's own.

    The rule is that of 2211.15774; UNVERIFIED: how many clients a label belongs to, and that they
    take turns.

    Args:
      labels: of all examples, from 0 on.
      num_clients: K.
      skew: 0 is the same distribution for all, infinity disjoint labels.
      primaries: clients that each label belongs to.
      public: share of the examples that is public.
      seed: of the draw.

    Raises:
      ValueError: a negative skew, a share outside [0, 1), more primaries than clients, or a client
        without examples.
    """
    if skew < 0 or not 0 <= public < 1 or not 1 <= primaries <= num_clients:
        raise ValueError(
            "want skew >= 0, a public share in [0, 1) and 1 to K primaries, not "
            f"{skew}, {public} and {primaries}"
        )
    rng, C = np.random.default_rng(seed), int(labels.max()) + 1
    turns = np.concatenate([rng.permutation(num_clients) for _ in range(C * primaries)])
    primary = np.zeros((num_clients, C), bool)
    place = 0
    for label in range(C):
        while primary[:, label].sum() < primaries:
            primary[turns[place], label] = True
            place += 1
    order = rng.permutation(len(labels))
    count = round(public * len(labels))
    shared, rest = order[:count], order[count:]
    weights = np.where(primary, 1.0, 0.0) if np.isinf(skew) else 1 + skew * primary
    ends = np.cumsum(weights / weights.sum(0), axis=0)[:, labels[rest]]  # [K, M]
    owner = (rng.random(len(rest)) >= ends).sum(0)
    owned = [rest[owner == k] for k in range(num_clients)]
    counts = np.array([len(one) for one in owned], np.int32)
    if not counts.all():
        raise ValueError(f"client {int(counts.argmin())} has no example; {len(labels)} are too few")
    private = np.zeros((num_clients, counts.max()), np.int32)
    for k, one in enumerate(owned):
        private[k, : len(one)] = one
    return Partition(private, counts, np.sort(shared).astype(np.int32), primary)
