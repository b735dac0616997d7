"""Training, prediction and cross-fitting of base models; checkpoints, seeds, progress."""
