"""Images in, whole batches of uint8 pixels out: sources, order, seed-addressed augmentation."""
