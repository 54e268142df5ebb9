"""The engine for many machines: what PostgreSQL needs, and no table by name."""
