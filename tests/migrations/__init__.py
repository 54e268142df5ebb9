"""Migrations, and databases that are not what they should be."""
