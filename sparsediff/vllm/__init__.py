"""vLLM: a server that follows a store and changes its weights under a short pause.

Enters: vLLM's plug-in mechanism, which imports this package in every process of an
engine. Leaves: methods of its workers, a weight-transfer backend called ``sparsediff``
and an endpoint that follows. Only `register` and `Endpoint` are for vLLM to call; nothing
else in the package imports vLLM or this.
"""

from __future__ import annotations

import contextlib
import logging
from typing import Any

TESTED = ("0.32.0",)
"""Versions of vLLM that this was tested with."""

_log = logging.getLogger("vllm.sparsediff")


def register() -> None:
    """Entry point of ``vllm.general_plugins``: called once in every process of vLLM.

    What does not fit the vLLM at hand is left out with a line in its log.
    """
    try:
        import vllm

        if vllm.__version__ not in TESTED:
            _log.warning(
                "sparsediff was tested with vLLM %s, and this is %s: it tries, and proves what "
                "it writes, but may find its plug-in points changed",
                ", ".join(TESTED),
                vllm.__version__,
            )
        from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory

        from sparsediff.vllm import worker

        worker.install()
        with contextlib.suppress(ValueError):  # registered already, in this process
            WeightTransferEngineFactory.register_engine(
                "sparsediff", "sparsediff.vllm.backend", "Backend"
            )
    except Exception as e:  # never keep an engine from starting
        _log.warning("sparsediff is off: %s: %s", type(e).__name__, e)


def Endpoint() -> Any:  # noqa: N802 - vLLM calls a class or what stands for one
    """Entry point of ``vllm.endpoint_plugins``: the follower of a server, and GET /sparsediff."""
    from sparsediff.vllm.endpoint import Endpoint as Following

    return Following()
