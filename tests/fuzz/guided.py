"""One target under atheris: ``python -m tests.fuzz.guided TARGET`` and options of libFuzzer.

Coverage is that of the package's Python; the C of the kernels has `run.sh`.
"""

from __future__ import annotations

import sys

import atheris


def main() -> None:
    """Run until libFuzzer ends, which ends the process."""
    name = sys.argv.pop(1)
    # Only what is imported here is seen; readers are imported by what first needs them.
    with atheris.instrument_imports(include=["sparsediff"]):
        from tests.fuzz.targets import TARGETS, seeds
        from tests.fuzz.watch import accepts

        target = TARGETS[name]
        for data in seeds(name):
            accepts(target.read, data, target.refusals)
    change = target.mutate

    def one(data: bytes) -> None:
        accepts(target.read, data, target.refusals)

    def mutated(data: bytes, most: int, seed: int) -> bytes:
        assert change is not None
        return change(data, seed)[:most]

    more = {} if change is None else {"custom_mutator": mutated}
    atheris.Setup(sys.argv, one, **more)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
