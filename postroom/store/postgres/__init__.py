"""The engine for PostgreSQL: sessions, pipelines, commits and errors; it names no table."""
