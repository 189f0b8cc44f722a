"""A short run of each fuzzer: so many inputs, from one seed."""

from __future__ import annotations

import pytest

from tests.fuzz import guided

SEED = 1


def test_no_input_breaks_a_rule_of_the_pure_parts() -> None:
    pytest.importorskip("atheris", reason="it has no wheel for this machine")
    run = guided.run("everything", seed=SEED, cases=30_000)
    assert run.failure == ""
    assert run.runs >= 30_000


def test_an_input_that_breaks_a_rule_is_found_and_made_smaller() -> None:
    pytest.importorskip("atheris", reason="it has no wheel for this machine")
    run = guided.run("control", seed=SEED, cases=50_000)
    assert "AssertionError: there is a piece" in run.failure
    assert run.failure.endswith("control: smallest input: b'bytes 0-1/2'")
