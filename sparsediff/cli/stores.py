"""Stores, as the command line names them.

Enters: a path or a URL, and options. Leaves: the store, with the keys of the options: no verb
opens one without.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sparsediff.cli.keys import signing, trusted


@contextmanager
def opened_store(url: str, bwlimit: float | None, retries: int, *, create: bool) -> Iterator[Any]:
    """The store at ``url``; ``bwlimit`` in bits per second. Keys are those of the options."""
    from sparsediff.stores import Throttle, open_store

    throttle = None if bwlimit is None else Throttle(bwlimit / 8)
    yield open_store(
        url,
        throttle=throttle,
        retries=retries,
        create=create,
        trust=trusted(),
        signer=signing(),
    )
