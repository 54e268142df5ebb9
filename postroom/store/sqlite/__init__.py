"""The engine for SQLite: the open database, its lock file and its copies; it names no table."""
