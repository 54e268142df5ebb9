"""What servers say when they refuse, as rows of data, by subject; `reply_table.py` puts them in order."""
