"""The owner of an unfinished upload, for the limits per client."""

from __future__ import annotations

import re

from hmacfs.addresses import networks_of
from hmacfs.uploads.session import Owner
from hmacfs.web.messages import Request

#: ejabberd's slots: the user (the SHA-1 of the address, or its node name), 40 random letters and digits, the file.
_EJABBERD = re.compile(r"([^/]+)/[A-Za-z0-9]{40}/[^/]+")


def owner_of(request: Request) -> Owner:
    """The user that the signature names, so that users who share an address are told apart; else the client's network.
    The signature was checked.

    Example: ``folder 0a1b2c``, for a slot of ejabberd's; ``192.0.2.7``.
    """
    verified = request.verified
    if verified is not None and verified.sub:
        return Owner(f"user {verified.sub}")
    user = _EJABBERD.fullmatch(request.name.path)
    if user is not None:
        return Owner(f"folder {user[1]}")
    network, *wider = (name for name, _ in networks_of(request.client))
    return Owner(network, wider[0] if wider else "")
