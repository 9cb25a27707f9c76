"""SQLite made to serve: its connections, its transactions, its one write lock, its memory."""
