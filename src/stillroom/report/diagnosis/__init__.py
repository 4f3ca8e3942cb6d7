"""The page of a diagnosis, from ``diagnosis.json``."""
