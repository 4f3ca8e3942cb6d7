"""Images in, whole batches out: sources, order, seed-addressed augmentation."""
