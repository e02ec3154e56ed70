"""What a run tells: the analysis of a quantized model, and the HTML page."""
