"""OCR: out-of-candidate rectification, so that no pixel wears a class its image does not have."""
