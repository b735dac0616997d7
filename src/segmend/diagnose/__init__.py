"""What is systematically wrong with a model's masks, and what mending each error would gain."""
