"""Models behind one small protocol: a claim goes in, the model's own words and token counts come out."""
