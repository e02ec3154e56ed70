"""Training loops of other packages, and plain ones, as drivers of what qfx does in the course of a training: ``Course`` over ``events``, and a
callback for each package, which imports it when it is asked for."""
