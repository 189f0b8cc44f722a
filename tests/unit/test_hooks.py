"""gunicorn's hooks: that gunicorn takes them, and what they keep count of."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from gunicorn.config import Config

from hmacfs.server import shared
from hmacfs.server.configuration import configuration
from hmacfs.server.hooks import Hooks
from hmacfs.server.lifecycle import MasterIntent


@pytest.fixture
def hooks() -> Hooks:
    return Hooks(configuration)


def test_gunicorn_takes_them(hooks: Hooks) -> None:
    config = Config()
    for name, hook in hooks.by_name().items():
        config.set(name, hook)  # gunicorn looks at the number of arguments
        assert config.settings[name].get() == hook


def test_replaced_workers_do_not_take_the_places_of_new_ones(hooks: Hooks, monkeypatch: pytest.MonkeyPatch) -> None:
    """gunicorn counts both: ``num_workers`` grows by the replaced ones, and shrinks as they end."""
    monkeypatch.setattr(shared, "intent", MasterIntent())
    monkeypatch.setattr(Hooks, "_settings", SimpleNamespace(metrics_enabled=False))
    monkeypatch.setattr("hmacfs.server.hooks.drop_gauges", lambda *_: None)
    workers = {pid: SimpleNamespace(age=pid, pid=pid) for pid in (1, 2, 3, 4)}
    server: Any = SimpleNamespace(num_workers=2, WORKERS=workers)
    shared.intent.supersede(2)
    counted = []
    for pid in (3, 1, 2):
        hooks.child_exit(server, workers.pop(pid))
        counted.append(server.num_workers)
    assert counted == [4, 3, 2]
