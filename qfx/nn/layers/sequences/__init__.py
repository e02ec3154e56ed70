"""Layers on sequences: a graph of layers for each step, with states that go from one step to the next (``loop``), and the recurrent cells (``cells``,
``recurrent``)."""
