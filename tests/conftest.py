"""Settings that all tests share."""

from hypothesis import settings

# A loaded machine is no failure of the code under test.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")
