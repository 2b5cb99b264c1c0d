"""Signatures: who made a patch, and who wrote the pointer of a store.

Enters: keys, and bytes that cover every byte of what is signed. Leaves: Ed25519 signatures, or
an `UntrustedError`. Imports cryptography only once there is a key; the command line imports this,
but for types, only then too.
"""

from sparsediff.signing.keys import PrivateKey, PublicKey, generate, private_key, public_key
from sparsediff.signing.signatures import (
    MOST,
    Signer,
    Trust,
    environment_keys,
    parsed,
    signer,
    trust,
)

__all__ = [
    "MOST",
    "PrivateKey",
    "PublicKey",
    "Signer",
    "Trust",
    "environment_keys",
    "generate",
    "parsed",
    "private_key",
    "public_key",
    "signer",
    "trust",
]
