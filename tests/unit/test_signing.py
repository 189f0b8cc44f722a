"""The signature schemes, with the vectors of docs/protocol.md, section 2."""

from __future__ import annotations

import hmac
import warnings
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hmacfs.errors import (
    BadSignature,
    BadToken,
    HmacfsError,
    LengthRequired,
    SizeMismatch,
    SlotMismatch,
    TokenExpired,
)
from hmacfs.protocol.keyring import Keyring, sign_v, sign_v2, sign_v3
from hmacfs.protocol.signing import (
    Scheme,
    SignedRequest,
    Verified,
    encode_bearer,
    schemes_in,
    v_alone,
    verify,
    verify_v,
)

SECRET = b"a-horse-is-a-horse-even-is-a-jet"
KEYRING = Keyring([SECRET])
P = "9f1c2d3e-4b5a-4c6d-8e7f-0a1b2c3d4e5f/photo.jpg"
U = "0b7e/héllo wörld ☃.jpg"
MIB = 1048576
V_P = "325f6a670a2eadef1a1642aa8ac29e9fc0b8ba8e00ac365207dda882702e2594"
V_U = "8e22768103ee700e07dcea0bce048eaef208b49c9d296b6a6ce2e6f34216e383"
V2_P = "b60021b308836dd492ae157d0feb2c1e2c0cde4cdd9530a6eeae796204011620"
V3_PUT = "4514fbd2d667f5ac32f198918de562a92c482e3d37e5e25cca4e5cb0912b323a"
V3_GET = "aceac87f44e79a02cc7b222e2a7b0b6cde76531040f64212273e7e1aac567bd2"
JWT = (
    "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiJhbGljZUBleGFtcGxlLm9yZyIsImlhdCI6MTc5OTk5OTcwMCwiZXhwIjoxODAwMDAw"
    "MDAwLCJzbG90IjoicTJWdlZRaFliVGYzWEgwbiIsImZpbGVuYW1lIjoicGhvdG8uanBnIiwiZmlsZXNpemUiOjEwNDg1NzYsImZpbGV0eXBlIjoi"
    "aW1hZ2UvanBlZyIsImV4cGlyZXMiOjE4MDA2MDQ4MDB9.ovrL1vJkLcXHQrFs-PVyuWMjOmUFwSB0rSAG91CsiuQ"
)
SLOT = "q2VvVQhYbTf3XH0n/photo.jpg"
EXP = 1800000000


def judge(
    query: str = "", *, now: float = 0, keyring: Keyring = KEYRING, guessed: bool = False, **changes: Any
) -> Verified:
    request = SignedRequest("PUT", f"/upload/{P}", P, MIB, "image/jpeg", query, None)._replace(**changes)
    return verify(request, keyring, now, accept_guessed_type=guessed)


def test_signing_makes_the_vectors() -> None:
    assert sign_v(KEYRING, P, MIB) == V_P
    assert sign_v(KEYRING, U, 5) == V_U
    assert sign_v2(KEYRING, P, MIB, "image/jpeg") == V2_P
    assert sign_v3(KEYRING, "PUT", EXP, f"/upload/{P}") == V3_PUT
    assert sign_v3(KEYRING, "GET", EXP, f"/upload/{P}") == V3_GET


def test_the_vectors_verify() -> None:
    assert judge(f"v={V_P}") == Verified(Scheme.V, binds_length=True)
    assert judge(f"v={V_P.upper()}").scheme is Scheme.V
    assert judge(f"v={V_U}", path=U, length=5).scheme is Scheme.V
    assert judge(f"v2={V2_P}").scheme is Scheme.V2
    assert judge(f"token={V2_P}").scheme is Scheme.TOKEN
    assert judge(f"v3={V3_PUT}&expires={EXP}", now=EXP - 1) == Verified(Scheme.V3, binds_length=False)
    for method in ("GET", "HEAD"):
        assert judge(f"expires={EXP}&v3={V3_GET}", method=method, length=None).scheme is Scheme.V3
    verified = judge(authorization=f"Bearer {JWT}", path=SLOT, now=EXP - 1)
    assert verified == Verified(Scheme.BEARER, True, "image/jpeg", 1800604800, "alice@example.org")


@pytest.mark.parametrize(
    ("query", "changes"),
    [
        ("", {}), ("v=", {}), (f"v={V_P[:-1]}", {}), (f"v={V_P}0", {}), (f"v={V_U}", {}), (f"v={V_P}", {"length": MIB + 1}),
        (f"v={V_P}", {"path": P + "x"}), (f"v={V_P}&v={V_P}", {}), (f"v={V_P}&v2={V_P}", {}),
        (f"v={V_P}&v3={V3_PUT}", {}), (f"v2={V2_P}", {"content_type": "image/png"}), (f"v2={V2_P}", {"content_type": None}),
        (f"v3={V3_PUT}&expires={EXP}", {"now": EXP}), (f"v3={V3_PUT}&expires={EXP + 1}", {}), (f"v3={V3_PUT}", {}),
        (f"v3={V3_PUT}&expires=+{EXP}", {}), (f"v3={V3_PUT}&expires=0{EXP}", {}), (f"v3={V3_PUT}&expires={EXP}", {"method": "GET"}),
        (f"v3={V3_PUT}&expires={EXP}&expires={EXP}", {}), (f"v3={V3_GET}&expires={EXP}", {"method": "PUT"}),
        (f"V={V_P}", {}), ("v=\xff", {}), ("v=" + "\u0660" * 64, {}), ("", {"authorization": "Basic x"}),
    ],
)  # fmt: skip
def test_bad_signatures(query: str, changes: dict[str, Any]) -> None:
    with pytest.raises(BadSignature):
        judge(query, **changes)


def test_a_missing_length() -> None:
    for query in (f"v={V_P}", f"v2={V2_P}", f"token={V2_P}", "v=" + "0" * 64):
        with pytest.raises(LengthRequired):
            judge(query, length=None)
    with pytest.raises(BadSignature):
        judge("v=0", length=None)
    with pytest.raises(LengthRequired):
        judge(authorization=f"Bearer {JWT}", path=SLOT, length=None)


def test_the_extensions_type_counts_only_if_it_is_accepted() -> None:
    for content_type in (None, "video/mp4"):
        with pytest.raises(BadSignature):
            judge(f"v2={V2_P}", content_type=content_type)
        assert judge(f"v2={V2_P}", content_type=content_type, guessed=True).scheme is Scheme.V2
    assert judge(f"v2={sign_v2(KEYRING, P, MIB, 'application/octet-stream')}", content_type=None).scheme is Scheme.V2


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"now": EXP}, TokenExpired), ({"path": "other/photo.jpg"}, SlotMismatch), ({"path": SLOT + "/x"}, SlotMismatch),
        ({"length": 5}, SizeMismatch), ({"authorization": "Bearer"}, BadToken), ({"authorization": "bearer x.y.z"}, BadToken),
        ({"authorization": f"Bearer {JWT}x"}, BadToken), ({"keyring": Keyring([b"0123456789abcdef"])}, BadToken),
    ],
)  # fmt: skip
def test_bad_tokens(changes: dict[str, Any], error: type[HmacfsError]) -> None:
    with pytest.raises(error):
        judge(**{"authorization": f"Bearer {JWT}", "path": SLOT, **changes})


@pytest.mark.parametrize("algorithm", ["none", "HS384", "HS512"])
def test_other_algorithms_are_refused(algorithm: str) -> None:
    import jwt

    claims = {"slot": "s", "filename": "f", "filesize": 1, "exp": EXP}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        token = jwt.encode(claims, "" if algorithm == "none" else SECRET, algorithm=algorithm)
    with pytest.raises(BadToken):
        judge(authorization=f"Bearer {token}", path="s/f", length=1)


@pytest.mark.parametrize("claim", ["slot", "filename", "filesize", "exp"])
@pytest.mark.parametrize("value", [None, [], {}, True, float("nan"), float("inf")])
def test_claims_of_another_type_are_refused(claim: str, value: object) -> None:
    token = encode_bearer(KEYRING, {"slot": "s", "filename": "f", "filesize": 1, "exp": EXP, claim: value})
    with pytest.raises(BadToken):
        judge(authorization=f"Bearer {token}", path="s/f", length=1)


def test_several_secrets_and_short_ones() -> None:
    old, new = Keyring([b"0123456789abcdef"]), Keyring([SECRET, b"0123456789abcdef"])
    assert judge(f"v={sign_v(old, P, MIB)}", keyring=new).scheme is Scheme.V
    token = encode_bearer(old, {"slot": "s", "filename": "f", "filesize": 1, "exp": EXP})
    assert (
        judge(authorization=f"Bearer {token}", path="s/f", length=1, keyring=new).content_type
        == "application/octet-stream"
    )
    assert "0123456789abcdef" not in repr(new)
    with pytest.raises(ValueError, match="needs a secret"):
        Keyring([])


@given(st.binary(min_size=1, max_size=200), st.binary(max_size=200))
@example(b"x" * 64, b"")
@example(b"x" * 65, b"")
def test_the_keyrings_macs_are_hmacs(secret: bytes, message: bytes) -> None:
    keyring = Keyring([b"another", secret])
    mac = hmac.digest(secret, message, "sha256")
    assert Keyring([secret]).sign(message) == mac.hex() == list(keyring.macs(message))[1]
    assert keyring.is_signed(message, mac)
    assert not keyring.is_signed(message + b"x", mac)
    assert not keyring.is_signed(message, mac[:-1])


@given(st.text("0123456789abcdefABCDEF &=%v\t", min_size=62, max_size=66), st.sampled_from([V_P, V_U, V_P.upper()]))
@example(" " * 64, V_P)
@example(V_P[:-1] + "\u0660", V_P)
def test_a_v_alone_is_judged_as_by_the_scheme(garbage: str, mac: str) -> None:
    def of_general(query: str) -> Verified | None:
        try:
            return judge(query)
        except BadSignature:
            return None

    def of_special(query: str, given: bytes) -> Verified | None:
        try:
            return verify_v(P, MIB, given, KEYRING)
        except BadSignature:
            return None

    for query in (f"v={mac}", f"v={garbage}", f"V={mac}", f"v={mac}&", f"v2={mac}", f"v%3D={mac[:-3]}", f"w={mac}"):
        given_mac = v_alone(query)
        if given_mac is not None:
            assert of_special(query, given_mac) == of_general(query)
    assert v_alone(f"v={mac}") == bytes.fromhex(mac)


@given(st.text(), st.none() | st.text(), st.none() | st.integers(), st.none() | st.text())
def test_nothing_but_refusals_comes_of_garbage(
    query: str, authorization: str | None, length: int | None, kind: str | None
) -> None:
    for changed in (query, f"v={query}", f"v3={V3_PUT}&expires={query}", f"v2={V2_P}&{query}"):
        try:
            judge(changed, now=EXP, authorization=authorization, length=length, content_type=kind)
        except (BadSignature, BadToken, LengthRequired):
            continue
        raise AssertionError(changed)


def test_which_scheme_a_query_carries() -> None:
    assert schemes_in("") == frozenset()
    assert schemes_in("utm=v&expires=1&expires=2&V3=x&v33=y") == frozenset()
    assert schemes_in("v=1&token=2&token=3&v2") == {Scheme.V, Scheme.TOKEN, Scheme.V2}
    assert schemes_in("%76=1&x=%ff&&=&v%33=2") == {Scheme.V, Scheme.V3}


@pytest.mark.parametrize("scheme", ["v2", "token"])
def test_a_signature_over_one_of_several_types_tells_which(scheme: str) -> None:
    def judged(signed: str, first: str | None, others: tuple[str, ...] | None) -> str | None:
        query = f"{scheme}={sign_v2(KEYRING, P, MIB, signed)}"
        request = SignedRequest("PUT", f"/upload/{P}", P, MIB, first, query, None, others)
        return verify(request, KEYRING, 0).content_type

    assert judged("image/png", "image/png", None) is None, "who gives one type knows it"
    assert judged("image/png", "image/png", ()) == "image/png"
    assert judged("image/png", "text/plain", ("image/png", "a/b")) == "image/png"
    assert judged("a/b", "text/plain", ("image/png", "a/b")) == "a/b"
    assert judged("application/octet-stream", None, ("image/png",)) == "application/octet-stream"
    for others in (None, (), ("image/PNG", "image/png ", "")):
        with pytest.raises(BadSignature):
            judged("image/png", "text/plain", others)


def test_types_change_nothing_where_a_signature_covers_none() -> None:
    query = f"v={sign_v(KEYRING, P, MIB)}"
    request = SignedRequest("PUT", f"/upload/{P}", P, MIB, "image/png", query, None, ("text/html",))
    assert verify(request, KEYRING, 0) == Verified(Scheme.V, binds_length=True)
