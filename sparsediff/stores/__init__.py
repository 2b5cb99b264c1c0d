"""Where patches are kept between machines: a directory or a bucket, by URL.

Enters: a URL. Leaves: a `Store` that retries what may pass. Imports obstore only
for the URL of a bucket.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from sparsediff.disk.names import check_relative_name
from sparsediff.disk.outputs import sync
from sparsediff.errors import CorruptError, UsageError, os_errors
from sparsediff.stores.directory import DirectoryStore
from sparsediff.stores.retry import Retrying
from sparsediff.stores.store import Store, Stored
from sparsediff.stores.throttle import Throttle

if TYPE_CHECKING:
    from sparsediff.signing import Signer, Trust

__all__ = ["Store", "Stored", "Throttle", "open_store"]


def open_store(
    url: str,
    *,
    throttle: Throttle | None = None,
    retries: int = 5,
    create: bool = False,
    trust: Trust | None = None,
    signer: Signer | None = None,
) -> Store:
    """The store at ``url``.

    Args:
        url: a directory's path or ``file://`` URL, or ``s3://bucket/prefix``,
            ``gs://bucket/prefix``, ``az://container/prefix``; without credentials.
        throttle: limits what is read and put, together with others that share it.
        retries: how often an operation is repeated while the store is unavailable.
        create: make the directory if there is none.
        trust: who must have signed what the store says of itself; default: nobody must.
        signer: who signs that when it is written, and is trusted as well.

    Raises:
        UsageError: no such directory, unknown scheme, no obstore for it, or an
            environment it cannot work with.
    """
    store = _opened(url, throttle or Throttle(), retries, create)
    store.trust = trust if signer is None else signer.trusting(trust)
    store.signer = signer
    return store


def _opened(url: str, throttle: Throttle, retries: int, create: bool) -> Store:
    scheme, separator, rest = url.partition("://")
    if not separator or scheme == "file":
        if separator and not rest.startswith("/"):
            raise UsageError("a file:// URL needs an absolute path")
        return Retrying(
            _directory(Path(unquote(rest) if separator else url), throttle, create), retries
        )
    if scheme not in ("s3", "gs", "az"):
        # Nothing else of the URL: who knows what it holds.
        raise UsageError("unknown kind of store", expected="a path, s3, gs or az", found=scheme)
    bucket, _, prefix = rest.partition("/")
    prefix = prefix.strip("/")
    if any(c in bucket for c in "@:?#") or any(c in prefix for c in "?#"):
        raise UsageError(
            f"{scheme}:// URL with more than bucket and prefix",
            expected="credentials in the environment",
        )
    try:
        check_relative_name(f"{bucket}/{prefix}" if prefix else bucket)
    except CorruptError:
        raise UsageError("not the URL of a bucket", expected=f"{scheme}://bucket/prefix") from None
    try:
        from sparsediff.stores.cloud import CloudStore
    except ImportError as e:
        if e.name is None or e.name.partition(".")[0] != "obstore":
            raise
        raise UsageError(f"{scheme}:// needs obstore: pip install obstore") from None
    return Retrying(CloudStore(scheme, bucket, prefix, throttle, retries), retries, uploads=False)


def _directory(root: Path, throttle: Throttle, create: bool) -> DirectoryStore:
    with os_errors(root):
        if create and not os.path.lexists(root):
            os.makedirs(root, exist_ok=True)
            sync(root.parent)
    if not root.is_dir():
        raise UsageError("no such directory", file=root)
    return DirectoryStore(root, throttle)
