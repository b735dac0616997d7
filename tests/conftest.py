"""One hypothesis profile for all tests: repeatable, and no deadline for torch to break."""

from hypothesis import settings

settings.register_profile("segmend", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("segmend")
