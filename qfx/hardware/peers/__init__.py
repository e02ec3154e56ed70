"""Other generators of hardware, on qfx's models."""
