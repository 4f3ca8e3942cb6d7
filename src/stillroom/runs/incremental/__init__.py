"""Classes that come in tasks: a sequence of ordinary runs, a folder each, and what they come to together."""
