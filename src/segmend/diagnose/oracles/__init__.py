"""Oracles: what one image's counts would be if just one kind of error were mended."""
