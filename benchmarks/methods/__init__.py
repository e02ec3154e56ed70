"""The methods of the literature on real data: ``python -m benchmarks.methods NAME``, one file a method; docs/methods.md says what they are."""
