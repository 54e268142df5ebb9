"""HTTP: the server that granian calls, the doorways for requests to send, Flask for all other routes."""
