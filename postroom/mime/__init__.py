"""A submission becomes the bytes of an Internet message (RFC 5322, RFC 2045 to 2047)."""
