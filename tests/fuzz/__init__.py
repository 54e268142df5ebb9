"""Fuzzing: everything that reads foreign bytes, for as long as one likes (`make fuzz`)."""
