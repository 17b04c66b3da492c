"""Ways to start the workers of a search, and the process that watches over them."""
