"""Makes the bytes of an Internet message from a submission (RFC 5322, RFC 2045 to 2047)."""
