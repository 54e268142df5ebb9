"""Metrics for Prometheus: totals from the database, and what each process measures; any process answers for its host."""
