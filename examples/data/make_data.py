"""Make this directory's data: one layer of a policy-gradient run, and its next four steps.

    python examples/data/make_data.py

Trains the model of `examples/rl` in one process, AdamW at learning rate 1e-6, for sixteen steps,
and keeps the third layer of the next five checkpoints: the first whole, the others as patches.
Needs the extra `examples`.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
LAYER = "model.layers.2."


def main() -> None:
    """Write the files next to this one."""
    from rl import policy, task
    from safetensors.torch import save_file
    from small_lm import Config

    from sparsediff import make_patch

    config = Config(width=384, layers=4, heads=6, inner=1024)
    model = task.starting_model(0, print, config=config, reading=150, warm=100)
    optimizer = policy.Optimizer(model, lr=1e-6)
    with tempfile.TemporaryDirectory() as scratch:
        last: Path | None = None
        for step in range(21):
            if step >= 16:
                layer = {n: t for n, t in model.state_dict().items() if n.startswith(LAYER)}
                path = Path(scratch, f"step_{step:03}.safetensors")
                save_file(layer, path, {"format": "pt"})
                if last is None:
                    (HERE / path.name).write_bytes(path.read_bytes())
                else:
                    make_patch(last, path, HERE / f"step_{step:03}.sdiff", force=True)
                last = path
            groups = policy.sample(model, (0, step, 0), 8, 8)
            optimizer.step(policy.loss(model, groups))
            print(f"step {step}: mean reward {float(groups.rewards.mean()):.3f}", flush=True)


if __name__ == "__main__":
    sys.path.insert(0, str(HERE.parent))
    main()
