"""Stores, as the command line names them.

Enters: a path or a URL, and options. Leaves: the store, with the keys of the options: no verb
opens one without.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from sparsediff.cli.keys import signing, trusted


@contextmanager
def opened_store(url: str, bwlimit: float | None, retries: int, *, create: bool) -> Iterator[Any]:
    """The store at ``url``; ``bwlimit`` in bits per second. Keys are those of the options.

    A directory that was made for it goes again if whoever uses it fails and has put nothing there.
    """
    from sparsediff.stores import Throttle, open_store

    throttle = None if bwlimit is None else Throttle(bwlimit / 8)
    made, directory = [], os.path.abspath(url)
    while "://" not in url and not os.path.lexists(directory):
        made.append(directory)
        directory = os.path.dirname(directory)
    try:
        yield open_store(
            url,
            throttle=throttle,
            retries=retries,
            create=create,
            trust=trusted(),
            signer=signing(),
        )
    except BaseException:
        with suppress(OSError):  # most likely because there is something in it by now
            for directory in made:
                os.rmdir(directory)
        raise
