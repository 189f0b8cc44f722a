"""The gunicorn worker: gevent's, with this project's own connection loop and a stop that loses nothing."""

from __future__ import annotations

import contextlib
import errno
import functools
import gc
import logging
import os
import signal
import socket
import ssl
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import gevent
from gevent.event import Event
from gevent.pool import Pool
from gunicorn.sock import ssl_context
from gunicorn.workers.ggevent import GeventWorker

from hmacfs.config import Settings
from hmacfs.errors import ShuttingDown
from hmacfs.net.congestion import LocalCongestion
from hmacfs.net.tls import TlsTransport, disable_kernel_tls
from hmacfs.net.transport import Transport
from hmacfs.server import shared
from hmacfs.server.balancing import BalancedServer, WorkerCount
from hmacfs.server.connection import Connection, Respond, ServerContext
from hmacfs.server.eviction import seconds_until_one_may_end, to_end
from hmacfs.server.lifecycle import Lifecycle, State
from hmacfs.server.memory_return import MemoryReturn
from hmacfs.server.peer_limits import PeerBound
from hmacfs.server.preload import no_plugins
from hmacfs.system.shared_file import make_folder

log = logging.getLogger("hmacfs.server")

#: How often a worker tells the master that it lives (gunicorn's ``timeout`` is 30 s).
HEARTBEAT_SECONDS = 1.0
#: How long a stop leaves idle connections open. A proxy may just be sending the next request on one, and cannot repeat
#: an upload whose body it does not keep; each response during a stop asks it to close the connection.
IDLE_GRACE_SECONDS = 1.0
#: While no more than one in ``ROOM_SHARE`` of a worker's connections is free, each response ends its connection, and
#: each further client evicts those that have been idle longest (see ``eviction``): one in ``ENDED_SHARE`` at once,
#: since to find them takes a look at all.
ROOM_SHARE = 16
ENDED_SHARE = 32
#: How long transfers that are broken off may take to clean up.
BREAK_OFF_SECONDS = 2.0
#: The same after a second signal, where gunicorn's master kills what is left after 2 s.
HURRIED_BREAK_OFF_SECONDS = 1.0

#: The signals that end a worker. A new one gets them once it has its handlers: see ``Hooks.post_fork``.
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT)

#: The process or the machine has no descriptors left. gevent accepts again a moment later.
_EXHAUSTED_ERRNOS = frozenset({errno.EMFILE, errno.ENFILE})


def _log_unexpected(_context: object, kind: Any, error: BaseException, trace: Any) -> None:
    """Log an exception that no greenlet has caught. gevent would print it to standard error, with the greenlet and its
    arguments."""
    if isinstance(error, OSError) and error.errno in _EXHAUSTED_ERRNOS:
        log.error("a connection has to wait: %s", error.strerror)
    else:
        log.error("unexpected error", exc_info=(kind, error, trace))


class Runtime(Protocol):
    """What a worker needs of its application: ``wsgi.extensions["hmacfs"]``."""

    @property
    def settings(self) -> Settings: ...

    @property
    def respond(self) -> Respond:
        """The fast path: see ``web.dispatch.FastPath``."""

    def note_turned_away(self) -> None:
        """A connection was one too many of its peer."""

    def tasks(
        self, connections: Callable[[], int], is_running: Callable[[], bool], is_stopping: Callable[[], bool]
    ) -> list[Callable[[], None]]:
        """Functions, each to run in a greenlet of its own. connections: how many are open. is_running, is_stopping: see
        ``Lifecycle``."""


class Handshake:
    """A connection over TLS before its first request."""

    def __init__(self, sock: Any) -> None:
        self._fd = sock.fileno()  # which the TLS socket will have
        self.waits_since = time.monotonic()

    def end_if_waiting(self) -> bool:
        """Make it fail now; see ``Connection``."""
        sock = socket.socket(fileno=self._fd)
        try:
            sock.shutdown(socket.SHUT_RD)
        except OSError:
            return False
        finally:
            sock.detach()
        return True


def tls_context(config: Any) -> ssl.SSLContext:
    """How a worker speaks TLS, by gunicorn's settings."""
    context: ssl.SSLContext = ssl_context(config)
    disable_kernel_tls(context)
    return context


class TransferWorker(GeventWorker):  # type: ignore[misc]  # gunicorn has no type hints
    """Serves each connection through ``Connection``, with TLS if gunicorn was given a certificate.

    A stop (SIGTERM, and SIGINT too) ends idle connections after a moment, lets running transfers finish, and breaks off
    what is still running when the graceful time is over, or at once on SIGQUIT. A worker that a reload has replaced has
    all the time that its transfers take, until the server stops. See ``lifecycle``.
    """

    def __init__(self, age: int, ppid: int, sockets: Any, app: Any, timeout: float, cfg: Any, log: Any) -> None:
        """In the master, before the fork."""
        with contextlib.suppress(OSError, TypeError):  # a purge may have taken it since the last worker began
            make_folder(Path(cfg.worker_tmp_dir))
        super().__init__(age, ppid, sockets, app, timeout, cfg, log)
        self._lifecycle = Lifecycle(shared.intent, age)
        self._signalled = Event()
        self._connections: set[Connection] = set()
        self._handshakes: set[Handshake] = set()
        self._peers: PeerBound | None = None
        self._servers: list[BalancedServer] = []
        self._count = WorkerCount(shared.connection_counts, shared.worker_slots.claim(age))
        self._tls: ssl.SSLContext | None = None

    # -- from the start to the end ----------------------------------------------------------------

    def patch(self) -> None:
        with no_plugins():
            super().patch()

    def init_signals(self) -> None:
        super().init_signals()
        # Ctrl-C reaches the whole process group: for a worker it means the same as for the master, a graceful stop.
        signal.signal(signal.SIGINT, self.handle_exit)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """SIGTERM, SIGINT: finish what is running, then end."""
        super().handle_exit(sig, frame)
        self._lifecycle.note_signal(at_once=False)
        self._signalled.set()

    def handle_quit(self, sig: int, frame: FrameType | None) -> None:
        """SIGQUIT, which a second signal to the master becomes: break off what is running, clean up, end."""
        self._lifecycle.note_signal(at_once=True)
        self.handle_exit(sig, frame)

    def run(self) -> None:
        """Serve until the end, through all states of ``lifecycle``."""
        self._begin()
        memory = MemoryReturn()
        # A signal that came right after the fork, before ``post_fork``, was swallowed by the master's handlers.
        while not self._lifecycle.must_drain:
            self.notify()
            memory.note(len(self._connections))
            if any(server.full() for server in self._servers):
                self._make_room()  # nobody gets in who would do it
            self._signalled.wait(HEARTBEAT_SECONDS)
        self._lifecycle.enter(State.DRAINING, time.monotonic())
        self._stop_listening()
        self._drain()
        running = [greenlet for server in self._servers for greenlet in server.running]
        if running:
            self._lifecycle.enter(State.BREAKING_OFF)
            self._break_off(running)
        self._lifecycle.enter(State.GONE)
        self._ignore_signals()

    def _ignore_signals(self) -> None:
        """The interpreter takes the handlers away before it ends, and then writes to much of what it shares with the
        master, which takes time: a signal meanwhile would look like a worker that was killed."""
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN)

    def _begin(self) -> None:
        gc.collect()
        gc.freeze()  # what a worker is made of stays: looking through it again and again cost 2 % of the small requests
        if self.cfg.is_ssl:
            self._tls = tls_context(self.cfg)
            log.info("TLS: files pass through this process, which is slower; a proxy in front is faster")
        runtime, settings = self._runtime, self._runtime.settings
        self._peers = PeerBound(
            shared.peer_counts,
            self.age,
            settings.max_connections_per_client,
            settings.trusted_proxies,
            on_refusal=runtime.note_turned_away,
        )
        gevent.get_hub().print_exception = _log_unexpected  # type: ignore[assignment, method-assign]
        self._count.begin()
        self._servers = [self._listen(listener) for listener in self.sockets]
        lifecycle = self._lifecycle
        for task in runtime.tasks(
            lambda: len(self._connections), lambda: lifecycle.is_running, lambda: lifecycle.is_stopping
        ):
            gevent.spawn(task)
        self._report_serving()

    def _report_serving(self) -> None:
        """Let the master look at its ``MasterIntent``: it wakes up as for any change of its children."""
        shared.intent.note_serving(self.age)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.ppid, signal.SIGCHLD)

    def _stop_listening(self) -> None:
        self._count.end()
        # At a socket of the service manager, pending connections are for the next server.
        is_for_others = shared.service_manager.is_activated and shared.intent.is_stop
        for server in self._servers:
            if not is_for_others:
                server.accept_pending()
            server.close()

    def _drain(self) -> None:
        """Wait for what is running, up to ``GracefulShutdownTimeout`` seconds.

        The servers know all of it: a connection that was accepted a moment ago is not among ``_connections`` yet.
        """
        lifecycle, allowed = self._lifecycle, self._runtime.settings.graceful_shutdown_timeout
        idle_until = time.monotonic() + IDLE_GRACE_SECONDS
        told: bool | None = None
        while any(server.running for server in self._servers) and not lifecycle.must_break_off:
            now = time.monotonic()
            if lifecycle.is_overdue(now, allowed):
                break
            if now >= idle_until:
                for connection in list(self._connections):
                    connection.end_if_idle()
            self.notify()
            gevent.sleep(0.05)
            is_replaced = lifecycle.is_replaced
            if told is not is_replaced and self._log_transfers(is_replaced=is_replaced):
                told = is_replaced

    def _log_transfers(self, *, is_replaced: bool) -> bool:
        """Log how many transfers are waited for, so that a long stop does not look like one that hangs: whether there
        are any."""
        count = sum(not connection.is_idle for connection in self._connections)
        transfers = f"{count} transfer{'s' if count > 1 else ''}"
        if count and is_replaced:
            log.info("replaced by a reload: waiting for %s", transfers)
        elif count:
            seconds = self._runtime.settings.graceful_shutdown_timeout
            log.info("waiting for %s, up to %g s; Ctrl-C or SIGTERM again to end at once", transfers, seconds)
        return count > 0

    def _break_off(self, running: list[gevent.Greenlet[..., Any]]) -> None:
        log.warning("breaking off %d transfers to stop", len(running))
        # An exception for a greenlet that has not begun would reach nobody, and its connection would stay open. They
        # begin in their order, before this one goes on.
        gevent.sleep(0)
        gevent.killall(running, exception=ShuttingDown, block=False)
        # Those that are left then only wait for their clients to close a connection that was answered.
        seconds = HURRIED_BREAK_OFF_SECONDS if self._lifecycle.must_break_off else BREAK_OFF_SECONDS
        gevent.joinall(running, timeout=seconds)

    @property
    def _runtime(self) -> Runtime:
        runtime: Runtime = self.wsgi.extensions["hmacfs"]
        return runtime

    # -- connections ------------------------------------------------------------------------------

    def _listen(self, listener: Any) -> BalancedServer:
        listener.setblocking(True)
        pool = Pool(self.worker_connections)
        handle = functools.partial(self._serve, self._context(listener), LocalCongestion(listener), pool)
        server = BalancedServer(
            listener,
            self._count,
            peers=self._peers,
            says_why=self._tls is None,
            delay=functools.partial(self._seconds_until_room, pool),
            handle=handle,
            spawn=pool,
        )
        # One connection a turn, so that a burst spreads over the workers instead of filling the first to wake, and each
        # client finds the room that the one before it has made.
        server.max_accept = 1
        server.start()
        return server

    def _context(self, listener: Any) -> ServerContext:
        address = listener.getsockname()
        host, port = address[:2] if isinstance(address, tuple) else ("localhost", 80)
        settings = self._runtime.settings
        return ServerContext(
            application=self.wsgi,
            respond=self._runtime.respond,
            lifecycle=self._lifecycle,
            idle_timeout=settings.idle_timeout,
            read_timeout=settings.read_timeout,
            write_timeout=settings.write_timeout,
            environ={
                "SERVER_NAME": host,
                "SERVER_PORT": str(port),
                "SERVER_SOFTWARE": "hmacfs",
                "wsgi.errors": sys.stderr,
                "wsgi.input_terminated": True,
                "wsgi.multiprocess": self.cfg.workers > 1,
                "wsgi.multithread": True,
                "wsgi.run_once": False,
                "wsgi.url_scheme": "https" if self._tls else "http",
                "wsgi.version": (1, 0),
            },
        )

    def _serve(
        self, context: ServerContext, congestion: LocalCongestion, pool: Pool, client: Any, address: Any
    ) -> None:
        reserve = self.worker_connections // ROOM_SHARE
        if pool.free_count() <= reserve:
            context.is_crowded = True
            self._make_room()
        congestion.set_up(client, address)
        try:
            if (transport := self._open_transport(client, context.idle_timeout)) is not None:
                self._serve_over(transport, context, address if isinstance(address, tuple) else None)
        finally:
            if context.is_crowded and pool.free_count() >= reserve:  # it does not count this one's end yet
                context.is_crowded = False

    def _serve_over(self, transport: Transport, context: ServerContext, peer: tuple[Any, ...] | None) -> None:
        of_proxy = peer is None or (self._peers is not None and self._peers.is_trusted(peer[0]))
        connection = Connection(context, transport, peer, of_proxy=of_proxy)
        self._connections.add(connection)
        try:
            connection.serve()
        finally:
            self._connections.remove(connection)
            transport.sock.close()

    def _make_room(self) -> None:
        """End the connections that have been waiting longest for a request, so that the next clients get in. Not a
        proxy's: it may just be sending an upload on one, which it cannot repeat."""
        most = 1 + self.worker_connections // ENDED_SHARE
        for connection in to_end(self._waiting(), most, time.monotonic()):
            connection.end_if_waiting()

    def _seconds_until_room(self, pool: Pool) -> float:
        """How long the next client has to wait, so that nobody has to end who has just come."""
        if pool.free_count() > self.worker_connections // ROOM_SHARE:
            return 0.0
        return seconds_until_one_may_end(self._waiting(), time.monotonic())

    def _waiting(self) -> list[Connection | Handshake]:
        """Those that ``_make_room`` may end."""
        return [*(one for one in self._connections if not one.of_proxy), *self._handshakes]

    def _open_transport(self, client: Any, timeout: float) -> Transport | None:
        """``None`` for a client that does not get as far as its first request, which a stop may be the reason for."""
        if self._tls is None:
            return Transport(client)
        transport = None
        handshake = Handshake(client)
        self._handshakes.add(handshake)
        try:
            transport = TlsTransport(self._tls.wrap_socket(client, server_side=True, do_handshake_on_connect=False))
            transport.handshake(timeout)
        except (OSError, ShuttingDown) as error:
            log.debug("a client did not get through the TLS handshake: %s", error)
        else:
            return transport
        finally:
            self._handshakes.remove(handshake)
        if transport is not None:
            transport.close()
            transport.sock.close()
        return None
