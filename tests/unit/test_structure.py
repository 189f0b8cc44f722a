"""The layout's rules, read from the imports."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "hmacfs"
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in PACKAGE.rglob("*.py")
}
ADAPTERS = ("net", "stores", "sessions", "rates", "telemetry", "admission")
PURE = {"addresses", "caching", "cut", "dialects", "errors", "masking", "once", "protocol", "uploads"}
#: The one module that may import Flask, and what comes with it.
FLASK_MODULE = "hmacfs.web.flask_app"
FLASK = {"flask", "flask_limiter", "prometheus_flask_exporter", "werkzeug"}
INPUT_OUTPUT = {"flask", "gevent", "gunicorn", "os", "socket", "sqlalchemy", "redis", "time", "werkzeug"}


def imports(path: Path, *, of_functions: bool = True) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = ast.walk(tree) if of_functions else iter(tree.body)
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.update({node.module} | {f"{node.module}.{alias.name}" for alias in node.names})
    return found


def package(module: str) -> str:
    """The part of the tree that a module belongs to."""
    return [*module.split("."), ""][1]


@pytest.mark.parametrize("module", MODULES)
def test_adapters_do_not_know_one_another_nor_the_web(module: str) -> None:
    if package(module) in ADAPTERS:
        others = {*ADAPTERS, "web", "server", "cli", "app"} - {package(module)}
        assert {
            name for name in imports(MODULES[module]) if name.startswith("hmacfs.") and package(name) in others
        } == set()


@pytest.mark.parametrize("module", [module for module in MODULES if package(module) in PURE])
def test_pure_parts_do_no_input_or_output(module: str) -> None:
    found = {name.split(".")[0] for name in imports(MODULES[module])} & INPUT_OUTPUT
    assert found == set(), (
        f"{module} does input or output with {', '.join(sorted(found))}: take values (the time, bytes) or a contract of "
        "hmacfs.uploads.contracts as an argument, and let app.py give it the class that does it"
    )


@pytest.mark.parametrize("module", MODULES)
def test_only_the_app_and_what_opens_a_store_know_local_classes(module: str) -> None:
    """The start of the server and ``check`` open the configured store, through ``stores.open_file_store``."""
    if module.startswith("hmacfs.stores.") or module in ("hmacfs.stores", "hmacfs.app"):
        return
    known = {name for name in imports(MODULES[module]) if name.startswith("hmacfs.stores.local")}
    assert known == set(), (
        f"{module} imports a class of local storage: take a FileStore as an argument instead, and the values and "
        "contracts from hmacfs.uploads.files and hmacfs.uploads.contracts; app.py says which store it is"
    )


def test_only_the_entries_import_the_app() -> None:
    users = {module for module, path in MODULES.items() if "hmacfs.app" in imports(path)}
    assert users == {"hmacfs.server.application", "hmacfs.cli.sweep"}


@pytest.mark.parametrize("module", MODULES)
def test_only_one_module_knows_flask_and_only_the_server_gunicorn(module: str) -> None:
    names = {name.split(".")[0] for name in imports(MODULES[module])}
    if module != FLASK_MODULE:
        assert names & FLASK == set(), (
            f"{module} imports Flask or its like: write a view that takes hmacfs.web.messages.Request, raise an error of "
            f"hmacfs.errors, and add a Route; what only Flask can do belongs into {FLASK_MODULE}"
        )
    assert "gunicorn" not in names or package(module) == "server", (
        f"{module} imports gunicorn: take what it needs as an argument, and let a module of hmacfs.server give it"
    )


def test_there_are_no_import_cycles() -> None:
    edges = {
        module: {name for name in imports(path, of_functions=False) if name in MODULES and name != module}
        for module, path in MODULES.items()
    }
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join((*path, module))
        if module not in done:
            for name in sorted(edges[module]):
                visit(name, (*path, module))
            done.add(module)

    for module in sorted(MODULES):
        visit(module, ())


def test_functions_and_modules_stay_small() -> None:
    for module, path in MODULES.items():
        text = path.read_text(encoding="utf-8")
        assert text.count("\n") <= 450, module
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                assert (node.end_lineno or 0) - node.lineno < 60, f"{module}.{node.name}"
