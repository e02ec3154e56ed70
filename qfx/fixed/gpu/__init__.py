"""Cast on a GPU, in Triton: ``launch.py`` says which casts, ``kernels.py`` computes them."""
