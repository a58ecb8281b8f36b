"""Single questions, each with a command and a table of its own."""
