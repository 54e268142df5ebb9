"""The service's own log: the format of its lines, repeated lines, finished messages, incidents."""
