"""``qfx watch``: long work while it goes on. ``log.py`` writes, and everything else reads; no torch."""
