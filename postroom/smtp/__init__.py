"""The SMTP client (RFC 5321): look-up, connection, TLS, log-in, message, and the server's reply to each recipient."""
