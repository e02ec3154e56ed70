"""What a ``Quantizer`` is made of: word lengths that are learned, and how checkpoints tell a type."""
