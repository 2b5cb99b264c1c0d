"""The examples for cron and systemd run as they stand, but for paths and the store's URL."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sparsediff.stores import open_store
from tests.support.pairs import tree
from tests.support.runs import Trainer, catalog_of, settle

EXAMPLES = Path(__file__).parents[2] / "examples"
UNITS = ("sparsediff-ship", "sparsediff-pull")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """What the examples expect of a machine, below a directory, and programs that they call."""
    for directory in ("runs", "models", "store", "var/lib/node_exporter", "opt/sparsediff/bin"):
        (tmp_path / directory).mkdir(parents=True)
    programs = {
        "sparsediff": f'exec {sys.executable} -m sparsediff "$@"',
        "curl": f'echo "$SPARSEDIFF_NAME" "$@" >> {tmp_path}/curl.log',
    }
    for name, script in programs.items():
        program = tmp_path / "opt/sparsediff/bin" / name
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
    trainer = Trainer(tmp_path / "runs/grpo7")
    for path in trainer.save_steps(1, 2):
        (path / "DONE").touch()
        settle(path)
    trainer.save_steps(3)  # no marker: not complete
    return tmp_path


def here(text: str, place: Path) -> str:
    """Text with paths below ``place``, and a directory for a store."""
    text = text.replace("s3://weights/grpo7", f"{place}/store")
    return re.sub(r"(?<![\w/])/(runs|models|var|opt)\b", rf"{place}/\1", text)


def run(command: str, place: Path, path: str) -> subprocess.CompletedProcess[str]:
    """Run a command as cron would: /bin/sh, next to no environment, another directory."""
    environment = {"PATH": path, "HOME": "/"}
    environment |= {k: v for k, v in os.environ.items() if k == "PYTHONPATH"}
    return subprocess.run(
        ["/bin/sh", "-c", command],
        cwd=Path(__file__).parents[2],
        env=environment,
        capture_output=True,
        text=True,
    )


def assert_shipped_and_pulled(place: Path) -> None:
    catalog = catalog_of(open_store(str(place / "store")))
    assert [v.name for v in catalog.versions] == ["step_000001", "step_000002"]
    assert tree(place / "models/grpo7/current") == tree(place / "runs/grpo7/step_000002")
    told = (place / "curl.log").read_text()
    assert told.startswith("step_000002 ")
    assert told.count("\n") == 1
    for verb in ("ship", "pull"):
        metrics = (place / f"var/lib/node_exporter/sparsediff-{verb}.prom").read_text()
        assert f"sparsediff_{verb}_version{{" in metrics


def test_crontab(place: Path) -> None:
    settings: dict[str, str] = {}
    commands = []
    for line in here((EXAMPLES / "crontab").read_text(), place).splitlines():
        if re.match(r"#|\s*$", line):
            continue
        if setting := re.fullmatch(r"(\w+)=(.*)", line):
            settings[setting[1]] = setting[2]
            continue
        entry = re.fullmatch(r"((?:[\d*]+\s+){5})(\S.*)", line)
        assert entry is not None, line
        assert "%" not in entry[2]  # which cron takes for the end of the line
        commands.append(entry[2])
    assert [c.split()[1] for c in commands] == ["ship", "prune", "check", "pull"]
    for command in [*commands, *commands]:
        done = run(command, place, settings["PATH"])
        # Nothing to mail.
        assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), command
    assert_shipped_and_pulled(place)


def test_crontab_mails_what_matters(place: Path) -> None:
    text = here((EXAMPLES / "crontab").read_text(), place)
    (line,) = [line for line in text.splitlines() if " pull " in line]
    path = f"{place}/opt/sparsediff/bin:/usr/bin:/bin"
    done = run(line[line.index("sparsediff") :], place, path)
    assert (done.returncode, done.stdout) == (13, "")
    assert done.stderr == f"sparsediff: {place}/store: nothing has been shipped here yet\n"


def test_services(place: Path) -> None:
    for unit in UNITS:
        text = here((EXAMPLES / f"{unit}.service").read_text(), place)
        (command,) = re.findall(r"^ExecStart=(.*)$", text, re.MULTILINE)
        assert not set("%$\\") & set(command)  # systemd would expand these
        arguments = shlex.split(command)
        done = run(shlex.join(arguments), place, f"{place}/opt/sparsediff/bin:/usr/bin:/bin")
        assert done.returncode == 0, done.stderr
        for directory in ("runs", "var/lib/node_exporter") if "ship" in unit else ("models",):
            assert re.search(rf"^ReadWritePaths=.*{place}/{directory}", text, re.MULTILINE)
    assert_shipped_and_pulled(place)


def test_units_are_valid(place: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd here")
    units = place / "units"
    units.mkdir()
    for name in UNITS:
        service = here((EXAMPLES / f"{name}.service").read_text(), place)
        (units / f"{name}.service").write_text(
            re.sub(r"^User=.*", "User=root", service, flags=re.M)
        )
        shutil.copy(EXAMPLES / f"{name}.timer", units)
    verified = subprocess.run(
        ["systemd-analyze", "verify", *sorted(map(str, units.iterdir()))],
        capture_output=True,
        text=True,
    )
    # Of other units of this machine it complains as well.
    ours = [line for line in verified.stderr.splitlines() if "sparsediff" in line]
    assert ours == []
    text = (units / "sparsediff-ship.service").read_text()
    (units / "sparsediff-ship.service").write_text(text.replace("oneshot", "twoshot"))
    refused = subprocess.run(
        ["systemd-analyze", "verify", str(units / "sparsediff-ship.service")],
        capture_output=True,
        text=True,
    )
    assert "twoshot" in refused.stderr  # so silence means something
