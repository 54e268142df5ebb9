"""Sends the jobs of accounts: for each account a sender, its SMTP sessions, and a circuit breaker."""
