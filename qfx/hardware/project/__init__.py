"""Projects on disk: written, read, simulated in C, loaded with other constants."""
