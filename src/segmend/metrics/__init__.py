"""Streaming metrics (torchmetrics) over pure counting functions, and paired intervals."""
