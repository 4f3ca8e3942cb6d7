"""One training run: step, loop, checkpoint and resume, evaluation, device, run folder."""
