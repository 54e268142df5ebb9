"""The SMTP client: from a host's name to a server's reply to each recipient (RFC 5321)."""
