"""The tables of two papers, from runs of our own: print them, or write `docs/results.md`.

    pip install -e '.[examples,report]' && python examples/results --write docs/results.md

Trains the models of `examples/rl` and `examples/figa` several times, in one process and on real
text, looks at what changed from step to step, and takes the time of synchronising 300 MB over a
throttled link. That takes minutes; `--short` takes fewer and shows only that it runs.
`--place results` keeps all checkpoints, stores and reports, for the commands beside the tables,
and a second call with it trains nothing again.
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from results.run import main

    main()
