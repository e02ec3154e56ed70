"""From a graph to a project for a board. Rooms: ``design`` (what is built), ``folding`` (how parallel), ``timing`` (when), ``cost`` (how much),
``emit`` (as text), ``project`` (on disk, on a board, simulated)."""
