"""The queue and all that is stored: the only SQL, and the only database drivers."""
