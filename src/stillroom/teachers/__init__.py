"""What a teacher says of a batch, and how it says it."""
