"""Clients with data of their own that learn from each other's answers, and from nothing else."""

from ico.peers._distillation import (
    Batch,
    Distillation,
    Message,
    PeersState,
    average_of,
    init_peers,
    message,
    message_bytes,
    peers_step,
    sharded_step,
)
from ico.peers._graph import complete, cycle, islands, random_graph
from ico.peers._partition import Partition, skewed

__all__ = [
    "Batch",
    "Distillation",
    "Message",
    "Partition",
    "PeersState",
    "average_of",
    "complete",
    "cycle",
    "init_peers",
    "islands",
    "message",
    "message_bytes",
    "peers_step",
    "random_graph",
    "sharded_step",
    "skewed",
]
