"""``sparsediff sign``."""

from __future__ import annotations

import os

import click

from sparsediff.cli.common import examples, exit_codes, options, quiet_option, say
from sparsediff.cli.keys import checked, sign_option, signing, trust_option, trusted


@click.command(
    "sign",
    epilog=examples(
        "sparsediff sign 101.sdiff --sign trainer",
        "sparsediff sign s3://weights/grpo7 --sign trainer",
        "sparsediff sign s3://weights/grpo7 --trust old.pub --sign old --sign new",
    )
    + exit_codes(0, 2, 11, 12, 13, 14, 130),
)
@click.argument("what", metavar="PATCH|STORE")
@options(sign_option, trust_option, quiet_option)
def command(what: str, quiet: bool) -> None:
    """Sign what is there: a patch, in PATCH.sig, or the pointer of a store.

    Other signatures of it are replaced. For what was made without a key, and for a
    change of keys. Without --trust you vouch for what you find, so look at it first; with it,
    only what one of these keys has signed is signed again.
    """
    from sparsediff.errors import UsageError
    from sparsediff.patch.container import sign_patch
    from sparsediff.shipping.pointer import sign_store
    from sparsediff.stores import open_store

    signer = signing()
    if signer is None:
        raise click.UsageError("give --sign KEY")
    if "://" not in what and not os.path.exists(what):
        raise UsageError("no such patch or store", file=what)
    if os.path.isfile(what):
        done = str(sign_patch(checked(what), signer))
    else:
        store = open_store(what, trust=trusted())
        store.signer = signer  # which is not trusted: what is there may not be signed yet
        sign_store(store)
        done = what
    if not quiet:
        say(f"{done}: signed by {' and '.join(key.public.id for key in signer.keys)}")
