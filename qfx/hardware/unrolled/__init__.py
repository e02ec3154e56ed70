"""Fully unrolled designs: the whole network one pipelined function of scalar operations."""
