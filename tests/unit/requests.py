"""Parts of requests for tests of what takes one."""

from __future__ import annotations

import io

from hmacfs.net.body import WsgiBody

#: A body without bytes.
EMPTY = WsgiBody(io.BytesIO(), 0, 1.0)
