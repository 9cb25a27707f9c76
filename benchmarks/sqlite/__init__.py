"""fastdb on SQLite against the other ways to serve from it, under load."""
