"""What lies in the board's memory by choice: weights of layers (``offchip.py``, ``tilings.py``) and FIFOs (``spilling.py``)."""
