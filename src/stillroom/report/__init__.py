"""One self-contained page from run folders; imports no other package but schema."""
