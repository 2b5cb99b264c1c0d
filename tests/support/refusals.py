"""What a refusal on the command line must look like."""

from __future__ import annotations

EXIT = {"usage": 2, "base": 10, "corrupt": 11, "unsupported": 12, "unavailable": 13, "locked": 14}


def refused(result: tuple[int, str, str], code: int, *words: str) -> None:
    """One line on stderr that holds all ``words``, nothing on stdout."""
    found, out, err = result
    assert (found, out) == (code, ""), err
    assert err.count("\n") == 1, err
    assert err.startswith("sparsediff: ")
    for word in words:
        assert word in err
