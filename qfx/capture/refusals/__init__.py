"""All that stands in the way of a model, and what to do about it."""
