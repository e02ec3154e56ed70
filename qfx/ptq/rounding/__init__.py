"""Rounding weights better than to nearest.

One file a method: ``adaround.py``, ``comq.py`` and ``gptq.py`` layer by layer, ``adaround_blocks.py`` block by block (``blocks.py`` says what a block
is); ``methods.py`` has them by name. Below them lie the problem that all solve (``problem.py``), what measures it in a model (``measured.py``, with
layers as matrices in ``rows.py`` and their grids in ``grid.py``), and the way through the layers (``layers.py``).
"""
