"""HFPL: masks from image tags, by class activation maps with better regions and contours."""
