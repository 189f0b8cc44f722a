"""What the master and its workers have in common. Made when this module is first imported, which is in the master: the
workers, which are forked from it, see the same memory."""

from __future__ import annotations

from hmacfs.server.balancing import ConnectionCounts
from hmacfs.server.lifecycle import MasterIntent
from hmacfs.server.peer_limits import PeerCounts
from hmacfs.server.service_manager import ServiceManager

intent = MasterIntent()
connection_counts = ConnectionCounts()
peer_counts = PeerCounts()
service_manager = ServiceManager()
