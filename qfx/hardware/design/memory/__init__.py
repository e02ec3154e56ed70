"""What is built where a layer's weights, or a value, lie in the board's memory."""
