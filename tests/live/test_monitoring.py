"""What ``deploy/`` ships for Prometheus and Grafana, with promtool, a real Prometheus and Grafana's own schema."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import urllib.error
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from bench.dashboard import Recording
from bench.panels import draw
from tests.drawn_texts import drawn_texts, unreadable
from tests.live.client import get, put, request
from tests.servers import free_port, require_binary, wait_until
from tests.servers.hmacfs import HmacFileServer, in_bucket
from tests.servers.prometheus import PrometheusServer
from tests.servers.seaweedfs import SeaweedFS

DEPLOY = Path(__file__).parents[2] / "deploy"
DASHBOARD: dict[str, Any] = json.loads((DEPLOY / "grafana-dashboard.json").read_text(encoding="utf-8"))
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
GRAPHS = [panel for panel in PANELS if panel["type"] != "row"]


def expressions() -> Iterator[tuple[str, str]]:
    """Each expression of the dashboard and the title of its panel, with Grafana's variables filled in."""
    for panel in GRAPHS:
        for target in panel["targets"]:
            text = target["expr"].replace("$__rate_interval", "20s").replace("$instance", ".*")
            assert "$" not in text
            yield panel["title"], text


def promtool(*words: str | Path) -> str:
    done = subprocess.run(
        [require_binary("promtool"), *map(str, words)], capture_output=True, text=True, check=False, cwd=DEPLOY
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_promtool_accepts_configuration_and_rules(tmp_path: Path) -> None:
    promtool("check", "config", "prometheus.yml")
    promtool("check", "rules", "alerts.yml")
    for name in ("compose/prometheus.yml", "alerts.yml"):
        shutil.copy(DEPLOY / name, tmp_path)
    promtool("check", "config", tmp_path / "prometheus.yml")


def test_every_alert_comes_when_it_should_and_only_then() -> None:
    assert "SUCCESS" in promtool("test", "rules", "alerts_test.yml")
    names = set(re.findall(r"- alert: (\w+)", (DEPLOY / "alerts.yml").read_text()))
    text = (DEPLOY / "alerts_test.yml").read_text()
    fired = set(re.findall(r"alertname: (\w+)\n\s+exp_alerts:", text))
    assert fired == names


def test_the_dashboard_is_what_grafana_s_schema_knows() -> None:
    """Read by Grafana's own types and written again, nothing is lost: a misspelt key would be."""
    from grafana_foundation_sdk.cog.encoder import JSONEncoder
    from grafana_foundation_sdk.cog.plugins import register_default_plugins
    from grafana_foundation_sdk.models.dashboard import Dashboard

    register_default_plugins()
    written = json.loads(JSONEncoder().encode(Dashboard.from_json(DASHBOARD)))
    assert list(lost(DASHBOARD, written, "")) == []


def lost(value: object, written: object, where: str) -> Iterator[str]:
    """Where ``written`` lacks what ``value`` has; what is empty may be left out."""
    if isinstance(value, dict) and isinstance(written, dict):
        for key, inner in value.items():
            if key in written:
                yield from lost(inner, written[key], f"{where}/{key}")
            elif inner not in (None, "", [], {}):
                yield f"{where}/{key}"
    elif isinstance(value, list) and isinstance(written, list) and len(value) == len(written):
        for number, inner in enumerate(value):
            yield from lost(inner, written[number], f"{where}/{number}")
    elif value != written:
        yield where


def test_panels_have_places_and_numbers_of_their_own() -> None:
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    taken: set[tuple[int, int]] = set()
    for panel in PANELS:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells


def test_every_panel_asks_the_data_source_that_is_chosen() -> None:
    chosen = {"type": "prometheus", "uid": "${datasource}"}
    assert "__inputs" not in DASHBOARD
    assert DASHBOARD["id"] is None
    assert [variable["name"] for variable in DASHBOARD["templating"]["list"]] == ["datasource", "instance"]
    for panel in GRAPHS:
        assert panel["datasource"] == chosen
        assert panel["title"]
        assert panel["description"]
        assert {target["refId"] for target in panel["targets"]} == set("AB"[: len(panel["targets"])]) or (
            len(panel["targets"]) > 2
        )
        for target in panel["targets"]:
            assert target["datasource"] == chosen
            assert 'instance=~"$instance"' in target["expr"]


class Monitored:
    """A server with a folder and one with a bucket, which have done a bit of everything, and a Prometheus with the shipped
    configuration."""

    def __init__(self, servers: Sequence[HmacFileServer], prometheus: PrometheusServer) -> None:
        self.servers, self.prometheus = servers, prometheus

    def work(self, run: int) -> None:
        for server in self.servers:
            for number in range(5):
                name = f"{run}/{number}.jpg"
                assert put(server, name, bytes(10_000 * number)).status == 201
                assert get(server, name).status == 200
            assert put(server, f"{run}/0.jpg", b"").status == 409
            assert get(server, f"{run}/none").status == 404
            assert request(server, "PUT", "/upload/x?v=0", b"x").status == 403


@pytest.fixture(scope="module")
def monitored(tmp_path_factory: pytest.TempPathFactory, seaweedfs: SeaweedFS) -> Iterator[Monitored]:
    folder = tmp_path_factory.mktemp("monitored")
    stores: dict[str, dict[str, object]] = {
        "folder": {},
        "bucket": in_bucket(seaweedfs, seaweedfs.make_bucket(), folder / "bucket"),
    }
    ports = {name: free_port() for name in stores}
    servers = [
        HmacFileServer(
            folder / name / "server", MetricsEnabled=True, MetricsPort=f"127.0.0.1:{ports[name]}", Workers=2, **settings
        )
        for name, settings in stores.items()
    ]
    targets = ", ".join(f'"127.0.0.1:{port}"' for port in ports.values())
    config = (DEPLOY / "prometheus.yml").read_text().replace('"127.0.0.1:9091"', targets).replace(": 15s", ": 1s")
    prometheus = PrometheusServer(folder / "prometheus", ports["folder"], config=config)
    prometheus.folder.mkdir()
    shutil.copy(DEPLOY / "alerts.yml", prometheus.folder)
    with servers[0], servers[1], prometheus:
        running = Monitored(servers, prometheus)
        runs = iter(range(1000))

        def has_rates() -> bool:
            running.work(next(runs))
            return (prometheus.query("sum(rate(hmacfs_uploads_total[20s]))") or 0) > 0

        wait_until(has_rates, what="a rate")
        yield running


def test_the_shipped_prometheus_finds_the_server_and_loads_the_alerts(monitored: Monitored) -> None:
    targets = monitored.prometheus.ask("targets")["activeTargets"]
    assert [(target["labels"]["job"], target["health"]) for target in targets] == [("hmac-file-server", "up")] * 2

    def evaluated() -> bool:
        (group,) = monitored.prometheus.ask("rules")["groups"]
        return all(rule["health"] == "ok" for rule in group["rules"])

    wait_until(evaluated, what="every rule's health")
    assert [alert for alert in monitored.prometheus.ask("alerts")["alerts"] if alert["state"] == "firing"] == []


#: What nothing of that happened for: no 5xx, one sample too few for a line through hours.
MAY_BE_EMPTY: set[str] = set()


def test_every_panel_shows_something(monitored: Monitored) -> None:
    def empty() -> list[str]:
        return [title for title, text in expressions() if not monitored.prometheus.ask("query", query=text)["result"]]

    wait_until(lambda: set(empty()) <= MAY_BE_EMPTY, what=f"data in all panels: {empty()}")
    with pytest.raises(urllib.error.HTTPError) as refused:
        monitored.prometheus.ask("query", query="sum(")
    refused.value.close()


def test_every_metric_that_is_named_exists(monitored: Monitored) -> None:
    known = set(monitored.prometheus.ask("label/__name__/values")) | {"up"}
    text = " ".join(text for _, text in expressions()) + (DEPLOY / "alerts.yml").read_text()
    named = set(re.findall(r"\b((?:hmacfs|file_server|http|memory|cpu|active|goroutines)_\w+)\b", text))
    assert len(named) > 20
    assert named - known == set()
    # A variable's query names a metric too.
    assert DASHBOARD["templating"]["list"][1]["query"]["query"].split("(")[1].split(",")[0] in known


def test_the_picture_of_the_dashboard_shows_every_panel(monitored: Monitored, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{monitored.prometheus.port}"
    script = [sys.executable, "-m", "bench.dashboard"]
    first = drawn([*script, url, "--minutes", "1", "--save", str(tmp_path / "data")])
    assert drawn([*script, str(tmp_path / "data")]) == first
    recording = Recording.read(tmp_path / "data")
    figure = draw(PANELS, recording.lines, recording.span)
    assert list(unreadable(figure)) == []
    texts = [one.text for one in drawn_texts(figure)]
    assert {panel["title"] for panel in PANELS} <= set(texts)
    assert "No data" not in texts
    assert any(text.startswith("uploads: ") for text in texts)


def drawn(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=DEPLOY.parent).stdout
