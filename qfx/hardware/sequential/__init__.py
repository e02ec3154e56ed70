"""Sequential designs: one layer engine that runs a network layer by layer, weights and values in memory."""
