"""Training in several processes: what they agree on (``ranks.py``), and the door that makes them agree (``synchronize.py``)."""
