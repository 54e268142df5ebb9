"""The embedded engine: what SQLite needs, and no table by name."""
