"""Neurons of few inputs as truth tables, beside adder graphs: an experiment."""
