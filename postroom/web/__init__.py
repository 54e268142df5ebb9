"""HTTP: granian in front, one fast way for requests to send, Flask for the rest."""
