"""A trainer, a store and two rollouts tune a language model, kept in step by patches.

    pip install -e '.[examples]' && python examples/rl

A small model is trained here on the sources of Python's library, shown a toy task, and then
tuned with group-normalised policy gradients by three processes. Everything is done twice, with
patches and with whole weights, and compared bit for bit. `--short` takes a minute. Needs
PyTorch and safetensors.
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from rl.run import main

    main()
