"""What a design costs on a board before any synthesis."""
