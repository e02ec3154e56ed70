"""JSON schemas of the files that people write, for editors: generated from the definitions that the readers have, and kept beside them as files."""
