"""Values and pure decisions; imports nothing else of Postroom."""
