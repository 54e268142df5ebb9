"""Scripts of the Makefile and of CI."""
