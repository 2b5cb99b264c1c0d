"""Writes the hostile files that are small: keys, signatures beside a patch, pages of a store, and
what machines say that they hold. `write.py` writes them with all the others.
"""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

HASH, SHA = "0" * 32, "0" * 64
Entries = dict[str, bytes]

TRUSTED, OTHER = (Ed25519PrivateKey.from_private_bytes(bytes([i] * 32)) for i in (1, 2))
_CURVE = ec.derive_private_key(1, ec.SECP256R1())


def public(key: Any) -> bytes:
    """A key as PEM, for who checks signatures."""
    kind = serialization.PublicFormat.SubjectPublicKeyInfo
    return bytes(key.public_key().public_bytes(serialization.Encoding.PEM, kind))


def _private(key: Any) -> bytes:
    kind, secret = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return bytes(key.private_bytes(serialization.Encoding.PEM, kind, secret))


def row(
    key: Ed25519PrivateKey, kind: str, data: bytes, claimed: Ed25519PrivateKey = TRUSTED
) -> dict[str, str]:
    """A signature of some data, which says that it is by the claimed key."""
    digest = hashlib.sha256(data).hexdigest()
    made = key.sign(f"sparsediff {kind} sha256 {digest}\n".encode())
    name = hashlib.sha256(claimed.public_key().public_bytes_raw()).hexdigest()[:16]
    return {"key": name, "ed25519": base64.b64encode(made).decode()}


def _signatures(rows: object, kind: str = "sparsediff-signatures") -> bytes:
    return json.dumps({"format": kind, "signatures": rows}).encode()


def _page(*versions: object, kind: str = "sparsediff-page", **more: Any) -> bytes:
    return json.dumps({"format": kind, "pages": [], "versions": versions} | more).encode()


_ACK = {"format": "sparsediff-ack", "id": HASH, "version": 1, "name": "step_1"}


def right(manifest: bytes, version: dict[str, Any]) -> Entries:
    """One of each, and nothing is wrong with it."""
    return {
        "key-right.pub": public(TRUSTED),
        "secret-right.pem": _private(TRUSTED),
        "signature-right.sig": _signatures([row(TRUSTED, "patch", manifest)]),
        "page-right.json": _page(version),
        "ack-right.json": json.dumps(_ACK).encode(),
    }


def keys() -> Entries:
    """Keys that nobody may trust, or sign with."""
    pem, secret = public(TRUSTED), _private(TRUSTED)
    body = b"".join(pem.splitlines()[1:-1])
    head, tail = b"-----BEGIN %b-----\n", b"\n-----END %b-----\n"
    trusted = {
        "empty": b"",
        "zeros": bytes(64),
        "private": secret,
        "curve": public(_CURVE),
        "two": pem + public(OTHER),
        "cut": pem[:-10],
        "more": pem + b"more\n",
        "certificate": head % b"CERTIFICATE" + body + tail % b"CERTIFICATE",
        "base64": head % b"PUBLIC KEY" + b"\xe2\x80\xae" * 20 + tail % b"PUBLIC KEY",
        "short": head % b"PUBLIC KEY" + body[:40] + tail % b"PUBLIC KEY",
        "expires": b"Expires: tomorrow\n" + pem,
        "expires-twice": b"Expires: 2999-01-01T00:00:00Z\nExpires: 2000-01-01T00:00:00Z\n" + pem,
        "expires-misspelt": b"Expired: 2000-01-01T00:00:00Z\n" + pem,
        "huge": b"#" * (1 << 16) + b"\n" + pem,
    }
    secrets = {
        "public": pem,
        "curve": _private(_CURVE),
        "encrypted": secret.replace(b"PRIVATE", b"ENCRYPTED PRIVATE"),
        "openssh": secret.replace(b"PRIVATE", b"OPENSSH PRIVATE"),
        "cut": secret[:60] + secret[-26:],
        "two": secret + _private(OTHER),
        "expired": b"Expires: 2000-01-01T00:00:00Z\n" + secret,
    }
    return {f"key-{kind}.pub": data for kind, data in trusted.items()} | {
        f"secret-{kind}.pem": data for kind, data in secrets.items()
    }


def signature_files(manifest: bytes) -> Entries:
    """Signatures beside a patch with this header and manifest, for who trusts ``trusted.pub``."""
    signature = row(TRUSTED, "patch", manifest)
    made = {
        "empty": b"",
        "nested": b"[" * 4_000,
        "null": b"null",
        "rows": json.dumps([signature]).encode(),
        "none": _signatures([]),
        "format": _signatures([signature], "sparsediff-parts"),
        "by-another": _signatures([row(OTHER, "patch", manifest)]),
        "of-a-pointer": _signatures([row(TRUSTED, "pointer", manifest)]),
        "of-another": _signatures([row(TRUSTED, "patch", manifest + b" ")]),
        "bits": _signatures([signature | {"ed25519": signature["ed25519"][:-3] + "B=="}]),
        "number": _signatures([signature | {"ed25519": 1}]),
        "too-many": _signatures([signature] * 65),
        "huge": _signatures([signature]) + b" " * (1 << 16),
    }
    return {f"signature-{kind}.sig": data for kind, data in made.items()}


def pages(version: dict[str, Any]) -> Entries:
    """Pages of a store, of which the pointer says that each holds version 1."""
    made = {
        "empty": b"",
        "nested": b"[" * 4_000,
        "format": _page(version, kind="sparsediff-store"),
        "none": _page(),
        "more": _page(version, version | {"version": 2, "name": "step_2"}),
        "another": _page(version | {"version": 2}),
        "name-up": _page(version | {"name": "../../etc"}),
        "key-up": _page(
            version | {"patches": [version["patches"][0] | {"key": "versions/../../secret"}]}
        ),
        "itself": _page(pages=[{"key": "versions/pages/p.json"}]),
        "digits": _page(version).replace(b'"n_bytes": 5', b'"n_bytes": ' + b"9" * 5_000, 1),
    }
    return {f"page-{kind}.json": data for kind, data in made.items()}


def acks() -> Entries:
    """What a machine says that it holds of a store."""
    made = {
        "empty": b"",
        "nested": b"[" * 4_000,
        "digits": json.dumps(_ACK).replace("1", "9" * 4_020, 1).encode()[:4_096],
        "huge": json.dumps(_ACK).encode() + b" " * 4_096,
        "format": json.dumps(_ACK | {"format": "sparsediff-store"}).encode(),
        "id": json.dumps(_ACK | {"id": "\33[2J\u202e"}).encode(),
        "version": json.dumps(_ACK | {"version": 1 << 63}).encode(),
        "true": json.dumps(_ACK | {"version": True}).encode(),
        "name": json.dumps(_ACK | {"name": "../step_1"}).encode(),
        "latin": json.dumps(_ACK).encode().replace(b"step", b"\xff\xfe"),
    }
    return {f"ack-{kind}.json": data for kind, data in made.items()}
