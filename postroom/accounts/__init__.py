"""Accounts and API keys: data.csv, authentication, and secrets at rest."""
