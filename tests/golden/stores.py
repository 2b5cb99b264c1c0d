"""Write the golden store of the newest layout, if it is not there: existing ones are never touched.

python -m tests.golden.stores

That of layout 1 was written by a release that knew no other.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from pathlib import Path

from sparsediff.shipping import sealing
from sparsediff.shipping.catalog import LAYOUT
from sparsediff.shipping.policy import Policy
from sparsediff.shipping.prune import prune
from sparsediff.shipping.ship import ship
from sparsediff.stores import open_store
from tests.support.parted import publish_in_parts
from tests.support.runs import Trainer, catalog_of, digest_of

HERE = Path(__file__).parent / "stores"


def main() -> None:
    """Ship a small run, with pages of few versions, two versions in parts, and some dropped."""
    place = HERE / f"layout-{LAYOUT}"
    if place.exists():
        return
    sealing.FAN = 2
    store = open_store(str(place / "store"), create=True)
    with tempfile.TemporaryDirectory() as scratch:
        trainer = Trainer(Path(scratch, "run"), n=60)
        saved = trainer.save_steps(*range(1, 12))
        publish_in_parts(store, [None], saved[0], _new(scratch, "1"))
        for i in (1, 2):
            publish_in_parts(store, [saved[i - 1]], saved[i], _new(scratch, f"{i + 1}"))
        ship(trainer.run, store, Policy(anchor_every=3, squash_every=2), adopt=True)
        prune(store, now=time.time(), keep=8)
        trainer.save_steps(12)
        publish_in_parts(store, [saved[-1], None], trainer.run / "step_000012", _new(scratch, "l"))
        kept = {v.name for v in catalog_of(store).versions}
        digests = {p.name: digest_of(p) for p in sorted(trainer.run.iterdir()) if p.name in kept}
    (place / "digests.json").write_text(json.dumps(digests, indent=1) + "\n")
    (place / "store" / ".lock.sparsediff-tmp").unlink()
    print(f"wrote {place}")


def _new(scratch: str, name: str) -> Path:
    path = Path(scratch, name)
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    return path


if __name__ == "__main__":
    main()
