"""One hypothesis profile for all tests: repeatable, and without a deadline that torch's first call breaks."""

from hypothesis import settings

settings.register_profile("segmend", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("segmend")
