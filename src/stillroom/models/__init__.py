"""The zoo of models, their weights, preprocess and cost."""
