"""What a server is told about following, in vLLM's ``--additional-config``.

Enters: the JSON object under ``sparsediff`` there. Leaves: validated settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from sparsediff.errors import UsageError
from sparsediff.shipping.acks import Acknowledger
from sparsediff.signing import environment_keys

KEY = "sparsediff"

_CHOICES = {"pause": ("keep", "wait", "abort"), "fallback": ("reload", "refuse")}


@dataclass(frozen=True, slots=True)
class Settings:
    """How a server follows.

    Attributes:
        store: path or URL, as for ``pull``.
        directory: where ``pull`` puts versions; the server is started from one of them.
        every: seconds between two looks at the store.
        keep: versions to keep in the directory.
        pause: what becomes of running requests: ``keep`` freezes them, and they go on with
            the new weights; ``wait`` lets them end first; ``abort`` ends them.
        fallback: what to do where there is no route for something that changes: ``reload`` the
            version whole, or ``refuse`` it and stay.
        ack: name under which the store is told what is served; None: it is not told.
        trust: keys of which one must have signed the store, as `signing.public_key` takes them;
            None: it need not be signed.
        max_bytes: most bytes of a version, as for ``pull``; None: any.
    """

    store: str
    directory: Path
    every: float = 1.0
    keep: int = 3
    pause: str = "keep"
    fallback: str = "reload"
    ack: str | None = None
    trust: tuple[str, ...] | None = None
    max_bytes: int | None = None


def parse(additional: object) -> Settings | None:
    """The settings in vLLM's additional configuration; None if there are none.

    Raises:
        UsageError: they are no such settings.
    """
    found = additional.get(KEY) if isinstance(additional, Mapping) else None
    if found is None:
        return None
    return _settings(found)


def _settings(found: Any) -> Settings:
    known = {f.name for f in fields(Settings)}
    if not isinstance(found, Mapping) or not {"store", "directory"} <= found.keys() <= known:
        raise UsageError(
            "the setting `sparsediff` is not understood",
            expected=f"an object with store and directory, and perhaps {sorted(known)[:]}",
            found=found,
        )
    values: dict[str, Any] = dict(found)
    for name, choices in _CHOICES.items():
        if values.setdefault(name, choices[0]) not in choices:
            raise UsageError(
                f"the setting `{name}` is not understood",
                expected=" or ".join(choices),
                found=values[name],
            )
    try:
        values["every"] = float(values.get("every", 1.0))
        values["keep"] = int(values.get("keep", 3))
    except (TypeError, ValueError) as e:
        raise UsageError("`every` and `keep` must be numbers", found=found) from e
    if values.get("ack") is not None:
        Acknowledger(values["ack"])  # refuses what is no name
    if not isinstance(values["store"], str) or not isinstance(values["directory"], str):
        raise UsageError("`store` and `directory` must be text", found=found)
    values["trust"] = trusted_keys(values.get("trust"))
    most = values.get("max_bytes")
    if most is not None and (type(most) is not int or most < 1):
        raise UsageError("`max_bytes` must be a number of bytes", found=most)
    if values["every"] <= 0 or values["keep"] < 2:
        raise UsageError("`every` must be above 0 and `keep` above 1", found=found)
    return Settings(**values | {"directory": Path(values["directory"]).absolute()})


def trusted_keys(found: object) -> tuple[str, ...] | None:
    """The setting `trust`, a list of keys, or those of ``SPARSEDIFF_TRUST`` without one.

    Raises:
        UsageError: it is something else; an empty list too, which might be meant to trust nobody.
    """
    if found is None:
        found = environment_keys()
    if found is None:
        return None
    if not isinstance(found, (list, tuple)) or not found:
        raise UsageError("`trust` must be a list of keys", found=found)
    if not all(isinstance(key, str) for key in found):
        raise UsageError("`trust` must be a list of keys", found=found)
    return tuple(found)
