"""Golden patches."""
