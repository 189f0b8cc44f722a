"""The tokens of an upload are good for that one alone."""

from __future__ import annotations

from typing import Any

import pytest

from tests.live.client import request
from tests.live.dialects.limits import new_names
from tests.live.pieces import (
    BODY,
    TUS,
    NumberedUpload,
    RangeUpload,
    TusUpload,
    Upload,
    begun,
    patch,
)
from tests.servers.hmacfs import HmacFileServer


@pytest.mark.parametrize("kind", [RangeUpload, NumberedUpload])
def test_a_token_is_good_for_its_own_slot_only(server: HmacFileServer, kind: type[Upload]) -> None:
    mine, other = (begun(kind, server, next(new_names)) for _ in range(2))
    tus = begun(TusUpload, server, next(new_names))
    piece, content_range = BODY[40_000:80_000], f"bytes 40000-79999/{len(BODY)}"
    dialect: dict[str, Any] = {"content_range": content_range}
    if kind is NumberedUpload:
        dialect = {"x_chunk_id": 2, "x_total_chunks": 3, "x_file_size": len(BODY)}
    target = server.sign_v(mine.name, len(BODY))
    for token in (other.token, tus.token, "x" * 43, "../../etc/passwd", "x"):
        assert request(server, "PUT", target, piece, x_session_token=token, **dialect).status == 404
    unsigned = server.path(mine.name)
    assert request(server, "PUT", unsigned, piece, x_session_token=mine.token, **dialect).status == 403
    assert request(server, "PUT", target, piece, x_session_token=mine.token, **dialect).status == 202
    assert other.probe().headers["Upload-Offset"] == tus.probe().headers["Upload-Offset"] == "40000"


def test_a_slots_token_is_no_tus_url(server: HmacFileServer, name: str) -> None:
    upload = begun(RangeUpload, server, name)
    url = f"{server.prefix}.hmacfs/tus/{upload.token}"
    assert request(server, "HEAD", url, **TUS).status == 404
    assert patch(server, url, 40_000, BODY[40_000:]).status == 404
    assert request(server, "DELETE", url, **TUS).status == 404
    assert upload.probe().headers["Upload-Offset"] == "40000"
