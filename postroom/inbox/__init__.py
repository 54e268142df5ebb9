"""The built-in inbox: a real SMTP server on loopback that keeps what it gets, and its reader."""
