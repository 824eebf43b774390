"""A shop's own two tables: what is in them, a recipe that fits them, and the way to recommendations."""
