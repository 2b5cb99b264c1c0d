"""Keys: what is written, what is read, and that nothing secret is ever shown."""

from __future__ import annotations

import base64
import os
import select
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from sparsediff.errors import SparsediffError, UnavailableError, UntrustedError, UsageError
from sparsediff.signing import generate, private_key, public_key, signer, trust
from tests.conftest import Run
from tests.support.keys import Pair, new_key, outdated


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return new_key(tmp_path / "key")


def secrets_of(pair: Pair) -> list[str]:
    """The ways in which a private key could be printed."""
    raw = private_key(pair.key)._key.private_bytes_raw()
    body = pair.key.read_text().splitlines()[-2]
    return [raw.hex(), base64.b64encode(raw).decode()[:40], body, repr(raw)]


def test_key_is_for_its_owner_and_the_other_half_for_everybody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Run
) -> None:
    old = os.umask(0)
    try:
        code, out, err = cli("keygen", "-o", tmp_path / "key")
    finally:
        os.umask(old)
    assert (code, err) == (0, "")
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
    assert public_key(tmp_path / "key.pub").id in out
    assert private_key(tmp_path / "key").public == public_key(tmp_path / "key.pub")
    assert sorted(os.listdir(tmp_path)) == ["key", "key.pub"]


@pytest.mark.parametrize("there", ["key", "key.pub"])
def test_keys_that_are_there_are_never_replaced(there: str, tmp_path: Path, cli: Run) -> None:
    (tmp_path / there).write_text("mine")
    code, _, err = cli("keygen", "-o", tmp_path / "key")
    assert code == 2
    assert there in err
    assert (tmp_path / there).read_text() == "mine"
    assert os.listdir(tmp_path) == [there]


@pytest.mark.parametrize("time", ["0s", "0", "0.5s", "99999999999d", "9" * 400 + "d"])
def test_a_key_that_is_dead_or_never_dies_is_refused(time: str, tmp_path: Path, cli: Run) -> None:
    code, out, err = cli("keygen", "-o", tmp_path / "key", "--expires", time)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "a key would" in err
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_key_that_others_may_read_is_refused(mode: int, pair: Pair) -> None:
    pair.key.chmod(mode)
    with pytest.raises(UsageError, match="others may read") as caught:
        private_key(pair.key)
    assert f"{mode:04o}" in str(caught.value)


def test_openssl_reads_keys_and_checks_signatures(pair: Pair, tmp_path: Path) -> None:
    row = pair.signer.sign("patch", b"data")[0]
    (tmp_path / "signature").write_bytes(base64.b64decode(row["ed25519"]))
    digest = "3a6eb0790f39ac87c94f3856b2dd2c5d110e6811602261a9a923d3bb23adc8b7"
    (tmp_path / "message").write_text(f"sparsediff patch sha256 {digest}\n")
    command = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", str(pair.public), "-rawin"]
    command += ["-in", str(tmp_path / "message"), "-sigfile", str(tmp_path / "signature")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "Verified Successfully" in done.stdout, done.stderr


def test_keys_that_openssl_made_are_taken(tmp_path: Path) -> None:
    key, public = tmp_path / "key", tmp_path / "key.pub"
    command = ["openssl", "genpkey", "-algorithm", "ed25519", "-out", str(key)]
    subprocess.run(command, check=True, umask=0o77)
    subprocess.run(["openssl", "pkey", "-in", key, "-pubout", "-out", public], check=True)
    assert private_key(key).public == public_key(public)


def test_key_from_a_command(pair: Pair) -> None:
    assert private_key(f"command:cat '{pair.key}'").public == public_key(
        f"command:cat '{pair.public}'"
    )


def test_what_a_command_for_a_key_says_is_not_told(pair: Pair) -> None:
    for line in (f"cat '{pair.key}'; exit 3", f"cat '{pair.key}' | tr BEGIN XXXXX; #s3cret"):
        with pytest.raises(SparsediffError) as caught:
            private_key(f"command:{line}")
        shown = f"{caught.value!s} {caught.value!r} {caught.value.__cause__!r}"
        assert not any(s in shown for s in [*secrets_of(pair), "s3cret", "tr BEGIN"])
    with pytest.raises(UnavailableError, match="exit code 3"):
        private_key("command:exit 3")


def test_a_command_for_a_key_is_ended_once_it_prints_more_than_one() -> None:
    with pytest.raises(UsageError, match="printed more than a key"):
        private_key("command:yes")


def test_a_command_for_a_key_leaves_no_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sparsediff.signing.keys._PATIENCE", 1.0)
    alive, ended = tmp_path / "alive", tmp_path / "ended"
    os.mkfifo(ended)
    reader = os.open(ended, os.O_RDONLY | os.O_NONBLOCK)
    try:
        with pytest.raises(UnavailableError, match="did not end within 1 s"):
            private_key(f"command:(echo >{alive}; exec sleep 600 3>{ended}) & wait")
        assert alive.exists()
        os.set_blocking(reader, True)
        assert select.select([reader], [], [], 30)[0]  # whoever held the other end is gone
        assert os.read(reader, 1) == b""
    finally:
        os.close(reader)


BAD = {
    "nothing": b"",
    "no key": b"hello\n",
    "another kind": b"-----BEGIN PUBLIC KEY-----\nMDYwEAYHKoZIzj0CAQ==\n-----END PUBLIC KEY-----\n",
    "two keys": b"twice",
    "a line that says nothing": b"Expired: 2027-11-25T00:00:00Z\n",
    "no time": b"Expires: tomorrow\n",
    "two times": b"Expires: 2027-11-25T00:00:00Z\nExpires: 2028-11-25T00:00:00Z\n",
}


@pytest.mark.parametrize("what", BAD)
def test_what_is_no_key_is_refused(what: str, pair: Pair) -> None:
    good = pair.public.read_bytes()
    data = good * 2 if what == "two keys" else BAD[what]
    if what.endswith(("nothing", "time", "times")) and data:
        data += good
    pair.public.write_bytes(data)
    with pytest.raises(UsageError) as caught:
        public_key(pair.public)
    assert str(pair.public) in str(caught.value)


def test_halves_are_not_taken_for_each_other(pair: Pair) -> None:
    with pytest.raises(UsageError, match="stays with who signs") as caught:
        public_key(pair.key)
    assert not any(s in str(caught.value) for s in secrets_of(pair))
    with pytest.raises(UsageError, match="no private key"):
        private_key(f"command:cat '{pair.public}'")


def test_key_that_has_expired_signs_no_more(tmp_path: Path) -> None:
    pair = new_key(tmp_path / "key", expires=1.5e9)
    assert "Expires: 2017-07-14T02:40:00Z" in pair.public.read_text()
    with pytest.raises(UsageError, match="has expired"):
        signer([pair.key])


def test_no_keys_are_not_all_keys() -> None:
    assert trust(None) is None
    with pytest.raises(UsageError):
        trust([])
    with pytest.raises(UsageError):
        trust("key.pub")


def test_representations_hold_nothing_secret(pair: Pair) -> None:
    shown = f"{pair.signer!r} {private_key(pair.key)!r} {pair.signer.keys[0]!s}"
    assert not any(s in shown for s in secrets_of(pair))


def test_one_signature_that_is_trusted_is_enough(pair: Pair, tmp_path: Path) -> None:
    other, third = new_key(tmp_path / "other"), new_key(tmp_path / "third")
    both = signer([pair.key, other.key])
    assert both is not None
    rows: object = both.sign("patch", b"data")
    pair.trust.check("patch", b"data", rows, "p")
    other.trust.check("patch", b"data", rows, "p")
    for trusted, found in ((third, "one of"), (outdated(pair), "has expired")):
        with pytest.raises(UntrustedError, match=found):
            trusted.trust.check("patch", b"data", rows, "p")
    # Whoever has one key cannot speak for another.
    forged = [
        {"key": other.trust.keys[0].id, "ed25519": pair.signer.sign("patch", b"data")[0]["ed25519"]}
    ]
    with pytest.raises(UntrustedError, match="a wrong one"):
        other.trust.check("patch", b"data", forged, "p")


@pytest.mark.parametrize(
    "rows",
    [None, [], {}, 3, [3], [{}], [{"key": 1, "ed25519": "AA=="}], [{"key": "a", "ed25519": "é"}]],
)
def test_what_is_no_signature(rows: object, pair: Pair) -> None:
    with pytest.raises(UntrustedError):
        pair.trust.check("patch", b"data", rows, "p")


@pytest.mark.parametrize("kind", ["pointer", "patch sha256"])
def test_signature_of_one_kind_is_none_of_another(kind: str, pair: Pair) -> None:
    with pytest.raises(UntrustedError):
        pair.trust.check(kind, b"data", pair.signer.sign("patch", b"data"), "p")


def test_generate_leaves_nothing_if_it_fails(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        generate(tmp_path / "missing" / "key")
    assert os.listdir(tmp_path) == []


def test_what_is_no_private_key_is_not_told_to_be_kept_from_others(pair: Pair) -> None:
    pair.public.chmod(0o644)
    with pytest.raises(UsageError, match="holds no private key; KEY"):
        private_key(pair.public)


@pytest.mark.parametrize("read", [private_key, public_key])
def test_a_pipe_is_no_key_and_holds_nobody_up(
    read: Callable[[Path], object], tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(UsageError, match="no regular file"):
        read(tmp_path / "pipe")


def test_each_key_is_named_once(pair: Pair) -> None:
    with pytest.raises(UntrustedError) as caught:
        pair.signer.trusting(pair.trust).check("patch", b"data", None, "p")
    assert str(caught.value).count(pair.trust.keys[0].id) == 1


def test_a_key_that_is_given_twice_signs_once(pair: Pair) -> None:
    twice = signer([pair.key, pair.key])
    assert twice is not None
    assert len(twice.sign("patch", b"data")) == 1
