"""What only tests use: a parser of the generated C++, the rules of both vendor tools, and the harness that counts turns over FIFOs that block."""
