"""What is needed only while learning: data, losses, discriminators, trainer, checkpoints, report."""
