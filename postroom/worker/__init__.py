"""The worker: claims jobs, runs them, and does the chores of the installation."""
