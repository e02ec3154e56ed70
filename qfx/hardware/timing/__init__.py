"""When every process takes its turns: the cycle model, the simulation of tokens, the depths of FIFOs."""
