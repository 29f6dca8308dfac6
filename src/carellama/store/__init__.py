"""What is kept beyond a run: API keys and what was used of them. One database, a SQLite file or PostgreSQL."""
