"""Values at other places than the pixels': interpolation between them, and windows of several lengths."""
