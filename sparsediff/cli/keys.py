"""Options for keys: who is trusted, and who signs.

Enters: paths of keys, or commands that print them; ``SPARSEDIFF_TRUST``. Leaves: keys in click's
context, from where `checked`, `signing` and `stores.opened_store` take them, so that a verb that
has the options cannot forget to hand them on. No key is in an argument, and nothing of one is
printed.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from sparsediff.errors import UntrustedError, UsageError

if TYPE_CHECKING:
    from sparsediff.patch.signed import Signed
    from sparsediff.signing import Signer, Trust

_VARIABLE = "SPARSEDIFF_TRUST"
_TRUST, _SIGN = "sparsediff.trust", "sparsediff.sign"
_ORIGINS = {_TRUST: f"--trust or {_VARIABLE}", _SIGN: "--sign"}


class _Key(click.ParamType[str]):
    """Where a key is; in an environment variable, one in each line."""

    name = "key"
    envvar_list_splitter = "\n"


def _kept(name: str, load: Callable[[Any], Any]) -> Callable[..., None]:
    """A callback that keeps what ``load`` makes of an option's values under ``name``."""

    def keep(ctx: click.Context, _: click.Parameter, values: tuple[str, ...]) -> None:
        if ctx.resilient_parsing:
            return
        named = [v.strip() for v in values if v.strip()]
        if not named and values:
            raise UsageError(f"{_ORIGINS[name]} is given without a key")
        if not named and name == _TRUST:
            _check_variable()  # which click takes for none if it is empty
        ctx.meta[name] = load(named) if named else None

    return keep


def _check_variable() -> None:
    """Raise UsageError if the variable is set and names no key: that is no way to trust all."""
    if _VARIABLE in os.environ:
        from sparsediff.signing import environment_keys

        environment_keys()


def check_nothing_trusted(what: str, file: str) -> None:
    """Raise UntrustedError if keys are trusted by the environment, for what cannot be signed."""
    _check_variable()
    if _VARIABLE in os.environ:
        raise UntrustedError(
            f"is not signed, and {what} cannot be; {_VARIABLE} is set, and takes nothing unsigned",
            file=file,
        )


def _trust(sources: list[str]) -> Trust | None:
    from sparsediff.signing import trust

    return trust(sources)


def _signer(sources: list[str]) -> Signer | None:
    from sparsediff.signing import signer

    return signer(sources)


trust_option = click.option(
    "--trust",
    multiple=True,
    type=_Key(),
    metavar="KEY.pub",
    envvar=_VARIABLE,
    expose_value=False,
    is_eager=True,  # before patches are looked at
    callback=_kept(_TRUST, _trust),
    help="Take nothing that is not signed by this key, or by another one given so: a file, or"
    " 'command:LINE' for what a command prints. Repeatable. [env: SPARSEDIFF_TRUST, one a line]",
)
sign_option = click.option(
    "--sign",
    multiple=True,
    type=_Key(),
    metavar="KEY",
    expose_value=False,
    is_eager=True,
    callback=_kept(_SIGN, _signer),
    help="Sign what is written with this key of keygen: a file, or 'command:LINE' for what a"
    " command prints. Repeatable, for the time when an old key and a new one are in use.",
)


def trusted() -> Trust | None:
    """Who the user trusts; None if nothing needs a signature."""
    found: Trust | None = click.get_current_context().meta.get(_TRUST)
    return found


def signing() -> Signer | None:
    """Who signs; None if nobody does."""
    found: Signer | None = click.get_current_context().meta.get(_SIGN)
    return found


def checked(path: str) -> str | Signed:
    """The path of a patch, which must be signed if there are keys that are trusted."""
    keys = trusted()
    if keys is None:
        return path
    from sparsediff.patch.signed import Signed

    return Signed(path, keys)
