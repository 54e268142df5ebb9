"""The store: one suite for every engine."""
