"""A benchmark's report: its records, its tables, and how they are written and compared."""
