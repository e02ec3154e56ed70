"""Passes one after the other: ``qfx ptq``, resumable in between, and ``autoquant``.

``command.py`` is the command: what it is asked for (``request.py``, ``inputs.py``), what it tells (``told.py``) and writes (``written.py``).
``pipeline.py`` does the passes of ``passes.py`` by its settings (``settings.py``), and asks ``word_lengths.py`` if there is a budget; ``auto.py``
tries passes until a model is good enough, ``goal.py`` is that for the command. ``state.py`` has what an interrupted run leaves.
"""
