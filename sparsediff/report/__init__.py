"""What a series of checkpoints shows, as a page and as figures for people to look at."""

from sparsediff.report.page import page, write_page
from sparsediff.report.plot import check_outputs, write_plot

__all__ = ["check_outputs", "page", "write_page", "write_plot"]
