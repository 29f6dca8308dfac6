"""`carellama data check`: every problem of a file, with its lines."""
