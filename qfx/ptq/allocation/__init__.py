"""How long words are.

``sensitivity.py`` asks what the model loses if one quantizer alone works at a word length, and makes a table of it (``table.py``): ``sites.py`` says
where quantizers stand, ``variation.py`` how one is varied, ``by_output.py`` and ``by_gradient.py`` have the measures. ``search.py`` chooses words for
a budget by that table (``front.py``: the budget and the Pareto front; ``hardware.py``: designs that fit a board).
"""
