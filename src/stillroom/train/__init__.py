"""One run: step, loop, checkpoint and resume, evaluation, device, run directory."""
