"""Sums, means and extremes over any axes but the batch."""
