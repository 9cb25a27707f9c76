"""Reports with articles that a language model sums up: the database and slow calls, together."""
