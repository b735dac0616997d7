"""PatchRefineNet: refining probability maps after training."""
