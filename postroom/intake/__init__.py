"""The way in: what is checked before a message is accepted, and its acceptance."""
