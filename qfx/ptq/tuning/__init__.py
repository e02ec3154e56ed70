"""Training a quantized model on unlabelled data to give what the float model gives.

``tune.py`` has the pass and its loop; below it ``loss.py`` (what is made small), ``variables.py`` (what moves, and how far), ``optimizer.py`` (Adam,
a step size for each element) and ``kept.py`` (which state is kept).
"""
