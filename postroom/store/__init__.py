"""The database: the only SQL and the only database drivers. One module and one file of statements for each noun."""
