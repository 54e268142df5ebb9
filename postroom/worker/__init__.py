"""The worker: claims jobs, sends their messages, and does the installation's chores."""
