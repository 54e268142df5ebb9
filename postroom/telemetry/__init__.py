"""What the service says about itself: the log of the service, repeated lines, incidents."""
