"""From where the gap between student and teacher is seen, and how exactly it is weighed."""
