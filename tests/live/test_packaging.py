"""What pip builds and installs from the project's folder, and that it leaves nothing there."""

from __future__ import annotations

import email
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

from tests.servers import give_to, require_binary

ROOT = Path(__file__).parents[2]
USER = "daemon"
HASHED = ("requirements-production.txt", "requirements-mysql.txt")
#: What is no part of the project: environments, caches, and what a developer's own server has made.
OTHERS = {".git", ".venv", "build", "data", "dist", ".mypy_cache", ".pytest_cache", ".ruff_cache", ".hypothesis"}


def run(*command: object, cwd: Path, path: Path | None = None) -> None:
    env = {**os.environ, "PYTHONPATH": str(path or ""), "PYTHONDONTWRITEBYTECODE": "1", "HOME": str(cwd.parent)}
    done = subprocess.run([*map(str, command)], cwd=cwd, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def build_requirements() -> list[str]:
    found: list[str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    return found


def without_rights() -> list[str]:
    """A command's prefix for root: no more rights than any user, and so none to write to another's folder."""
    rights = "--bounding-set=-dac_override,-dac_read_search,-fowner"
    return [require_binary("setpriv"), rights] if os.geteuid() == 0 else []


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a wheel and an sdist in ``out``, built by a user who may not write to the project's folder."""
    script = "import setuptools.build_meta as b, sys; b.__legacy__.build_sdist(sys.argv[1])"
    folder = tmp_path_factory.mktemp("packaging")
    tools, source, out = folder / "tools", folder / "source", folder / "out"
    run(sys.executable, "-m", "pip", "install", "-q", "--target", tools, *build_requirements(), cwd=folder)
    for path in sorted(ROOT.rglob("*")):
        name = path.relative_to(ROOT)
        if path.is_file() and not ({*name.parts} & (OTHERS | {"__pycache__"})) and ".egg-info" not in str(name):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes(path.read_bytes())
    (source / "deploy" / "compose" / "secrets").mkdir()
    (source / "deploy" / "compose" / "secrets" / "hmac").write_text("never to be packed")
    out.mkdir()
    out.chmod(0o777)
    before = names(source)
    folders = [source, *(path for path in source.rglob("*") if path.is_dir())]
    for path in folders:
        path.chmod(0o555)
    give_to(source, USER)
    wheel = ["-m", "pip", "wheel", "-q", "--no-build-isolation", "--no-deps", "--no-cache-dir", "-w", out, "."]
    run(*without_rights(), sys.executable, *wheel, cwd=source, path=tools)
    for path in folders:
        path.chmod(0o755)
    run(sys.executable, *wheel, cwd=source, path=tools)  # as one who may, such as root
    run(sys.executable, "-c", script, out, cwd=source, path=tools)
    assert names(source) == before
    return folder


def test_the_wheel_has_what_an_operator_needs(built: Path) -> None:
    (wheel,) = (built / "out").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        found = archive.namelist()
        text = archive.read(next(name for name in found if name.endswith("/METADATA"))).decode()
    shared = {name.partition("/share/hmac-file-server/")[2] for name in found if "/share/hmac-file-server/" in name}
    shipped = {str(path.relative_to(ROOT)) for path in (ROOT / "deploy").rglob("*") if path.is_file()}
    assert shared >= {name for name in shipped if "/secrets/" not in name} | {
        "README.md",
        "wsgi.py",
        "gunicorn.conf.py",
    }
    assert {f"hmacfs/{path.relative_to(ROOT / 'hmacfs')}" for path in (ROOT / "hmacfs").rglob("*.py")} <= set(found)
    assert not [name for name in found if "secrets/" in name or name.startswith("tests")]
    metadata = email.message_from_string(text)
    assert metadata["Author"] == "hmacfs contributors"
    assert "https://github.com/PlusOne/hmac-file-server" in metadata["Project-URL"]


def test_the_sdist_is_the_project(built: Path) -> None:
    (sdist,) = (built / "out").glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        found = {name.partition("/")[2] for name in archive.getnames()}
    for name in (
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        "Makefile",
        "wsgi.py",
        "gunicorn.conf.py",
        "requirements.txt",
        "setup.cfg",
        ".ci/run",
        *HASHED,
    ):
        assert name in found
    for folder in ("changes", "deploy", "docs", "tests", "bench", "hmacfs"):
        files = {
            str(p.relative_to(ROOT)) for p in (ROOT / folder).rglob("*") if p.is_file() and "__pycache__" not in p.parts
        }
        assert {name for name in files if "/secrets/" not in name and "/results/tmp/" not in name} <= found
    assert not [name for name in found if "secrets/" in name or name.endswith(".pyc")]


def test_an_image_s_share_of_the_project_is_enough(built: Path) -> None:
    """The Dockerfile copies only a part of it."""
    source, few = built / "source", built / "few"
    few.mkdir()
    copied = next(
        line for line in (ROOT / "deploy" / "Dockerfile").read_text().splitlines() if line.startswith("COPY setup")
    )
    for name in copied.split()[1:-1]:
        (few / name).write_bytes((source / name).read_bytes())
    (few / "hmacfs").symlink_to(source / "hmacfs")
    out = built / "image"
    run(
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-build-isolation",
        "--no-deps",
        "-w",
        out,
        ".",
        cwd=few,
        path=built / "tools",
    )
    assert list(out.glob("*.whl"))


def pinned(name: str) -> dict[str, str]:
    """Versions by normalised names."""
    lines = re.findall(r"^([A-Za-z0-9_.-]+)==([^\s;]+)", (ROOT / name).read_text(), re.MULTILINE)
    return {re.sub(r"[-_.]+", "-", package).lower(): version for package, version in lines}


@pytest.mark.parametrize("name", HASHED)
def test_what_production_installs_is_what_is_tested_and_has_hashes(name: str) -> None:
    tested = pinned("requirements.txt") | {"setuptools": build_requirements()[0].removeprefix("setuptools==")}
    #: For systems that the tests are not on.
    others = {"async-timeout"}
    found = pinned(name)
    assert found
    assert {package: version for package, version in found.items() if package not in others}.items() <= tested.items()
    text = re.sub(r"^#.*\n", "", (ROOT / name).read_text(), flags=re.MULTILINE).replace("\\\n", "")
    for line in text.splitlines():
        assert re.fullmatch(r"\S+==\S+( ; [^\\]+?)?( +--hash=sha256:[0-9a-f]{64})+", line), line


def test_a_file_with_another_hash_is_not_installed(built: Path) -> None:
    (wheel,) = (built / "out").glob("*.whl")
    wrong = built / "wrong.txt"
    wrong.write_text(f"hmac-file-server @ {wheel.as_uri()} --hash=sha256:{'0' * 64}\n")
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--no-deps", "--require-hashes", "-r", wrong]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "DO NOT MATCH THE HASHES" in done.stderr


def test_production_is_installed_with_hashes() -> None:
    readme, image = (ROOT / "README.md").read_text(), (ROOT / "deploy" / "Dockerfile").read_text()
    service = readme.partition("### As a service")[2].partition("### In containers")[0]
    setup = (ROOT / "Makefile").read_text().partition("$(RUN_STAMP):")[2].partition("$(TEST_STAMP):")[0]
    for text in (service, image, setup):
        commands = re.split(r"\n|&&", text.replace("\\\n", " "))
        installs = [line for line in commands if re.search(r"\bpip .*\binstall\b|\$\(PIP\)", line)]
        assert sum("--require-hashes" in line for line in installs) >= 1
        for line in installs:
            assert ("--require-hashes" in line) != ("--no-deps --no-build-isolation" in line), line
    images = re.findall(
        r"^(?:FROM|\s+image:) (\S+)", image + (ROOT / "deploy" / "compose.yaml").read_text(), re.MULTILINE
    )
    for name in images:
        assert name == "hmac-file-server" or re.search(r":v?[0-9]+\.[0-9.]*[0-9](-|$)|@sha256:", name), name
