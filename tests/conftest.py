"""What holds for all tests."""

from __future__ import annotations

import hypothesis

# How long an example takes says more of the machine's other guests than of us.
hypothesis.settings.register_profile("here", deadline=None)
hypothesis.settings.load_profile("here")
