"""Opens an installation and keeps its processes running."""
