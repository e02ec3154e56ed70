"""Models of other tools whose integers are given, scales and all: graphs with the same integers."""
