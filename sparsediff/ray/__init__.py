"""The verbs on a cluster of Ray: tasks on its nodes do the work, and this process joins it."""

from sparsediff.ray.applying import apply
from sparsediff.ray.making import make
from sparsediff.ray.shipping import ship

__all__ = ["apply", "make", "ship"]
