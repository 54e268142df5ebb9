"""Whose key a request has, which accounts there are, and how their secrets are kept."""
