"""``make docs``: the pages of docs/ and those that are made from the definitions, as one site."""
