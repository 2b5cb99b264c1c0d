"""The papers' tables, from runs of our own."""
