"""Charts, pages and pictures that show results."""
