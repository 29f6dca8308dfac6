"""The consultation: it asks before it advises, one question at a time, and ends with a report."""
