"""The doctor: examines an account (server, log-in, limits, SPF, DKIM, DMARC); its findings are values with fixes."""
