"""The built-in inbox: an SMTP server on loopback that keeps every message, and the reader of its folder."""
