"""The ways in over HTTP: each a value, and all run by `web/doorway.py`."""
