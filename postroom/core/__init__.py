"""Values and pure decisions; imports no other package of Postroom."""
