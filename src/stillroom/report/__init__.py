"""One self-contained page from run folders; imports no other room."""
