"""The page of an explanation, from ``explain.json`` and ``explain-maps.npz``."""
