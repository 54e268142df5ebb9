"""The command line: parse arguments, call one function, print. Data on stdout, messages on stderr."""
