"""What the master and its workers have in common. Made when this module is first imported, which is in the master: the
workers, which are forked from it, see the same memory."""

from __future__ import annotations

from hmacfs.server.balancing import ConnectionCounts
from hmacfs.server.lifecycle import MasterIntent
from hmacfs.server.peer_limits import PeerCounts
from hmacfs.server.service_manager import ServiceManager
from hmacfs.server.worker_slots import WorkerSlots

intent = MasterIntent()
worker_slots = WorkerSlots()
connection_counts = ConnectionCounts(worker_slots)
peer_counts = PeerCounts(worker_slots)
service_manager = ServiceManager()


def forget_worker(age: int) -> None:
    """In the master: the worker of this age has ended."""
    slot = worker_slots.of(age)
    if slot is not None:
        connection_counts.clear(slot)
        peer_counts.clear(slot)
    worker_slots.release(age)
