"""One upload in one request: what others are told of it before it is received."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest

from hmacfs.errors import NameTaken, StoreUnavailable
from hmacfs.net.body import Body
from hmacfs.protocol.names import StoredName
from hmacfs.uploads.contracts.requests import RequestBody, Sink
from hmacfs.uploads.contracts.stores import FileStore
from hmacfs.uploads.files import FileMetadata
from hmacfs.uploads.whole import UploadFile
from tests.stores.backends import PART_SIZE, ObjectBackend, put
from tests.stores.local import local_store
from tests.stores.memory_bucket import Killed

NAME = StoredName.from_text("slot/film.mp4")


class Traffic:
    """All that ``UploadFile`` needs besides the store. ``steps``: what it was asked, in that order."""

    def __init__(self, *, has_arrived: bool) -> None:
        self.has_arrived = has_arrived
        self.steps: list[str] = []

    def note_arrival(self, body: RequestBody) -> None:
        assert isinstance(body, Body)
        self.steps.append("note arrival")
        body.is_here = self.has_arrived

    def claim(self, _name: StoredName, _body: RequestBody) -> AbstractContextManager[object]:
        self.steps.append("claim")
        return nullcontext()

    def wait_until_free(self, _name: StoredName) -> None:
        self.steps.append("wait until free")

    def reserve(self, _count: int | None, _body: RequestBody | None = None) -> AbstractContextManager[Any]:
        self.steps.append("reserve")
        return nullcontext()

    def receive(self, body: RequestBody, sink: Sink, **_: Any) -> int:
        del body
        self.steps.append("receive")
        sink.write(memoryview(b"content"))
        return 7


def upload(traffic: Traffic, folder: Path, digest: Any = None) -> None:
    upload_to(local_store(folder), traffic, digest)


def upload_to(store: FileStore, traffic: Traffic, digest: Any = None) -> None:
    body = Body()
    body.length = 7
    use_case = UploadFile(store, traffic, traffic, traffic, max_size=100)
    use_case(NAME, body, 7, FileMetadata(), binds_length=True, digest=digest)


@pytest.mark.parametrize(("has_arrived", "claim"), [(False, "claim"), (True, "wait until free")])
def test_one_that_has_arrived_by_now_claims_nothing(tmp_path: Path, claim: str, *, has_arrived: bool) -> None:
    traffic = Traffic(has_arrived=has_arrived)
    upload(traffic, tmp_path)
    assert traffic.steps == ["note arrival", claim, "reserve", "receive"]
    assert (tmp_path / NAME.path).read_bytes() == b"content"


def test_one_that_is_digested_takes_time_and_is_claimed(tmp_path: Path) -> None:
    class Unchecked:
        def check(self) -> None:
            pass

    traffic = Traffic(has_arrived=True)
    upload(traffic, tmp_path, Unchecked())
    assert traffic.steps == ["claim", "reserve", "receive"]


def test_a_name_that_is_taken_is_refused_before_anybody_looks(tmp_path: Path) -> None:
    upload(Traffic(has_arrived=True), tmp_path)
    again = Traffic(has_arrived=True)
    with pytest.raises(NameTaken):
        upload(again, tmp_path)
    assert again.steps == []


def test_a_name_that_another_upload_is_about_to_have_is_refused_before_anybody_looks() -> None:
    backend = ObjectBackend(lambda: 50_000.0)
    dying = backend.process(lambda name, when: (name, when) == ("complete", "before"))
    with pytest.raises(Killed):
        put(dying, NAME, bytes(3 * PART_SIZE))
    traffic = Traffic(has_arrived=True)
    with pytest.raises(StoreUnavailable):
        upload_to(backend.store, traffic)
    assert traffic.steps == []
