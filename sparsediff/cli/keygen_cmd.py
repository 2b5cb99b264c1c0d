"""``sparsediff keygen``."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime

import click

from sparsediff.cli.common import (
    Duration,
    examples,
    exit_codes,
    json_option,
    options,
    print_json,
    quiet_option,
    say,
)
from sparsediff.errors import UsageError


@click.command(
    "keygen",
    epilog=examples(
        "sparsediff keygen -o trainer",
        "sparsediff keygen -o trainer-2027 --expires 365d",
        "sparsediff ship /runs/grpo7/ s3://weights/grpo7 --sign trainer",
        "sparsediff pull s3://weights/grpo7 /models/grpo7 --trust trainer.pub",
    )
    + exit_codes(0, 2, 13, 14, 130),
)
@options(
    click.option(
        "-o",
        "--output",
        metavar="KEY",
        required=True,
        help="Where to write the key that signs; KEY.pub gets the one to give to all who check.",
    ),
    click.option(
        "--expires",
        type=Duration(),
        metavar="TIME",
        help="Signatures of this key count no more after this time, as 365d. [default: never]",
    ),
    quiet_option,
    json_option,
)
def command(output: str, expires: float | None, quiet: bool, as_json: bool) -> None:
    """Make a key: KEY, which signs, and KEY.pub, which others trust.

    KEY is for its owner only (mode 0600), has no passphrase and is PEM, as OpenSSL takes it.
    Whoever has it can publish what your machines load: keep it where only the trainer can
    read it, or in a vault ('command:LINE' where an option takes a key). No key is replaced;
    where KEY lies without KEY.pub, as a run leaves it that is cut off, KEY stays and gets it.
    """
    from sparsediff.signing import generate

    if expires is not None and expires < 1:
        raise UsageError("a key would be dead from the start", expected="--expires 1s or more")
    was_there = os.path.lexists(output)
    key = generate(output, expires=None if expires is None else time.time() + expires)
    until = None if key.expires is None else datetime.fromtimestamp(key.expires, UTC).isoformat()
    if as_json:
        print_json({"key": output, "public": f"{output}.pub", "id": key.id, "expires": until})
    elif not quiet:
        lasts = "" if until is None else f", expires {until}"
        signs = "was there and stays" if was_there else "signs"
        say(f"{output} {signs}, {output}.pub is for who checks: key {key.id}{lasts}")
