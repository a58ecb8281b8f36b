"""The kernel benchmark: checked against float64, timed in turns, set against ceilings measured in the same run."""
