"""What the admins are told: the kinds of notices, when each is due, and its words. Pure."""
