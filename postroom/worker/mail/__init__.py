"""Runs delivery jobs: one sender an account, its connections, and its circuit breaker."""
