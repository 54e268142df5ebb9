"""How fast Postroom is, beside the design it grew out of: `python -m bench`."""
