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
ADAPTERS = {"admission", "net", "rates", "sessions", "stores", "telemetry"}
PURE = {"addresses", "caching", "cut", "dialects", "errors", "masking", "once", "protocol", "uploads"}
#: What adapters share, and knows none of them.
COMMON = {"background", "circuit_breaker", "redis_client", "retry", "semaphore"}
#: What each part of the tree may import of the others.
LAYERS: dict[str, set[str]] = {
    **dict.fromkeys(PURE, PURE),
    "system": PURE,
    "config": PURE | {"system"},
    **dict.fromkeys(COMMON, PURE | COMMON | {"config", "system"}),
    **dict.fromkeys(ADAPTERS, PURE | COMMON | {"config", "system"}),
    "web": PURE | COMMON | {"config", "net", "rates", "system", "telemetry"},
    "app": PURE | COMMON | ADAPTERS | {"config", "system", "web"},
    "server": PURE | COMMON | ADAPTERS | {"app", "config", "system", "web"},
    "cli": PURE | COMMON | ADAPTERS | {"app", "config", "server", "system"},
    "__main__": {"cli"},
    "": set(),
}
REMEDIES = {
    **dict.fromkeys(
        PURE, "take values (the time, bytes) or a contract of hmacfs.uploads.contracts as an argument; app.py gives it"
    ),
    **dict.fromkeys(
        ADAPTERS, "adapters do not know one another: declare what it needs as a Protocol, and let app.py join the two"
    ),
    "web": "take a contract of hmacfs.uploads.contracts or a function as an argument, and let app.py give it",
}
#: The one module that may import Flask, and what comes with it.
FLASK_MODULE = "hmacfs.web.flask_app"
FLASK = {"flask", "flask_limiter", "prometheus_flask_exporter", "werkzeug"}
#: What the pure parts may import besides: it does no input or output and asks no clock.
PURE_LIBRARIES = {
    *("__future__", "_typeshed", "base64", "collections", "contextlib", "dataclasses", "datetime", "email", "enum"),
    *("functools", "hashlib", "hmac", "http", "ipaddress", "json", "jwt", "logging", "math", "re", "secrets", "struct"),
    *("sys", "typing", "unicodedata", "urllib.parse"),
}


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


def is_pure_submodule(name: str) -> bool:
    """Of a package that has others: ``urllib.parse``, but not ``urllib.request``."""
    return any(name == known or name.startswith(f"{known}.") for known in PURE_LIBRARIES if "." in known)


def package(module: str) -> str:
    """The part of the tree that a module belongs to."""
    return [*module.split("."), ""][1]


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_what_its_layer_may_know(module: str) -> None:
    part = package(module)
    assert part in LAYERS, (
        f"{module} is in no layer: put {part} into one in {Path(__file__).name}, the lowest that fits"
    )
    allowed = LAYERS[part] | {part, ""}
    found = {name for name in imports(MODULES[module]) if name.startswith("hmacfs.") and package(name) not in allowed}
    found.discard("hmacfs.__version__")
    assert found == set(), (
        f"{module} imports {', '.join(sorted(found))}: {REMEDIES.get(part, 'take what it needs as an argument')} "
        "(docs/decisions/0011-the-package-layout.md)"
    )


@pytest.mark.parametrize("module", [module for module in MODULES if package(module) in PURE])
def test_pure_parts_do_no_input_or_output(module: str) -> None:
    names = {name for name in imports(MODULES[module]) if not name.startswith("hmacfs")}
    found = {name for name in names if name.split(".")[0] not in PURE_LIBRARIES and not is_pure_submodule(name)}
    assert found == set(), (
        f"{module} imports {', '.join(sorted(found))}, and is to do no input or output: {REMEDIES['uploads']}. "
        "A library that does none may be added to PURE_LIBRARIES"
    )


@pytest.mark.parametrize("module", MODULES)
def test_only_the_app_and_what_opens_a_store_know_local_classes(module: str) -> None:
    """The start of the server and ``check`` open the configured store, through ``stores.prepare_file_store``."""
    if module.startswith("hmacfs.stores.") or module in ("hmacfs.stores", "hmacfs.app"):
        return
    known = {name for name in imports(MODULES[module]) if name.startswith("hmacfs.stores.local")}
    assert known == set(), (
        f"{module} imports a class of local storage: take a FileStore as an argument instead, and the values and "
        "contracts from hmacfs.uploads.files and hmacfs.uploads.contracts; app.py says which store it is"
    )


def test_only_the_entries_import_the_app() -> None:
    users = {module for module, path in MODULES.items() if "hmacfs.app" in imports(path)}
    assert users == {"hmacfs.server.application", "hmacfs.cli.copy_store", "hmacfs.cli.sweep"}, (
        "Only the entries import hmacfs.app: take what you need of it as an argument, and let app.py give it"
    )


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
        assert module not in path, (
            f"{' -> '.join((*path, module))}: move what both need into a module below them, or take it as an argument"
        )
        if module not in done:
            for name in sorted(edges[module]):
                visit(name, (*path, module))
            done.add(module)

    for module in sorted(MODULES):
        visit(module, ())


def test_functions_and_modules_stay_small() -> None:
    for module, path in MODULES.items():
        text = path.read_text(encoding="utf-8")
        assert text.count("\n") <= 450, f"{module} is too long: cut it by what changes for one reason"
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                assert (node.end_lineno or 0) - node.lineno < 60, (
                    f"{module}.{node.name} is too long: give its steps names"
                )
