"""Teacher outputs: computed live, read from a cache, or computed elsewhere."""
