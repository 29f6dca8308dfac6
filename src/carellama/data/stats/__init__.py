"""`carellama data stats`: lengths, turns, languages and departments, as a table and a page."""
