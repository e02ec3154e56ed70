"""qfx's fixed-point arithmetic on numpy arrays: copies of the modules of the same names."""
