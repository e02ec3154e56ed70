"""Searches over recipes, word lengths and budgets (``qfx sweep``), by Optuna in a database that workers share."""
