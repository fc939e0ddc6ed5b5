"""Models behind one small protocol: a claim goes in, the model's own words and token counts come out."""

from sluice.backends.protocol import Backend, ModelError

__all__ = ["Backend", "ModelError"]
