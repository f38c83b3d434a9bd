"""A run's copy in a bucket or another folder: made beside the training, brought back and verified by `pull`."""
