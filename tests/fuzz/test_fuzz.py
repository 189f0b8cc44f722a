"""A short run of each fuzzer: so many inputs, from one seed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz import guided, protocol, smuggling
from tests.live.client import Client
from tests.servers import folder_of, wait_until

pytestmark = pytest.mark.alone

SEED = 1


def test_no_input_breaks_a_rule_of_the_pure_parts() -> None:
    pytest.importorskip("atheris", reason="it has no wheel for this machine")
    run = guided.run("everything", seed=SEED, cases=20_000)
    assert run.failure == ""
    assert run.runs >= 20_000


def test_an_input_that_breaks_a_rule_is_found_and_made_smaller() -> None:
    pytest.importorskip("atheris", reason="it has no wheel for this machine")
    run = guided.run("control", seed=SEED, cases=50_000)
    assert "AssertionError: there is a piece" in run.failure
    assert run.failure.endswith("control: smallest input: b'bytes 0-1/2'")


def test_the_server_answers_any_input_in_step_and_stores_what_was_signed(tmp_path: Path) -> None:
    found = protocol.run(tmp_path / "server", seed=SEED, numbers=iter(range(400)))
    assert found.failures == []
    assert found.requests > 800


@pytest.mark.parametrize("proxy", smuggling.PROXIES)
def test_no_request_gets_past_a_proxy_unseen(proxy: str) -> None:
    found = smuggling.run(proxy, seed=SEED, numbers=iter(range(500)))
    assert found.failures == []
    assert found.attempts == 500


def test_a_request_that_gets_past_a_proxy_is_found() -> None:
    with folder_of("nobody") as folder, smuggling.behind("haproxy", folder) as (server, port):
        smuggler = smuggling.Smuggler(server, port, SEED)
        with Client(server) as client:
            client.head("GET", "/upload/none", x_request_id=f"{smuggling.MARK}1")
            client.answer()
        wait_until(lambda: smuggling.MARK in server.log(), what="the line in the log")
        smuggler.run(iter(()))
        assert "the proxy did not see this request" in smuggler.failures[0]
