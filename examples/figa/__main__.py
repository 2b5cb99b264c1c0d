"""FIGA, "Beyond Imitation": tune a small model on what was revised in its answers.

    pip install -e '.[examples]' && python examples/figa

The model of `examples/rl` answers; its wrong answers are revised by rule; tokens that were
added, substituted or deleted are weighted as the paper does, and the model is tuned five ways:
FIGA, FIGA with the published code's additions, two of the paper's ablations, and plain
supervised tuning. Needs PyTorch, safetensors and rapidfuzz. `--short` only shows that it runs.
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from figa.run import main

    main()
