"""A whole installation against mail servers of other people."""
