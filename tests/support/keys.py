"""Keys for tests: who signs, and who trusts that."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sparsediff.signing import Signer, Trust, generate, signer, trust


@dataclass(frozen=True)
class Pair:
    """A key and the file of its other half."""

    key: Path
    public: Path

    @property
    def signer(self) -> Signer:
        found = signer([self.key])
        assert found is not None
        return found

    @property
    def trust(self) -> Trust:
        found = trust([self.public])
        assert found is not None
        return found


def new_key(path: Path, expires: float | None = None) -> Pair:
    """A new key at ``path``."""
    generate(path, expires=expires)
    return Pair(path, Path(f"{path}.pub"))


def outdated(pair: Pair) -> Pair:
    """The same key, which has expired, for who trusts it."""
    old = pair.public.with_name(f"expired-{pair.public.name}")
    old.write_text("Expires: 2020-01-01T00:00:00Z\n" + pair.public.read_text())
    return Pair(pair.key, old)
