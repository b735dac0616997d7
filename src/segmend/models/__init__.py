"""Small base segmenters, bundled weights, adapters from other libraries' outputs."""
