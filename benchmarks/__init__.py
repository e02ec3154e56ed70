"""How fast qfx is: see README.md in this folder."""
