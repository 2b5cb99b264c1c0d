"""A store in S3, Google Cloud Storage or Azure, through obstore.

Enters: keys below the prefix of a URL; credentials and endpoint from the
environment variables of each cloud's own tools. Leaves: objects that appear when
their upload is complete. Never puts an address or an answer of the
server into a message: they may hold signatures. Leaves nothing to clean up that
could be listed: parts of broken uploads go by the bucket's lifecycle rule
(AbortIncompleteMultipartUpload).

What a bucket must be able to do is conditional writes (If-None-Match, If-Match);
one that ignores them is refused at the first `swap`.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    NotModifiedError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)
from obstore.store import AzureStore, GCSStore, S3Store

from sparsediff.disk.inputs import InputFile
from sparsediff.disk.names import check_relative_name
from sparsediff.errors import (
    CorruptError,
    SparsediffError,
    UnavailableError,
    UnsupportedError,
    UsageError,
)
from sparsediff.stores.retry import FIRST_DELAY, LONGEST_DELAY
from sparsediff.stores.store import Found, Stored, check_small, pieces
from sparsediff.stores.throttle import Throttle

if TYPE_CHECKING:
    from sparsediff.signing import Signer, Trust

_PART = 5 << 20  # the least S3 takes
_MAX_PARTS = 10_000
_PARTS_AT_ONCE = 4  # of one upload; this many parts and one more are in memory
_CONNECT_TIMEOUT = "5s"
_SILENCE_TIMEOUT = "30s"  # from a request, a part included, to its answer, or within that
_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")

_STATUS = re.compile(r"non-2xx status code: (\d{3})([ \w]*)")
_CODE = re.compile(r"<Code>(\w{1,60})</Code>")
_CAUSE = re.compile(r'message: "([^"]{1,100})"|kind: (Timeout)|(dns error)')
_METADATA = re.compile(r"/latest/api/token|/latest/meta-data|/computeMetadata/|/metadata/identity")
_CREDENTIAL_CODES = ("ExpiredToken", "InvalidToken", "InvalidAccessKeyId", "TokenRefreshRequired")
_PASSING_CODES = ("RequestTimeout", "SlowDown")  # with a status that does not say so


class CloudStore:
    """Implements `Store`, but for retries of anything but uploads.

    Args:
        scheme: ``s3``, ``gs`` or ``az``.
        bucket: bucket or container.
        prefix: what all keys start with, without a ``/`` at its end; may be empty.
        throttle: for what `read` and `put` move.
        retries: how often a part of an upload is repeated.
    """

    trust: Trust | None = None
    signer: Signer | None = None

    def __init__(
        self, scheme: str, bucket: str, prefix: str, throttle: Throttle, retries: int
    ) -> None:
        """See the class.

        Raises:
            UsageError: the environment makes no sense to obstore.
        """
        self.name = f"{scheme}://{bucket}" + (f"/{prefix}" if prefix else "")
        self._throttle = throttle
        # Generations are what Google's conditions are about, not tags.
        self._tag_field = "version" if scheme == "gs" else "e_tag"
        self._conditions_hold = False
        self._lock = threading.Lock()
        self._meant = ""  # for messages: whom we could not talk to, where an operator chose it
        try:
            variable, endpoint = _endpoint() if scheme == "s3" else (None, None)
            if endpoint is not None:
                parts = urlsplit(endpoint)
                self._meant = f" ({variable} is {parts.scheme}://{parts.netloc})"
            self._once = _connect(scheme, bucket, prefix, 0)
            # Only obstore can repeat one part; the others of an upload are kept.
            self._parts = _connect(scheme, bucket, prefix, retries)
        except (BaseError, ValueError) as e:
            raise UsageError(f"cannot use this store: {_reason(str(e))}", file=self.name) from None

    def get(self, key: str, known: Found | None = None) -> Found | None:
        """See `Store`."""
        with suppress(FileNotFoundError), self._errors(key):
            options: Any = {}
            if known is not None and self._tag_field == "e_tag":
                options = {"if_none_match": known[1]}
            elif known is not None and self._tag(key, self._head(key)) == known[1]:
                return known  # Google takes generations as conditions of writing only
            try:
                answer = obstore.get(self._once, self._checked(key), options=options)
            except NotModifiedError:
                return known
            check_small(self._full(key), answer.meta["size"])
            return bytes(answer.bytes()), self._tag(key, answer.meta)
        return None

    def tag(self, key: str) -> str | None:
        """See `Store`."""
        with suppress(FileNotFoundError), self._errors(key):
            return self._tag(key, self._head(key))
        return None

    def size(self, key: str) -> int | None:
        """See `Store`."""
        with suppress(FileNotFoundError), self._errors(key):
            n_bytes: int = self._head(key)["size"]
            return n_bytes
        return None

    def read(self, key: str, offset: int, n_bytes: int) -> bytes:
        """See `Store`."""
        self._throttle.take(n_bytes)
        try:
            with self._errors(key):
                if n_bytes == 0:  # no range
                    size = self._head(key)["size"]
                    data, short = b"", size < offset
                else:
                    data = bytes(
                        obstore.get_range(
                            self._once, self._checked(key), start=offset, length=n_bytes
                        )
                    )
                    short = len(data) != n_bytes
        except FileNotFoundError:
            raise CorruptError("no such object in the store", file=self._full(key)) from None
        if short:
            raise self._too_short(key, offset + n_bytes)
        return data

    def put(self, key: str, path: Path) -> None:
        """See `Store`."""
        file = InputFile.of(path)
        data: Any = pieces(file, self._throttle)
        multipart = file.size > _PART
        try:
            with self._errors(key):
                obstore.put(
                    self._parts,
                    self._checked(key),
                    data if multipart else b"".join(data),
                    use_multipart=multipart,
                    chunk_size=max(_PART, -(-file.size // _MAX_PARTS)),
                    max_concurrency=_PARTS_AT_ONCE,
                )
        except FileNotFoundError:
            raise UnavailableError("the store lost the upload", file=self._full(key)) from None

    def swap(self, key: str, data: bytes, expected: str | None) -> bool:
        """See `Store`."""
        try:
            self._put_if(key, data, expected)
        except (AlreadyExistsError, PreconditionError, FileNotFoundError):
            return False
        with self._lock:
            if not self._conditions_hold:
                # What was just written is there, so this must be refused.
                with suppress(AlreadyExistsError, PreconditionError):
                    self._put_if(key, data, None)
                    raise self._no_conditions(key)
                self._conditions_hold = True
        return True

    def _put_if(self, key: str, data: bytes, expected: str | None) -> None:
        mode: Any = "create" if expected is None else {self._tag_field: expected}
        with self._errors(key):
            obstore.put(self._once, self._checked(key), data, mode=mode)

    def list(self, prefix: str) -> Iterator[Stored]:
        """See `Store`."""
        with self._errors(prefix):
            for chunk in obstore.list(self._once, prefix or None, chunk_size=1000):
                for found in chunk:
                    yield Stored(found["path"], found["size"], found["last_modified"].timestamp())

    def delete(self, key: str) -> None:
        """See `Store`."""
        with suppress(FileNotFoundError), self._errors(key):
            obstore.delete(self._once, self._checked(key))

    def leftovers(self) -> Iterator[Stored]:
        """See `Store`: none that obstore could list."""
        return iter(())

    def _head(self, key: str) -> Any:
        return obstore.head(self._once, self._checked(key))

    def _tag(self, key: str, meta: Any) -> str:
        tag = meta[self._tag_field]
        if tag is None:
            raise UnsupportedError("the store gives objects no tags", file=self._full(key))
        return str(tag)

    def _checked(self, key: str) -> str:
        return check_relative_name(key, file=self.name)

    def _full(self, key: str) -> str:
        return f"{self.name}/{key}"

    def _too_short(self, key: str, n_bytes: int) -> CorruptError:
        return CorruptError(
            "object is too short", file=self._full(key), expected=f"at least {n_bytes} bytes"
        )

    def _no_conditions(self, key: str) -> UnsupportedError:
        return UnsupportedError(
            "the store has no conditional writes (If-None-Match, If-Match)", file=self._full(key)
        )

    @contextmanager
    def _errors(self, key: str) -> Iterator[None]:
        """Errors of obstore as ours, but for lost races and missing objects."""
        try:
            yield
        except (AlreadyExistsError, PreconditionError):
            raise
        except (PermissionDeniedError, UnauthenticatedError) as e:
            raise self._denied(key, str(e)) from None
        except FileNotFoundError as e:
            if "<Code>NoSuchBucket<" in str(e):
                raise UsageError("no such bucket", file=self.name) from None
            raise
        except (BaseError, NotImplementedError, OSError, ValueError) as e:
            raise self._error(key, e) from None

    def _denied(self, key: str, text: str) -> UsageError:
        return UsageError(f"permission denied: {_reason(text)}", file=self._full(key))

    def _error(self, key: str, error: Exception) -> SparsediffError:
        text = str(error)
        file = self._full(key)
        if isinstance(error, ValueError):
            return UsageError("not a name for an object", file=file)
        if _METADATA.search(text):
            return UsageError("no credentials in the environment", file=self.name)
        status = _STATUS.search(text)
        code = _CODE.search(text)
        number = int(status[1]) if status else 0
        name = code[1] if code else ""
        if number == 501 or isinstance(error, NotImplementedError):
            return self._no_conditions(key)
        if number in (401, 403) or name in _CREDENTIAL_CODES:
            return self._denied(key, text)
        if number == 416:
            return CorruptError("object is too short", file=file)
        if "Received redirect" in text:
            return UsageError("the bucket is in another region (AWS_REGION)", file=self.name)
        if 400 <= number < 500 and number not in (408, 409, 429) and name not in _PASSING_CODES:
            return UsageError(f"the store refused: {_reason(text)}", file=file)
        return UnavailableError(
            f"the store is unavailable: {_reason(text)}{'' if number else self._meant}", file=file
        )


def _connect(
    scheme: str, bucket: str, prefix: str, retries: int
) -> S3Store | GCSStore | AzureStore:
    options: Any = {
        "connect_timeout": _CONNECT_TIMEOUT,
        "read_timeout": _SILENCE_TIMEOUT,
        "timeout": "1h",  # the default cuts off whoever is slow
    }
    arguments: Any = {
        "prefix": prefix or None,
        "client_options": options,
        "retry_config": {
            "max_retries": retries,
            "retry_timeout": timedelta(minutes=4),  # signatures live a little longer
            "backoff": {
                "init_backoff": timedelta(seconds=FIRST_DELAY),
                "max_backoff": timedelta(seconds=LONGEST_DELAY),
                "base": 3,  # with its jitter about as long as ours
            },
        },
    }
    if scheme == "gs":
        return GCSStore(bucket, **arguments)
    if scheme == "az":
        return AzureStore(bucket, **arguments)
    config: Any = {"disable_bulk_delete": True}  # one request, one object, everywhere
    _, endpoint = _endpoint()
    if endpoint is not None:
        config["endpoint"] = endpoint
        if endpoint.startswith("http://"):
            options["allow_http"] = True
    return S3Store(bucket, config=config, **arguments)


def _endpoint() -> tuple[str | None, str | None]:
    """The endpoint AWS's own tools would use, and after it the one obstore knows.

    Returns:
        The variable that says so, and its value.
    """
    for name in _ENDPOINTS:
        url = os.environ.get(name)
        if url:
            try:
                parts = urlsplit(url)
                good = parts.scheme in ("http", "https") and parts.hostname and "@" not in url
                _ = parts.port  # ValueError if it is none
            except ValueError:
                good = False
            if not good or not url.isprintable() or " " in url:  # obstore would panic
                raise UsageError(f"{name} is not an http(s):// address without credentials")
            return name, url
    return None, None


def _reason(text: str) -> str:
    """What obstore says went wrong, without addresses or the server's own words."""
    said, _, details = text.partition("\n\nDebug source:")
    status = _STATUS.search(said)
    if status:
        code = _CODE.search(said)
        return f"{status[1]}{status[2].rstrip()}" + (f" ({code[1]})" if code else "")
    cause = _CAUSE.search(details)
    if cause:
        return cause[1] or ("timed out" if cause[2] else cause[3])
    return re.sub(r"\S+://\S+", "…", said.splitlines()[0]).rpartition(" - ")[2]
