"""Documents, and what writes the tables in them."""
