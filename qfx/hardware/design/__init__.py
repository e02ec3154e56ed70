"""What is built: ``Graph`` and ``Schedule`` -> ``Design``, processes joined by streams."""
