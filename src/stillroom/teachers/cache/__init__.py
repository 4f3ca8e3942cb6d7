"""The teacher cache: what a teacher says of each view of each image, said once, kept on the disk, and shared."""
