"""The HTTP doorways (ways in), each a value that `web/doorway.py` runs."""
