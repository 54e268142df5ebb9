"""Databases as others run them: `make databases` has all of it, `make test` a sample."""

from pathlib import Path

NPM = Path(__file__).parent / "npm"
VERSIONS_OF_SOAK = (13, 14, 15, 16, 17, 18)
VERSIONS_OF_TEST = (13, 18)
