"""The real and the scripted servers that tests start themselves: free ports, temporary folders, no globals."""
