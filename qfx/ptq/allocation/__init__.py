"""Word lengths: how much each quantizer matters, and which widths a budget or a goal allows."""
