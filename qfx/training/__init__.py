"""What a plain training loop of a quantized model takes besides an optimizer: a teacher, parts that stay, parts that are not cast yet, and ladders
of word lengths."""
