"""After training: passes that make a fixed-point model as good as the arithmetic allows, without labels."""
