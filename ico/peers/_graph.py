"""Who hears whom, as an array: row i is True where client i hears client j, and never at i itself.

A graph that changes is several of these, [G, K, K].

Dimension key: K clients, G graphs.
"""

import numpy as np
from jaxtyping import Bool


def complete(num_clients: int) -> Bool[np.ndarray, "K K"]:
    """Everybody hears everybody else."""
    return ~np.eye(num_clients, dtype=bool)


def cycle(num_clients: int) -> Bool[np.ndarray, "K K"]:
    """Each hears the one before it, the first the last."""
    return np.roll(np.eye(num_clients, dtype=bool), -1, axis=1) & complete(num_clients)


def islands(num_clients: int, size: int) -> Bool[np.ndarray, "K K"]:
    """Groups of `size`, each complete, that do not hear each other.

    Raises:
      ValueError: groups that do not add up.
    """
    if size < 1 or num_clients % size:
        raise ValueError(f"{num_clients} clients are no islands of {size}")
    island = np.arange(num_clients) // size
    return (island[:, None] == island[None]) & complete(num_clients)


def random_graph(num_clients: int, degree: int, seed: int = 0) -> Bool[np.ndarray, "K K"]:
    """Each hears `degree` others, drawn by the seed.

    Raises:
      ValueError: more than there are.
    """
    if not 0 <= degree < num_clients:
        raise ValueError(f"each of {num_clients} clients can hear 0 to {num_clients - 1} others")
    rng, graph = np.random.default_rng(seed), np.zeros((num_clients, num_clients), bool)
    for client in range(num_clients):
        others = np.delete(np.arange(num_clients), client)
        graph[client, rng.choice(others, degree, replace=False)] = True
    return graph
