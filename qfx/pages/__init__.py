"""Pages of HTML that tell of a model: one look, no torch, nothing from elsewhere."""
