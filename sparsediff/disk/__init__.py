"""Where the disk is touched: pinned reads, outputs that appear whole, locks, safe names."""
