"""CoLab: context labels that stop over-segmentation, learned through meta-gradients."""
