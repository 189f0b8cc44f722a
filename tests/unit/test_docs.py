"""The documents keep up with the code: what they cite and link to exists, and the vectors of the protocol hold."""

from __future__ import annotations

import ast
import functools
import itertools
import json
import re
from pathlib import Path
from urllib.parse import unquote

import pytest

from hmacfs.config import Storage, load
from hmacfs.config.settings import SETTINGS
from hmacfs.dialects import tus
from hmacfs.protocol.keyring import Keyring
from hmacfs.protocol.signing import Scheme, SignedRequest, verify
from hmacfs.stores.s3 import notes
from hmacfs.telemetry import labels
from hmacfs.uploads.progress import _LIFETIMES

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
MARKDOWN = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])
#: What may cite a section.
SOURCES = [
    path
    for path in [
        *ROOT.glob("*"),
        *(path for top in ("hmacfs", "tests", "bench", "deploy", "docs") for path in (ROOT / top).rglob("*")),
    ]
    if path.suffix in (".py", ".md", ".conf", ".cfg", ".toml", ".lua", ".yml")
]

_FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`[^`\n]*`")
_HEADING = re.compile(r"^#{1,6} +(.+?) *$", re.MULTILINE)
_LINK = re.compile(r"\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s]+)\)")
_SECTION = re.compile(r"^#{2,6} +([0-9]+(?:\.[0-9]+)*)\.? ", re.MULTILINE)
_CITED = re.compile(
    r"\b(protocol|facts)\.md\)?,?\s+sections?\s+([0-9.]*[0-9](?:(?:,|\s+and|\s+to|,\s+and)\s+[0-9.]*[0-9])*)"
)
_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]+)*")
_MODULE_PATH = re.compile(
    r"(?<![\w./-])(?:hmacfs|tests|bench|docs|deploy)/[\w./-]*\.(?:py|md|toml|json|yml|yaml|conf|cfg|lua)\b"
)
_DOTTED = re.compile(r"`(hmacfs(?:\.\w+)+)`")


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


@functools.cache
def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def prose(path: Path) -> str:
    """A document without its blocks of code."""
    return _FENCE.sub("", text_of(path))


@functools.cache
def anchors(path: Path) -> frozenset[str]:
    """Those that GitHub makes of the headings."""
    found: set[str] = set()
    for heading in _HEADING.findall(prose(path)):
        title = _LINK.sub(r"\1", heading).replace("`", "")
        slug = re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
        repeated = (slug if count == 0 else f"{slug}-{count}" for count in itertools.count())
        found.add(next(anchor for anchor in repeated if anchor not in found))
    return frozenset(found)


def links(path: Path) -> list[tuple[str, str]]:
    """Text and target of each link."""
    return _LINK.findall(prose(path))


@functools.cache
def names_in(path: Path) -> frozenset[str]:
    """What a module defines: functions, classes, constants, and ``Class.method``."""
    found: set[str] = set()

    def add(body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                found.add(prefix + node.name)
                if isinstance(node, ast.ClassDef):
                    add(node.body, f"{node.name}.")
                else:
                    add(node.body, prefix)
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                found.update(prefix + target.id for target in targets if isinstance(target, ast.Name))

    add(ast.parse(text_of(path)).body, "")
    return frozenset(found)


@pytest.mark.parametrize("path", MARKDOWN, ids=relative)
def test_every_relative_link_leads_somewhere(path: Path) -> None:
    for _, target in links(path):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = unquote(target).partition("#")
        there = (path.parent / file).resolve() if file else path
        assert there.exists(), target
        assert not anchor or anchor in anchors(there), target


@pytest.mark.parametrize("path", MARKDOWN, ids=relative)
def test_a_name_that_links_to_a_module_is_defined_there(path: Path) -> None:
    for text, target in links(path):
        if target.endswith(".py"):
            for name in re.findall(r"`([A-Za-z_][\w.]*?)(?:\(\))?`", text):
                if "/" not in name and not name.endswith(".py"):
                    assert name in names_in((path.parent / target).resolve()), f"{name} in {target}"


def test_a_stranger_finds_the_way_from_the_readme() -> None:
    """To a function in a file for each question that newcomers have."""
    for question in (
        "the order of the checks of a PUT",
        "the fsync of the folder",
        "what happens on SIGTERM",
        "where to add a setting",
        "the name of a metric",
        "why a wrong signature is 403",
    ):
        row = re.search(rf"^\| {question} \| (.+) \| (.+) \|$", text_of(ROOT / "README.md"), re.MULTILINE)
        assert row is not None, question
        assert re.search(r"\[`\w+(?:\.\w+)*`\]\(hmacfs/[\w/]+\.py\)", row[1]), question
        assert re.search(r"\]\([\w/.-]+\.md", row[2]), question


def test_architecture_names_every_package() -> None:
    text = text_of(DOCS / "architecture.md")
    for package in (ROOT / "hmacfs").glob("*/__init__.py"):
        assert f"`hmacfs/{package.parent.name}`" in text, package.parent.name
    for module in (ROOT / "hmacfs").glob("[!_]*.py"):
        assert f"`{module.stem}`" in text or f"hmacfs/{module.name}" in text, module.name


def test_architecture_and_the_code_list_the_same_notes_of_an_unfinished_upload() -> None:
    told = re.findall(r"^\| `partial/<upload key>/([^`]+)` \|", text_of(DOCS / "architecture.md"), re.MULTILINE)
    assert told == re.findall(r"^``([^`]+)`` {2,}", notes.__doc__ or "", re.MULTILINE)


@pytest.mark.parametrize("path", MARKDOWN, ids=relative)
def test_every_module_that_is_named_exists(path: Path) -> None:
    # The changelog tells of what was.
    if path.name == "CHANGELOG.md":
        return
    for named in _MODULE_PATH.findall(text_of(path)):
        assert (ROOT / named).exists() or list(ROOT.glob(named)), named
    for dotted in _DOTTED.findall(text_of(path)):
        assert is_defined(dotted), dotted


def is_defined(dotted: str) -> bool:
    """Whether a module, or a name in one, is called so."""
    parts = dotted.split(".")
    for count in range(len(parts), 0, -1):
        place = ROOT.joinpath(*parts[:count])
        rest = ".".join(parts[count:])
        for module in (place.with_suffix(".py"), place / "__init__.py"):
            if module.is_file():
                return not rest or rest in names_in(module)
        if place.is_dir():
            return not rest
    return False


def test_every_section_that_is_cited_exists() -> None:
    sections = {name: frozenset(_SECTION.findall(text_of(DOCS / f"{name}.md"))) for name in ("protocol", "facts")}
    assert sections["protocol"] >= {"1", "2", "3", "6.1", "6.4", "8"}
    assert sections["facts"] >= {"0", "13"}
    count = 0
    for path in SOURCES:
        for document, cited in _CITED.findall(text_of(path)):
            for number in _NUMBER.findall(cited):
                count += 1
                assert number in sections[document], f"{relative(path)}: docs/{document}.md, section {number}"
    assert count >= 25


def test_documents_cite_their_own_sections() -> None:
    for name in ("protocol", "facts"):
        text = text_of(DOCS / f"{name}.md")
        sections = _SECTION.findall(text)
        own = re.sub(r"RFC [0-9]+ sections? [0-9.]+", "", text)
        for number in re.findall(r"\bsection ([0-9]+(?:\.[0-9]+)*)", own):
            assert number in sections, f"{name}: section {number}"


def test_nothing_cites_a_document_that_is_not_here() -> None:
    for path in SOURCES:
        assert not re.search(r"\b(?:PROTOCOL|FACTS)(?:\.md)?\b(?:,? section|'s)", text_of(path)), relative(path)


def blocks(language: str, heading: str) -> list[str]:
    """Those of that language below a heading of the README, up to the next one."""
    part = text_of(ROOT / "README.md").partition(f"\n{heading}\n")[2]
    return re.findall(
        rf"^```{language}\n(.*?)^```", re.split(r"^#{1,6} ", part, flags=re.MULTILINE)[0], re.MULTILINE | re.DOTALL
    )


def test_the_readme_configures_several_machines_with_what_can_be_used(tmp_path: Path) -> None:
    (config,) = blocks("toml", "#### With an object store")
    (tmp_path / "config.toml").write_text(config.replace('"..."', '"of-sixteen-bytes"'))
    settings = load(tmp_path / "config.toml", {})
    assert settings.storage is Storage.S3
    policy, identities, rules = map(json.loads, blocks("json", "#### With an object store"))
    bucket, objects = policy["Statement"]
    assert bucket["Resource"] == f"arn:aws:s3:::{settings.s3_bucket}"
    assert objects["Resource"] == f"{bucket['Resource']}/*"
    (identity,) = identities["identities"]
    assert {action.partition("/")[0] for action in identity["actions"]} == {
        f"{right}:{settings.s3_bucket}" for right in ("Read", "Write", "List")
    }
    days = rules["Rules"][0]["AbortIncompleteMultipartUpload"]["DaysAfterInitiation"]
    assert days * 24 * 3600 > _LIFETIMES * settings.session_ttl, "so long a client may go on with an upload"


VECTORS = text_of(DOCS / "protocol.md").partition("### Test vectors")[2].partition("\n### ")[0]


def rows(width: int) -> list[tuple[str, ...]]:
    """The cells of the rows of so many cells, without code marks."""
    lines = (line.strip("| ").split(" | ") for line in VECTORS.splitlines() if line.startswith("| "))
    return [tuple(cell.strip("` ") for cell in cells) for cells in lines if len(cells) == width]


def paths() -> dict[str, str]:
    return {cells[0]: cells[1] for cells in rows(2)}


def test_the_vectors_of_the_protocol_hold() -> None:
    secret = re.search(r"Secret: `([^`]+)`", VECTORS)
    assert secret is not None
    keyring = Keyring([secret[1].encode()])
    for scheme, covers, signature in rows(3)[1:]:
        first, *rest = covers.split(", ")
        method, url_path = (first, rest[1]) if scheme == "v3" else ("PUT", f"/upload/{first}")
        path = paths()[url_path.removeprefix("/upload/")]
        expires = rest[0].removeprefix("expires ") if scheme == "v3" else ""
        length = None if scheme == "v3" else int(rest[0].removesuffix(" bytes"))
        content_type = rest[1] if scheme in ("v2", "token") else None
        query = f"{scheme}={signature}" + (f"&expires={expires}" if expires else "")
        request = SignedRequest(method, f"/upload/{path}", path, length, content_type, query, None)
        assert verify(request, keyring, int(expires or 1) - 1).scheme is Scheme(scheme), covers
    assert len(rows(3)) == 7


def test_the_bearer_token_of_the_protocol_holds() -> None:
    block = re.search(r"```text\n(.*?)```", VECTORS, re.DOTALL)
    assert block is not None
    path = paths()["S"]
    request = SignedRequest("PUT", f"/upload/{path}", path, 1048576, None, "", f"Bearer {''.join(block[1].split())}")
    verified = verify(request, Keyring([b"a-horse-is-a-horse-even-is-a-jet"]), 1799999999)
    assert verified.scheme is Scheme.BEARER
    assert (verified.content_type, verified.expires, verified.sub) == ("image/jpeg", 1800604800, "alice@example.org")


def test_the_protocol_names_settings_and_reasons_that_there_are() -> None:
    text = prose(DOCS / "protocol.md")
    settings = set(re.findall(r"`([A-Z][a-z]+(?:[A-Z]\w*)+)[` ]", text)) - {"CamelCase", "RateLimit"}
    assert len(settings) > 15
    assert settings <= {setting.key for setting in SETTINGS}
    reasons = set(re.findall(r"\b[45][0-9]{2} \(`([a-z-]+)`", text))
    assert len(reasons) > 10
    assert reasons <= labels.upload_reasons() | labels.DOWNLOAD_REASONS | {tus.UnsupportedVersion.reason}


def test_reserved_parameters_are_ignored_as_the_protocol_says() -> None:
    signature = next(signature for scheme, covers, signature in rows(3) if covers.startswith("GET, "))
    path = paths()["P"]
    query = f"v3={signature}&expires=1800000000&max=1&keep=1&owner=x&under=1&files=1"
    request = SignedRequest("GET", f"/upload/{path}", path, None, None, query, None)
    assert verify(request, Keyring([b"a-horse-is-a-horse-even-is-a-jet"]), 0).scheme is Scheme.V3


def test_every_decision_is_in_the_index_and_has_its_parts() -> None:
    index = text_of(DOCS / "decisions" / "README.md")
    pages = sorted((DOCS / "decisions").glob("[0-9]*.md"))
    assert [page.name[:4] for page in pages] == [f"{number:04}" for number in range(1, len(pages) + 1)]
    for page in pages:
        assert f"({page.name})" in index, page.name
        headings = re.findall(r"^## (.+)$", text_of(page), re.MULTILINE)
        assert headings == ["Context", "Decision", "Consequences", "Alternatives"], page.name
