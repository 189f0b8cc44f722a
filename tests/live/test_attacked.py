"""An honest client, while others attack from other addresses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from bench import attacks, honest
from bench.names import names
from tests.servers import free_port
from tests.servers.hmacfs import SECRET, HmacFileServer

UPLOADS = 8


def test_no_upload_is_refused_under_all_attacks(start_server: Callable[..., HmacFileServer], tmp_path: Path) -> None:
    """How long they take ``make bench BENCH='--only attack'`` tells."""
    source = tmp_path / "source"
    source.write_bytes(b"x" * attacks.MIB)
    metrics_port = free_port()
    server = start_server(
        Workers=2,
        AuthFailureRateLimit=None,
        MinFreeSpace=None,
        MetricsEnabled=True,
        MetricsPort=f"127.0.0.1:{metrics_port}",
    )
    target = attacks.Target(server.port, metrics_port, SECRET)
    with attacks.under(list(attacks.ATTACKS), target) as tries:
        found = honest.uploads(server.port, SECRET, source, names(UPLOADS), UPLOADS, interval=0.2)
    assert found["refused"] == 0
    assert all(tries[name] for name in attacks.ATTACKS), tries
    assert len([name for name in server.stored() if name.endswith("/photo.jpg")]) == UPLOADS
