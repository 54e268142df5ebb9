"""Postroom: a self-hosted email-sending API for the mailboxes you already own."""

__version__ = "0.1.0"
