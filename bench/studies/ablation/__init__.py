"""What each part of the objective is worth: the same small budgets, with the parts added one at a time."""
