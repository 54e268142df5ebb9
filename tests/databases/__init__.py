"""Databases as others run them: `make databases`."""

from pathlib import Path

NPM = Path(__file__).parent / "npm"
